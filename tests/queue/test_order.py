"""Which task a robot takes next, and when it takes none."""

import random

import pytest

from robots.models import Robot
from tasks.models import Status, Task
from tasks.models.status import MAX_PRIORITY
from tasks.queue import periodic, services
from tasks.worker import claim as claiming
from tasks.worker.claim import run_next
from tests.support.factories import make_robot, make_task
from tests.support.probes import FUTURE, PAST, fields_of, make_task_in, statuses, take

OWNER = {"worker": "host/1", "message_id": "message", "lease": 30, "grace": 6}

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def drain(robot: Robot) -> list[Task]:
    """Start and end the robot's tasks one by one; return them in the order they started."""
    order = []
    while task := take(robot, "message"):
        order.append(task)
        assert task.succeed(None, "")
    return order


def test_priority_then_age():
    robot = make_robot()
    tasks = [make_task(robot=robot, priority=random.randint(0, MAX_PRIORITY)) for _ in range(40)]
    expected = sorted(tasks, key=lambda task: (-task.priority, task.pk))
    assert [task.pk for task in drain(robot)] == [task.pk for task in expected]


def test_ids_made_in_a_row_are_in_order():
    robot = make_robot()
    tasks = [services.submit({"robot": robot.name, "handler": "noop"}, by="test") for _ in range(50)]
    assert [task.pk for task in drain(robot)] == [task.pk for task in tasks]


def test_a_retried_task_keeps_its_place_by_age():
    robot = make_robot()
    first, second = make_task(robot=robot, max_attempts=3), make_task(robot=robot)
    task = take(robot, "message")
    assert task is not None
    assert task.retry({"type": "E", "message": "", "traceback": ""}, delay=0)
    assert periodic.promote_due() == 1
    assert [task.pk for task in drain(robot)] == [first.pk, second.pk]


def test_waiting_tasks_let_others_pass():
    robot = make_robot()
    make_task_in(Status.SCHEDULED, robot=robot.name, run_at=FUTURE, priority=9)
    make_task_in(Status.RETRY, robot=robot.name, run_at=FUTURE, priority=9)
    ready = make_task(robot=robot, priority=0)
    assert [task.pk for task in drain(robot)] == [ready.pk]


def test_one_lane_holds_one_task():
    robot = make_robot()
    make_task(robot=robot)
    make_task(robot=robot)
    assert take(robot, "m1")
    assert take(robot, "m2") is None


def test_lanes_hold_as_many_tasks():
    robot = make_robot(lanes=3)
    for _ in range(5):
        make_task(robot=robot)
    running = [take(robot, f"m{number}") for number in range(4)]
    assert sorted(task.lane for task in running if task) == [f"{robot.name}/{lane}" for lane in range(3)]
    assert running[3] is None
    assert running[1]
    assert running[1].succeed(None, "")
    again = take(robot, "m5")
    assert again is not None
    assert again.lane == running[1].lane


def test_a_robot_that_loses_lanes_starts_nothing_until_it_has_one_free():
    robot = make_robot(lanes=4)
    for _ in range(6):
        make_task(robot=robot)
    running = [take(robot, "m") for _ in range(4)]
    robot = services.change_robot(robot.name, by="test", lanes=2)
    for task in running[:2]:
        assert task
        assert task.succeed(None, "")
        assert take(robot, "m") is None
    assert running[2]
    assert running[2].succeed(None, "")
    assert take(robot, "m")
    assert take(robot, "m") is None


def test_a_robot_that_is_left_one_lane_starts_nothing_until_the_others_are_done():
    robot = make_robot(lanes=2)
    for _ in range(3):
        make_task(robot=robot)
    running = [take(robot, "m") for _ in range(2)]
    robot = services.change_robot(robot.name, by="test", lanes=1)
    assert running[0]
    assert running[0].succeed(None, "")
    assert take(robot, "m") is None
    assert running[1]
    assert running[1].succeed(None, "")
    assert take(robot, "m")


def test_a_robot_out_of_service_keeps_its_queue(bells):
    robot = make_robot(enabled=False)
    tasks = [
        services.submit({"robot": robot.name, "handler": "noop", "queue_anyway": True}, by="test") for _ in range(2)
    ]
    assert bells() == []
    run_next(robot.name, "message")
    periodic.ring_waiting()
    assert bells() == []
    assert [statuses(task) for task in tasks] == [["QUEUED"], ["QUEUED"]]


def test_a_robot_put_back_in_service_starts_again(bells):
    robot = make_robot(enabled=False, lanes=2)
    task = make_task(robot=robot, handler="noop", params={})
    services.change_robot(robot.name, by="test", enabled=True)
    assert bells() == [("tasks.run_next", robot.name, 4)] * 2
    run_next(robot.name, "message")
    assert statuses(task)[-1] == "SUCCESS"


def test_a_robot_put_back_without_work_is_not_rung_for(bells):
    robot = make_robot(enabled=False)
    make_task(robot=robot, status="SUCCESS")
    services.change_robot(robot.name, by="test", enabled=True)
    assert bells() == []


def test_a_robot_that_gets_more_lanes_is_rung_for(bells):
    robot = make_robot()
    make_task(robot=robot)
    services.change_robot(robot.name, by="test", lanes=3)
    assert bells() == [("tasks.run_next", robot.name, 4)] * 3


def test_expired_tasks_never_start():
    robot = make_robot()
    expired = make_task(robot=robot, expires_at=PAST, priority=9)
    alive = make_task(robot=robot, expires_at=FUTURE)
    assert [task.pk for task in drain(robot)] == [alive.pk]
    assert statuses(expired) == ["REVOKED"]
    assert periodic.expire() == 0
    assert drain(robot) == []


def test_a_later_attempt_may_start_after_the_task_has_expired():
    task = make_task_in(Status.RETRY, robot=make_robot().name, run_at=PAST, expires_at=PAST)
    assert periodic.expire() == 0
    assert periodic.promote_due() == 1
    assert periodic.expire() == 0
    assert [started.pk for started in drain(Robot.objects.get())] == [task.pk]


def test_an_expired_scheduled_task_never_starts():
    robot = make_robot()
    task = make_task_in(Status.SCHEDULED, robot=robot.name, run_at=PAST, expires_at=PAST)
    assert periodic.promote_due() == 1
    assert take(robot, "message") is None
    assert statuses(task)[-2:] == ["QUEUED", "REVOKED"]


def test_a_process_runs_queued_tasks_until_its_time_slice_ends(bells, monkeypatch):
    monkeypatch.setattr(claiming, "TIME_SLICE", 60.0)
    robot = make_robot()
    for handler in ("noop", "fails", "noop"):
        make_task(robot=robot, handler=handler, params={})
    run_next(robot.name, "message")
    assert sorted(Task.objects.values_list("status", flat=True)) == ["FAILURE", "SUCCESS", "SUCCESS"]
    assert set(Task.objects.values_list("message_id", flat=True)) == {"message"}
    assert bells() == []


@pytest.mark.parametrize("handler", ["noop", "fails"])
def test_when_its_turn_is_over_it_rings_for_the_next(bells, monkeypatch, handler):
    monkeypatch.setattr(claiming, "TIME_SLICE", 0.0)
    robot = make_robot()
    make_task(robot=robot, handler=handler, params={})
    make_task(robot=robot)
    run_next(robot.name, "message")
    assert Task.objects.queued().count() == 1
    assert bells() == [("tasks.run_next", robot.name, 4)]


def test_an_interrupted_process_leaves_the_rest_to_others(bells, monkeypatch):
    monkeypatch.setattr(claiming, "TIME_SLICE", 60.0)
    robot = make_robot()
    make_task(robot=robot, handler="wait", params={"seconds": 30}, timeout=0.2, max_attempts=1)
    make_task(robot=robot)
    run_next(robot.name, "message")
    assert Task.objects.queued().count() == 1
    assert bells() == [("tasks.run_next", robot.name, 4)]


def test_a_doorbell_without_work_does_nothing(bells):
    run_next(make_robot().name, "message")
    assert bells() == []


def test_a_doorbell_while_every_lane_is_taken_does_nothing(bells):
    robot = make_robot()
    for _ in range(2):
        make_task(robot=robot)
    assert take(robot, "m")
    run_next(robot.name, "message")
    assert bells() == []
    assert Task.objects.queued().count() == 1


def test_a_task_that_was_moved_or_taken_meanwhile_is_left_alone():
    robot, other = make_robot(), make_robot()
    moved, taken = make_task(robot=robot), make_task(robot=robot)
    found = [Task.objects.get(pk=task.pk) for task in (moved, taken)]
    assert moved.reassign(other.name, "amy")
    assert taken.start(lane="elsewhere/0", **OWNER)
    before = [fields_of(task) for task in found]
    assert [task.start(lane=f"{robot.name}/0", **OWNER) for task in found] == [False, False]
    assert [task.status for task in found] == [Status.QUEUED, Status.QUEUED]
    assert [fields_of(task) for task in found] == before
