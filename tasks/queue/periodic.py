"""The periodic steps: each looks for tasks that should have moved, and moves them.

A step that runs early, late, or twice at the same time does no harm.
"""

import datetime as dt
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError
from pymongo.errors import OperationFailure

from fmv import audit
from fmv.accounts.sessions import Session
from fmv.celery import app
from fmv.http.models import ThrottleWindow
from fmv.mongodb.server import clock, recent_now, server_now
from fmv.mongodb.uuid7 import id_at
from fmv.monitoring import counters
from robots import absences, drafts, samples
from robots.agents import with_agents
from robots.models import Robot
from tasks.models import Bulk, Status, Task, WorkerProcess
from tasks.models.error_document import error_document
from tasks.models.robot_attempt import is_unconfirmed
from tasks.queue import robots_lost, submissions
from tasks.queue.doorbell import ring, ring_all, ring_for
from tasks.queue.services import delete_every

logger = logging.getLogger(__name__)

STEP_SIZE = 500  # tasks that are read at a time
RING_LIFETIME = 60.0  # seconds after which a message of `ring_waiting` is dropped: the next run sends another
PATIENCE = 4.0  # seconds that a robot waits before the sweeper rings: so the second run that sees it does
LONGEST_PATIENCE = 20.0  # seconds that it waits when the sweeper has rung before
PURGE_BUDGET = 3.0  # seconds that a run of the purge takes; beat starts one every 10 s
TRUSTED_AFTER = (
    1800.0  # seconds for which MongoDB's clock has run evenly, before something is deleted because it is old
)
MAX_ROBOTS_RUNG = 200  # in one run; chosen by chance, so that no robot is left out for ever


def promote_due(by: Callable[[], dt.datetime] = server_now) -> int:
    """Queue the scheduled and retrying tasks that are due, and ring for them; return how many. `by` gives the time."""
    promoted = 0
    while found := list(Task.objects.due(now := by()).values("id", "robot", "runs_on", "priority")[:STEP_SIZE]):
        due = [Task(**values) for values in found]
        promoted += Task.objects.filter(pk__in=[task.pk for task in due]).promote(now)
        ring_for(due)
    return promoted


class Sight(NamedTuple):
    """What this process has seen of a running attempt, and since when, by `time.monotonic()`."""

    attempt: int
    lease_expires_at: dt.datetime | None
    attempt_since: float
    lease_since: float
    #: None: no cancel was requested
    cancel_since: float | None
    runs_on: str
    handler: str
    timeout: float
    is_out_of_contact: bool
    #: its robot may not know that it has the task
    is_unconfirmed: bool


SEEN = ("runs_on", "handler", "timeout", "out_of_contact_since")
_sights: dict[UUID, Sight] = {}


def recover_lost() -> dict[str, int]:
    """Recover the tasks whose lease this process has seen unrenewed for as long as a lease lasts: retry or end them.

    Those that run on a robot are judged by `robots_lost.judge`.

    Only this machine's monotonic clock decides, because any other clock may jump. So a process that has just started
    recovers nothing for the length of a lease. Returns how many tasks are now in which status.
    """
    for _ in range(clock.take_jumps()):
        counters.count("clock_jumps")
    now = _look_at_leases()
    old = now - settings.ENVIRONMENT.lease_seconds
    lost = [pk for pk, seen in _sights.items() if seen.runs_on == "worker" and seen.lease_since <= old]
    outcome = _recover_all(_read(lost))
    for status, count in _recover_on_robots(now).items():
        outcome[status] = outcome.get(status, 0) + count
    return outcome


def _recover_on_robots(now: float) -> dict[str, int]:
    verdicts: dict[UUID, robots_lost.Verdict] = {}
    for pk, seen in _sights.items():
        with _others_go_on(pk):
            if seen.runs_on == "robot" and (verdict := robots_lost.judge(seen, now)):
                verdicts[pk] = verdict
    outcome: Counter[Status] = Counter()
    for task in _read(list(verdicts)):
        with _others_go_on(task.pk):
            if status := robots_lost.recover(task, verdicts[task.pk]):
                outcome[status] += 1
    if outcome[Status.RETRY]:
        promote_due()
    return {status.value: count for status, count in outcome.items()}


@contextmanager
def _others_go_on(id: UUID) -> Iterator[None]:
    """Log an error of one task: the others do not wait for it.

    Somebody has changed its document by hand, or MongoDB refuses the write, because the document would be too large.
    """
    try:
        yield
    except (TypeError, ValueError):
        logger.exception("Task %s cannot be recovered", id)
    except DatabaseError as error:
        if not isinstance(error.__cause__, OperationFailure) or error.__cause__.timeout:
            raise
        logger.exception("Task %s cannot be recovered", id)


def _read(ids: list[UUID]) -> Iterator[Task]:
    """Yield those of these tasks that are as this process has seen them, some at least."""
    tasks = Task.objects.started().filter(pk__in=ids[:STEP_SIZE]).order_by() if ids else ()
    return (task for task in tasks if _is_as_seen(task))


def _look_at_leases() -> float:
    """Remember the lease of each started task; return the time of that look."""
    global _sights  # noqa: PLW0603 - what this process remembers from one run of the step to the next
    columns = ("pk", "attempt", "lease_expires_at", "cancel_requested", "started_at", *SEEN)
    found, now, before = list(Task.objects.started().order_by().values_list(*columns)), time.monotonic(), _sights
    _sights = {}
    for pk, attempt, lease, cancelled, started_at, runs_on, handler, timeout, silent_since in found:
        seen = before.get(pk)
        same = seen is not None and seen.attempt == attempt
        _sights[pk] = Sight(
            attempt,
            lease,
            attempt_since=seen.attempt_since if seen and same else now,
            lease_since=seen.lease_since if seen and same and seen.lease_expires_at == lease else now,
            cancel_since=((seen.cancel_since if seen and same else None) or now) if cancelled else None,
            runs_on=runs_on,
            handler=handler,
            timeout=timeout,
            is_out_of_contact=silent_since is not None,
            is_unconfirmed=runs_on == "robot" and is_unconfirmed(handler, started_at, lease),
        )
    return now


def _is_as_seen(task: Task) -> bool:
    seen = _sights.get(task.pk)
    return seen is not None and (task.attempt, task.lease_expires_at) == (seen.attempt, seen.lease_expires_at)


def recover_from(worker: str, message_id: str) -> dict[str, int]:
    """Recover the task of a process that has died, without waiting for the end of its lease."""
    tasks = (task for task in Task.objects.run_by(worker, message_id) if task.runs_on == "worker")
    return _recover_all(tasks, has_died=True)


def _recover_all(tasks: Iterable[Task], *, has_died: bool = False) -> dict[str, int]:
    outcome: Counter[Status] = Counter()
    for task in tasks:
        status = None
        with _others_go_on(task.pk):
            status = _recover(task, has_died)
        if status is None:
            continue  # its worker, or another recovery, was faster
        outcome[status] += 1
        counters.count("lost_workers")
        about = {"task_id": str(task.pk), "robot": task.robot, "worker": task.worker, "status": status.value}
        logger.warning(
            "Task %(task_id)s of robot %(robot)r lost its worker %(worker)s: %(status)s",
            about,
            extra=about | {"request_id": task.request_id},
        )
        ring(task.robot)  # its lane is free
    if outcome[Status.RETRY]:
        promote_due()
    return {status.value: count for status, count in outcome.items()}


def _recover(task: Task, has_died: bool) -> Status | None:
    if task.cancel_requested:
        note = "its worker was lost while it was being cancelled"
        return Status.REVOKED if task.stop(note, if_unrenewed=True) else None
    if has_died and _seen_for(task) >= task.timeout:
        late = error_document("TimedOut", f"Ran longer than {task.timeout:g} s and could not be interrupted")
        return Status.FAILURE if task.fail(late, if_unrenewed=True) else None
    lost = error_document("WorkerLost", f"The worker {task.worker} stopped renewing its lease")
    if task.attempts_left:
        return Status.RETRY if task.retry(lost, delay=0, if_unrenewed=True) else None
    return Status.FAILURE if task.fail(lost, if_unrenewed=True) else None


def _seen_for(task: Task) -> float:
    """Return the seconds for which this process has seen this attempt run."""
    seen = _sights.get(task.pk)
    return time.monotonic() - seen.attempt_since if seen and seen.attempt == task.attempt else 0.0


def expire() -> int:
    """Revoke the tasks that did not start by their `expires_at`; return how many."""
    return Task.objects.expire(server_now())


class Wait(NamedTuple):
    """Since when this process has seen queued tasks at a robot, by `time.monotonic()`, and after how long it rings."""

    since: float
    patience: float


_waits: dict[str, Wait] = {}


def ring_waiting(patience: float = 0.0) -> int:
    """Ring for robots that start tasks, have queued ones and a free lane, if a message was lost; return how many.

    `patience`: seconds for which this process must have seen their tasks wait, or 0 to ring at once. While workers have
    more to do than they can, robots wait although their messages are under way: after each ring for a robot it takes
    twice as long until the next, at most LONGEST_PATIENCE, until its queue was empty or it was seen at work.

    It also rings for robots that were deleted: the worker that gets the message ends their tasks.
    """
    global _waits  # noqa: PLW0603 - what this process remembers from one run of the step to the next
    waiting, now = Task.objects.robots_waiting(), time.monotonic()
    first = Wait(now, patience)
    _waits = {name: _waits.get(name, first) for name in waiting}
    due = [name for name in waiting if not patience or now - _waits[name].since >= _waits[name].patience]
    chosen = random.sample(due, min(MAX_ROBOTS_RUNG, len(due)))
    if not chosen:
        return 0
    held = Task.lanes_held(chosen)
    robots = {robot.name: robot for robot in Robot.objects.filter(pk__in=chosen)}
    bells = {name: _rings(name, robots.get(name), held[name]) for name in chosen}
    ringing = {name for name, times in bells.items() if times > 0 and name in robots}
    rung_before = {name for name in ringing if _waits[name].patience > patience}
    agents_turn = _agents_turn(rung_before | with_agents(ringing - rung_before))
    longer = {name: first._replace(patience=min(2 * _waits[name].patience, LONGEST_PATIENCE)) for name in chosen}
    _waits |= {name: longer[name] if bells[name] else first for name in chosen}
    rung = {name: times for name, times in bells.items() if times > 0 and name not in agents_turn}
    ring_all(rung, expires=RING_LIFETIME)  # otherwise they would pile up while no worker is free
    return len(rung)


def _rings(name: str, robot: Robot | None, held: int) -> int:
    """Return how many of its queued tasks the robot could start now; 1 for a deleted robot."""
    if robot is None:
        return 1
    free = robot.lanes - held if robot.starts_tasks else 0
    return free if free <= 1 else Task.objects.queued().of_robot(name).up_to(free)


def _agents_turn(names: Iterable[str]) -> set[str]:
    """Return those of these robots whose next task waits for their agent; each costs a command, as a worker's look."""
    return {name for name in names if Task.objects.next_runs_on(name) == "robot"}


def purge(days: float, until: float = float("inf")) -> int:
    """Delete the tasks that finished more than `days` days ago (0: none), with their logs; return how many.

    `until`: a time by `time.monotonic()`, when it stops after the step under way.
    """
    if not days:
        return 0
    old = Task.objects.finished_before(recent_now() - dt.timedelta(days=days))
    return delete_every(old.without_lane(), until)


def delete_old_records(days: float, until: float = float("inf")) -> int:
    """Delete the audit entries and finished bulk runs that are more than `days` days old (0: none); return how many."""
    if not days:
        return 0
    old = Bulk.objects.over().filter(id__lt=id_at(recent_now() - dt.timedelta(days=days)))
    return audit.forget(days, until) + old.delete()[0]


def delete_old(seconds: float = PURGE_BUDGET) -> int:
    """Delete the finished tasks that are kept no longer; return how many.

    It takes about `seconds`, and the next run goes on, so that other steps need not wait. After a jump of MongoDB's
    clock, and after the start of this process, nothing is deleted for TRUSTED_AFTER seconds: an operator has that long
    to correct a clock that would make everything old.
    """
    if clock.even_for() < TRUSTED_AFTER:
        return 0
    return purge(settings.ENVIRONMENT.retention_days, time.monotonic() + seconds)


def forget_runs() -> None:
    """Delete the results of maintenance runs older than CELERY_RESULT_EXPIRES; and, unless MongoDB's clock has jumped
    (see `delete_old`), past sessions and windows of the throttle, worker processes without a heartbeat for a day, old
    submissions, robots' samples older than FMV_STATE_DAYS, audit entries, bulk runs and absences older than
    FMV_AUDIT_DAYS, and files that nobody confirmed.
    """
    app.backend.cleanup()
    if clock.even_for() < TRUSTED_AFTER:
        return
    now = recent_now()
    WorkerProcess.objects.long_gone(now).delete()
    ThrottleWindow.objects.filter(expires_at__lt=now).delete()
    Session.objects.filter(expire_date__lt=now).delete()
    submissions.forget_old()
    delete_old_records(settings.ENVIRONMENT.audit_days, time.monotonic() + PURGE_BUDGET)
    samples.forget()
    absences.forget()
    drafts.forget_old()
