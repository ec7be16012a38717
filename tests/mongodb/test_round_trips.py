"""What a task costs in round trips to MongoDB, from its submit to its end. Doorbells go elsewhere."""

import pytest

from tasks.models import Status, Task
from tasks.queue import services
from tasks.worker import claim as claiming
from tasks.worker.claim import run_next
from tasks.worker.lease import LEASE_GRACE
from tests.support.factories import make_robot, make_task
from tests.support.probes import LEASE, claim, listening, started

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


SUBMIT = ["find robots_robot", "insert tasks_task"]
BATCH = ["aggregate robots_robot", "insert tasks_submission", "insert tasks_task", "update tasks_submission"]
# For which of the robots must one ring? Not for those with an older queued or started task.
SERVED = ["aggregate tasks_task", "aggregate tasks_task"]
LOOK = ["aggregate tasks_task"]  # what is the robot to do next? in service? how many lanes?
LANES = ["aggregate tasks_task"]  # which are taken?
START = ["update tasks_task"]
END = ["update tasks_task"]


def submit(robot):
    return services.submit({"robot": robot.name, "handler": "noop"}, by="test")


def wake_up(robot) -> list[str]:
    with listening() as commands:
        run_next(robot.name, "message")
    return commands.sent


def test_a_submit_costs_two_round_trips():
    robot = make_robot()
    with listening() as commands:
        submit(robot)
    assert commands.sent == SUBMIT, "\n".join(commands.sent)


def test_a_batch_costs_six_round_trips_however_many_tasks_and_robots_it_has():
    names = [make_robot(lanes=1 + number % 2).name for number in range(50)] * 2
    with listening() as commands:
        services.submit([{"robot": name, "handler": "noop"} for name in names], by="test")
    assert commands.sent == BATCH + SERVED, "\n".join(commands.sent)


def test_a_task_of_a_robot_with_one_lane_costs_four_round_trips_from_wake_up_to_end():
    robot = make_robot()
    task = submit(robot)
    sent = wake_up(robot)
    assert sent == LOOK + START + END + LOOK, "\n".join(sent)
    assert Task.objects.get(pk=task.pk).status == Status.SUCCESS


def test_of_a_robot_with_more_lanes_it_is_asked_once_which_are_taken(monkeypatch):
    monkeypatch.setattr(claiming, "TIME_SLICE", 60.0)
    robot = make_robot(lanes=3)
    for _ in range(3):
        submit(robot)
    sent = wake_up(robot)
    assert sent == LOOK + LANES + START + END + 2 * (LOOK + START + END) + LOOK, "\n".join(sent)


def test_of_a_robot_that_was_changed_it_is_asked_once_whether_tasks_run_beyond_its_lane():
    robot = make_robot()
    services.change_robot(robot.name, by="test", lanes=1)
    for cost in (LOOK + LANES + START + END + LOOK, LOOK + START + END + LOOK):
        make_task(robot=robot, handler="noop", params={})
        sent = wake_up(robot)
        assert sent == cost, "\n".join(sent)


def test_ten_short_tasks_in_the_queue_of_a_robot_cost_two_each_and_two_or_three_looks(monkeypatch):
    monkeypatch.setattr(claiming, "TIME_SLICE", 60.0)
    monkeypatch.setattr(claiming, "LOOK_LIFETIME", 60.0)  # a test's MongoDB may be slow
    monkeypatch.setattr(claiming, "_pace", None)
    for first in (LOOK + START + END, []):  # this process does not know yet that tasks are short, or does
        robot = make_robot()
        for _ in range(10):
            make_task(robot=robot, handler="noop", params={})
        sent = wake_up(robot)
        assert sent == first + LOOK + (9 if first else 10) * (START + END) + LOOK, "\n".join(sent)


def test_long_tasks_in_the_queue_of_a_robot_cost_three_each(monkeypatch):
    monkeypatch.setattr(claiming, "TIME_SLICE", 60.0)
    monkeypatch.setattr(claiming, "LOOK_LIFETIME", 0.0)
    robot = make_robot()
    for _ in range(3):
        make_task(robot=robot, handler="noop", params={})
    sent = wake_up(robot)
    assert sent == 3 * (LOOK + START + END) + LOOK, "\n".join(sent)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("queued", [0, 1])
def test_a_wake_up_in_vain_costs_one_or_two(queued, lanes):
    robot = make_robot(lanes=lanes)
    for number in range(lanes):
        make_task(robot=robot)
        assert claim(robot.name, lane=number)
    for _ in range(queued):
        make_task(robot=robot)
    sent = wake_up(robot)
    assert sent == LOOK + queued * (START if lanes == 1 else LANES), "\n".join(sent)  # START: its lane is taken


def test_a_renewal_costs_one():
    task = started()
    with listening() as commands:
        assert task.renew(lease=LEASE, grace=LEASE_GRACE, progress=1.0)
    assert commands.sent == ["update tasks_task"]


def test_progress_is_written_at_most_once_a_second():
    robot = make_robot()
    services.submit({"robot": robot.name, "handler": "wait", "params": {"seconds": 0.5, "steps": 100}}, by="test")
    with listening() as commands:
        run_next(robot.name, "message")
    assert commands.sent == LOOK + START + END + LOOK, "\n".join(commands.sent)
