"""Two transitions at the same time, on the real server: one wins, and the other leaves no trace in the document."""

import random
import time
from typing import Any

import pytest

from robots.errors import UnknownRobot
from robots.models import Robot
from tasks.models import Status, Task
from tasks.models.error_document import error_document
from tasks.queue import periodic, services
from tasks.queue.errors import AlreadyFinished, RobotHasWork
from tasks.worker.claim import run_next
from tasks.worker.lease import LEASE_GRACE
from tests.support.factories import make_robot, make_task
from tests.support.probes import (
    LEASE,
    PAST,
    a_lease_later,
    at_once,
    claim,
    fields_of,
    make_task_in,
    started,
    statuses,
    take,
)

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

ROUNDS = 15
LOST = error_document("WorkerLost", "lost")


def rounds() -> Any:
    """Number the rounds, with a clean table in each."""
    for number in range(ROUNDS):
        Task.objects.all().delete()
        yield number


def try_claim(robot: Robot) -> Task | None:
    return take(robot)


def try_cancel(task: Task) -> Task | None:
    try:
        return services.cancel(task, by="test")
    except AlreadyFinished:
        return None


def lost(**fields: Any) -> Task:
    """Return a started task; it counts as lost `a_lease_later`."""
    return started(**fields)


# --- Claims ----------------------------------------------------------------------------------------------------------


def test_two_claim_one_task():
    robot = make_robot(lanes=2)
    for _ in rounds():
        task = make_task(robot=robot)
        won = [each for each in at_once(*[lambda: try_claim(robot)] * 4) if each]
        assert [each.pk for each in won] == [task.pk]
        assert statuses(task) == ["STARTED"]
        assert fields_of(task)["attempt"] == 1


def test_many_claim_one_lane():
    robot = make_robot()
    for _ in rounds():
        tasks = [make_task(robot=robot) for _ in range(4)]
        won = [each for each in at_once(*[lambda: try_claim(robot)] * 4) if each]
        assert [each.pk for each in won] == [tasks[0].pk]
        assert Task.objects.started().count() == 1
        assert Task.objects.queued().count() == 3


def test_many_claim_some_lanes():
    robot = make_robot(lanes=3)
    for _ in rounds():
        tasks = [make_task(robot=robot) for _ in range(6)]
        won = [each for each in at_once(*[lambda: try_claim(robot)] * 6) if each]
        assert 1 <= len(won) <= 3
        assert len({each.lane for each in won}) == len(won)
        assert sorted(each.pk for each in won) == [task.pk for task in tasks[: len(won)]]
        assert Task.objects.started().count() == len(won)


def test_a_busy_robot_stays_one_at_a_time_and_in_order():
    robot = make_robot()
    tasks = [make_task(robot=robot, priority=random.randint(0, 3)) for _ in range(30)]
    order: list[Any] = []

    def work() -> None:
        misses = 0
        while misses < 200 and len(order) < 30:
            task = try_claim(robot)
            if task is None:
                misses += 1
                time.sleep(0.002)
                continue
            order.append(task.pk)
            assert Task.objects.started().count() == 1
            assert task.succeed(None, "")

    at_once(work, work, work)
    assert order == [task.pk for task in sorted(tasks, key=lambda task: (-task.priority, task.pk))]


# --- Cancel ----------------------------------------------------------------------------------------------------------


def test_cancel_against_claim():
    robot = make_robot()
    for _ in rounds():
        task = make_task(robot=robot)
        claimed, cancelled = at_once(lambda: try_claim(robot), lambda task=task: try_cancel(task))
        stored = Task.objects.get(pk=task.pk)
        assert cancelled is not None
        assert stored.cancel_requested
        if claimed:
            assert statuses(task) == ["STARTED", "STARTED"]
            assert stored.lane
            assert not claimed.renew(lease=LEASE, grace=LEASE_GRACE)
            assert claimed.stop("stopped")
        else:
            assert statuses(task) == ["REVOKED"]
            assert stored.lane is None


def test_cancel_against_finish():
    for _ in rounds():
        task = started()
        finished, cancelled = at_once(lambda task=task: task.succeed(1, ""), lambda task=task: try_cancel(task))
        assert finished
        assert statuses(task)[-1] == "SUCCESS"
        assert statuses(task).count("SUCCESS") == 1
        assert len(statuses(task)) == (3 if fields_of(task)["cancel_requested"] else 2)
        assert cancelled is None or cancelled.cancel_requested


def test_cancel_against_a_failure_that_would_be_tried_again():
    for _ in rounds():
        task = started()
        again, cancelled = at_once(
            lambda task=task: task.retry(LOST, delay=0) or task.stop("stopped"), lambda task=task: try_cancel(task)
        )
        assert again
        stored = Task.objects.get(pk=task.pk)
        assert cancelled is not None or stored.status == Status.REVOKED
        assert stored.status == Status.REVOKED
        assert stored.lane is None


def test_two_cancel():
    for status in (Status.QUEUED, Status.STARTED):
        for _ in rounds():
            task = make_task_in(status)
            at_once(*[lambda task=task: try_cancel(task)] * 3)
            assert len(statuses(task)) == 3


# --- Recovery --------------------------------------------------------------------------------------------------------


def test_finish_against_recovery():
    for _ in rounds():
        task = lost()
        with a_lease_later():
            finished, recovered = at_once(lambda task=task: task.succeed(1, ""), periodic.recover_lost)
        stored = Task.objects.get(pk=task.pk)
        assert finished is (recovered == {})
        assert stored.status == (Status.SUCCESS if finished else Status.QUEUED)
        assert (stored.result == 1) is finished
        assert stored.lane is None


def test_renewal_against_recovery():
    for _ in rounds():
        task = lost()
        with a_lease_later():
            renewed, recovered = at_once(
                lambda task=task: task.renew(lease=LEASE, grace=LEASE_GRACE), periodic.recover_lost
            )
        assert renewed is (recovered == {})
        assert fields_of(task)["status"] == (Status.STARTED if renewed else Status.QUEUED)


def test_two_recover():
    for _ in rounds():
        task = lost()
        with a_lease_later():
            outcomes = at_once(*[periodic.recover_lost] * 3)
        assert sorted(outcomes, key=len) == [{}, {}, {"RETRY": 1}]
        assert statuses(task) == ["STARTED", "RETRY", "QUEUED"]


def test_a_worker_that_lost_its_lease_writes_nothing():
    before = started()
    with a_lease_later():
        assert periodic.recover_lost() == {"RETRY": 1}
    for stage in ("while it waits", "while another runs it"):
        stored = fields_of(before)
        assert not before.renew(lease=LEASE, grace=LEASE_GRACE, progress=50.0), stage
        assert not before.succeed("late", "late"), stage
        assert not before.fail(LOST), stage
        assert not before.retry(LOST, delay=0), stage
        assert not before.release("late"), stage
        assert not before.stop("late"), stage
        assert not before.is_being_cancelled(), stage
        assert fields_of(before) == stored, stage
        claim(before.robot)
    assert fields_of(before)["attempt"] == 2


def test_the_death_of_a_process_ends_its_own_lease_only():
    # A message whose acknowledgement was lost is delivered again: two processes may have taken it.
    robot = make_robot(lanes=2)
    mine, others = make_task(robot=robot, max_attempts=3), make_task(robot=robot, max_attempts=3)
    assert claim(robot.name, lane=0, worker="host/1", message_id="m")
    assert claim(robot.name, lane=1, worker="host/2", message_id="m")
    assert periodic.recover_from("host/1", "m") == {"RETRY": 1}
    assert periodic.recover_lost() == {}
    assert [fields_of(task)["status"] for task in (mine, others)] == [Status.QUEUED, Status.STARTED]


# --- Sweepers --------------------------------------------------------------------------------------------------------


def test_two_promote():
    for _ in rounds():
        tasks = [make_task_in(status) for status in (Status.SCHEDULED, Status.RETRY) for _ in range(5)]
        promoted = at_once(*[periodic.promote_due] * 3)
        assert sum(promoted) == 10
        assert all(statuses(task)[2:] == ["QUEUED"] for task in tasks)


def test_two_expire():
    for _ in rounds():
        tasks = [make_task_in(status, expires_at=PAST) for status in (Status.SCHEDULED, Status.QUEUED)]
        assert sum(at_once(*[periodic.expire] * 3)) == 2
        assert all(statuses(task)[2:] == ["REVOKED"] for task in tasks)


def test_expire_against_cancel():
    for _ in rounds():
        task = make_task_in(Status.QUEUED, expires_at=PAST)
        at_once(periodic.expire, lambda task=task: try_cancel(task))
        assert statuses(task)[2:] == ["REVOKED"]


def test_promote_against_cancel():
    for _ in rounds():
        task = make_task_in(Status.SCHEDULED)
        at_once(periodic.promote_due, lambda task=task: try_cancel(task))
        assert statuses(task)[2:] in (["REVOKED"], ["QUEUED", "REVOKED"])


# --- The registry ----------------------------------------------------------------------------------------------------


def try_delete(robot: Robot) -> bool:
    try:
        services.delete_robot(robot.name, by="test")
    except RobotHasWork:
        return False
    return True


def try_submit(robot: Robot) -> Task | None:
    try:
        return services.submit({"robot": robot.name, "handler": "noop"}, by="test")
    except UnknownRobot:
        return None


def test_deleting_a_robot_against_submitting_to_it():
    for number in rounds():
        robot = make_robot(name=f"Short lived {number}")
        task, deleted = at_once(lambda robot=robot: try_submit(robot), lambda robot=robot: try_delete(robot))
        run_next(robot.name, "message")  # as the submit's doorbell makes a worker do
        stored = task and Task.objects.filter(pk=task.pk).first()
        assert stored is None or stored.is_finished
        assert Robot.objects.filter(pk=robot.name).exists() is not deleted
        if not deleted:
            assert stored is not None
            assert stored.status == Status.SUCCESS


def test_putting_a_robot_out_of_service_against_a_claim():
    for number in rounds():
        robot = make_robot(name=f"Shaky {number}")
        task = make_task(robot=robot)
        at_once(
            lambda robot=robot: services.change_robot(robot.name, by="test", enabled=False),
            lambda robot=robot: take(robot),
        )
        assert fields_of(task)["status"] in (Status.QUEUED, Status.STARTED)
        assert take(robot) is None
