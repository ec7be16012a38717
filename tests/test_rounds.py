"""What a task costs in round trips to MongoDB, from its submit to its end. Doorbells go elsewhere."""

import pytest

from tasks import services
from tasks.execution import run_next
from tasks.models import Status, Task
from tests.factories import make_robot, make_task
from tests.probes import bell_box, claim, listening

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def bells():
    with bell_box() as taken:
        yield taken


SUBMIT = ["insert tasks_task"]
LOOK = ["find robots_robot"]  # in service? how many lanes?
LANES = ["aggregate tasks_task"]  # which are taken?
CLAIM = ["findAndModify tasks_task"]
END = ["update tasks_task"]
MORE = ["find tasks_task"]  # has the robot more to do?


def test_a_task_costs_five_round_trips():
    robot = make_robot()
    with listening() as commands:
        task = services.submit(robot, by="test", handler="noop")
        run_next(robot.name, "message")
    assert commands.sent == SUBMIT + LOOK + CLAIM + END + MORE, "\n".join(commands.sent)
    assert Task.objects.get(pk=task.pk).status == Status.SUCCESS


def test_it_costs_six_when_the_robot_has_or_may_have_had_more_lanes():
    for robot in (make_robot(lanes=2), services.change_robot(make_robot().name, by="test", location="Elsewhere")):
        with listening() as commands:
            services.submit(robot, by="test", handler="noop")
            run_next(robot.name, "message")
        assert commands.sent == SUBMIT + LOOK + LANES + CLAIM + END + MORE, "\n".join(commands.sent)


def test_a_doorbell_in_vain_costs_two():
    robot, busy = make_robot(), make_robot()
    assert claim(make_task(robot=busy).robot)
    make_task(robot=busy)
    for name in (robot.name, busy.name):
        with listening() as commands:
            run_next(name, "message")
        assert commands.sent == LOOK + CLAIM, "\n".join(commands.sent)


def test_progress_is_written_at_most_once_a_second():
    robot = make_robot()
    services.submit(robot, by="test", handler="wait", params={"seconds": 0.5, "steps": 100})
    with listening() as commands:
        run_next(robot.name, "message")
    assert commands.sent == LOOK + CLAIM + END + MORE, "\n".join(commands.sent)
