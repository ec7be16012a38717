"""What a task costs in round trips to MongoDB, from its submit to its end. Doorbells go elsewhere."""

import pytest

from tasks import services
from tasks.execution import run_next
from tasks.models import Status, Task
from tests.factories import make_robot
from tests.probes import bell_box, listening

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def bells():
    with bell_box() as taken:
        yield taken


def test_a_task_costs_six_round_trips():
    robot = make_robot()
    with listening() as commands:
        task = services.submit(robot, by="test", handler="noop")
        run_next(robot.name, "message")
    assert commands.sent == [
        "insert tasks_task",  # the submit
        "aggregate robots_robot",  # in service? how many lanes?
        "aggregate tasks_task",  # which lanes are taken?
        "findAndModify tasks_task",  # the claim
        "update tasks_task",  # the end
        "aggregate tasks_task",  # has the robot more to do?
    ], "\n".join(commands.sent)
    assert Task.objects.get(pk=task.pk).status == Status.SUCCESS


def test_a_doorbell_without_work_costs_three():
    robot = make_robot()
    with listening() as commands:
        run_next(robot.name, "message")
    assert len(commands.sent) == 3, "\n".join(commands.sent)


def test_a_doorbell_at_a_busy_robot_costs_two():
    robot = make_robot()
    services.submit(robot, by="test", handler="noop")
    Task.objects.create(
        robot=robot.name, handler="noop", timeout=1, requested_by="t", status="STARTED", lane=f"{robot.name}/0"
    )
    with listening() as commands:
        run_next(robot.name, "message")
    assert len(commands.sent) == 2, "\n".join(commands.sent)
    assert Task.objects.queued().count() == 1


def test_each_report_of_progress_costs_at_most_one_a_second():
    robot = make_robot()
    task = services.submit(robot, by="test", handler="wait", params={"seconds": 0.5, "steps": 100})
    with listening() as commands:
        run_next(robot.name, "message")
    assert Task.objects.get(pk=task.pk).status == Status.SUCCESS
    assert len(commands.sent) == 5, "\n".join(commands.sent)
