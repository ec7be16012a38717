"""What a task costs in round trips to MongoDB, from its submit to its end. Doorbells go elsewhere."""

import pytest

from tasks.models import Status, Task
from tasks.queue import services
from tasks.worker import claim as claiming
from tasks.worker.claim import run_next
from tests.support.factories import make_robot, make_task
from tests.support.probes import claim, listening

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


SUBMIT = ["find robots_robot", "insert tasks_task"]
LOOK = ["find robots_robot"]  # in service? how many lanes?
LANES = ["find tasks_task"]  # which are taken?
NEXT = ["find tasks_task"]  # what is it to do next?
START = ["update tasks_task"]
END = ["update tasks_task"]


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_task_costs_eight_round_trips(lanes):
    robot = make_robot(lanes=lanes)
    with listening() as commands:
        task = services.submit({"robot": robot.name, "handler": "noop"}, by="test")
        run_next(robot.name, "message")
    assert commands.sent == SUBMIT + LOOK + NEXT + LANES + START + END + NEXT, "\n".join(commands.sent)
    assert Task.objects.get(pk=task.pk).status == Status.SUCCESS


def test_the_queue_of_a_robot_costs_four_a_task(monkeypatch):
    monkeypatch.setattr(claiming, "TIME_SLICE", 60.0)
    robot = make_robot()
    for _ in range(3):
        make_task(robot=robot, handler="noop", params={})
    with listening() as commands:
        run_next(robot.name, "message")
    assert commands.sent == LOOK + 3 * (NEXT + LANES + START + END) + NEXT, "\n".join(commands.sent)


@pytest.mark.parametrize(("queued", "cost"), [(0, LOOK + NEXT), (1, LOOK + NEXT + LANES)])
def test_a_doorbell_in_vain_costs_two_or_three(queued, cost):
    robot = make_robot()
    make_task(robot=robot)
    assert claim(robot.name)
    for _ in range(queued):
        make_task(robot=robot)
    with listening() as commands:
        run_next(robot.name, "message")
    assert commands.sent == cost, "\n".join(commands.sent)


def test_progress_is_written_at_most_once_a_second():
    robot = make_robot()
    services.submit({"robot": robot.name, "handler": "wait", "params": {"seconds": 0.5, "steps": 100}}, by="test")
    with listening() as commands:
        run_next(robot.name, "message")
    assert commands.sent == LOOK + NEXT + LANES + START + END + NEXT, "\n".join(commands.sent)
