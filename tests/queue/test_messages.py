"""How many messages wake workers up. With one or more for each task a backlog would slow its own work down."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

import pytest

from robots.models import Robot
from tasks import jobs
from tasks.models import Status, Task
from tasks.queue import periodic, services
from tasks.worker import claim
from tasks.worker.claim import run_next
from tests.support.factories import make_robot, make_task
from tests.support.probes import FUTURE, before_nth, listening, make_task_in, started, take

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def no_robot_waits_yet(monkeypatch):
    monkeypatch.setattr(periodic, "_waits", {})


def submit(robots: Sequence[Robot], **options) -> None:
    services.submit([{"robot": robot.name, "handler": "noop", **options} for robot in robots], by="test")


def woken(bells: Callable) -> list[str]:
    return sorted(robot for task, robot, _ in bells() if task == "tasks.run_next")


def messages_of_all(bells: Callable, batches: Sequence[Sequence[Robot]], handled_meanwhile: int) -> int:
    """Submit the batches, let a process handle so many messages after each, then all; return how many there were."""
    messages: deque[str] = deque()
    sent = 0

    def collect() -> None:
        nonlocal sent
        new = woken(bells)
        sent += len(new)
        messages.extend(new)

    def handle() -> None:
        run_next(messages.popleft(), "message")
        collect()

    for batch in batches:
        submit(batch)
        collect()
        for _ in range(min(handled_meanwhile, len(messages))):
            handle()
        jobs.ring_waiting()
    while messages:
        handle()
    assert set(Task.objects.values_list("status", flat=True)) == {Status.SUCCESS}
    return sent


@pytest.mark.parametrize("handled_meanwhile", [0, 3])
@pytest.mark.parametrize(
    ("robots", "tasks"), [(10, 100), pytest.param(100, 1000, marks=[pytest.mark.slow, pytest.mark.timeout(300)])]
)
def test_tasks_of_many_robots_take_at_most_one_message_each(robots, tasks, handled_meanwhile, bells):
    fleet = [make_robot() for _ in range(robots)]
    sent = messages_of_all(bells, [fleet] * (tasks // robots), handled_meanwhile)
    assert robots <= sent <= 1.2 * tasks


@pytest.mark.parametrize("handled_meanwhile", [0, 1])
@pytest.mark.parametrize("tasks", [50, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(300)])])
def test_tasks_of_one_robot_take_at_most_a_message_for_each_batch(tasks, handled_meanwhile, bells, monkeypatch):
    monkeypatch.setattr(claim, "TIME_SLICE", 1000.0)  # one message more for each, and a test's MongoDB may be slow
    sent = messages_of_all(bells, [[make_robot()] * 10] * (tasks // 10), handled_meanwhile)
    assert sent <= tasks / 10


def test_a_batch_rings_once_for_a_robot_with_one_lane_and_once_a_lane_for_others(bells):
    one, three = make_robot(), make_robot(lanes=3)
    submit([one] * 4 + [three] * 2)
    assert woken(bells) == sorted([one.name] + [three.name] * 2)
    submit([three] * 9)
    assert woken(bells) == [three.name] * 3


@pytest.mark.parametrize("older", ["queued", "running"])
def test_a_batch_does_not_ring_for_a_robot_that_somebody_serves(older, bells):
    busy, idle = make_robot(), make_robot()
    (started if older == "running" else make_task)(robot=busy)
    submit([busy, idle, busy])
    assert woken(bells) == [idle.name]


@pytest.mark.parametrize("lanes", [1, 2])
def test_a_batch_for_a_robot_that_goes_out_of_service_meanwhile_waits_and_one_that_comes_back_gets_all(lanes, bells):
    robot = make_robot(lanes=lanes)
    out = partial(services.take_out_of_service, robot.name, by="test")
    with listening(before_nth(1, "insert tasks_task", out)):
        submit([robot] * 2)
    for name in woken(bells):
        run_next(name, "message")
    assert set(Task.objects.values_list("status", flat=True)) == {Status.QUEUED}
    services.put_in_service(robot.name, by="test")
    while names := woken(bells):
        for name in names:
            run_next(name, "message")
    assert set(Task.objects.values_list("status", flat=True)) == {Status.SUCCESS}


def test_whoever_runs_the_older_task_goes_on_with_those_that_nobody_rang_for(bells):
    robot = make_robot()
    make_task(robot=robot, handler="noop", params={})
    submit([robot] * 2)
    assert woken(bells) == []
    run_next(robot.name, "message")
    for _ in woken(bells):
        run_next(robot.name, "message")
    assert set(Task.objects.values_list("status", flat=True)) == {Status.SUCCESS}


@pytest.mark.parametrize("status", [Status.SUCCESS, Status.REVOKED, Status.RETRY, Status.SCHEDULED])
def test_a_batch_rings_for_a_robot_whose_older_tasks_cannot_run_now(status, bells):
    robot = make_robot()
    make_task_in(status, robot=robot.name, run_at=FUTURE if status in (Status.RETRY, Status.SCHEDULED) else None)
    submit([robot])
    assert woken(bells) == [robot.name]


def test_a_younger_task_is_no_reason_not_to_ring(bells):
    """It may be of a submit that has seen this one queued, and does not ring either."""
    robot = make_robot()
    due = make_task_in(Status.SCHEDULED, robot=robot.name)
    make_task(robot=robot)
    assert periodic.promote_due() == 1
    assert woken(bells) == [due.robot]


def test_due_tasks_of_a_robot_with_one_lane_ring_once_and_not_while_an_older_one_runs(bells):
    idle, busy = make_robot(), make_robot()
    started(robot=busy)
    for robot in (idle, busy):
        for _ in range(3):
            make_task_in(Status.SCHEDULED, robot=robot.name)
    assert periodic.promote_due() == 6
    assert woken(bells) == [idle.name]


def test_all_lanes_of_a_robot_are_used_at_once(bells):
    robot = make_robot(lanes=3)
    submit([robot] * 3)
    assert [bool(take(robot, name)) for name in woken(bells)] == [True] * 3


def test_a_process_that_fails_rings_for_the_tasks_behind(bells, monkeypatch):
    from tasks.worker.attempt import Attempt

    robot = make_robot()
    for _ in range(2):
        make_task(robot=robot, max_attempts=1)
    monkeypatch.setattr(Attempt, "_taking_interrupts", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_next(robot.name, "message")
    assert woken(bells) == [robot.name]
