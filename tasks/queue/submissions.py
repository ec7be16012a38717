"""Submits that must not be half done or done twice: batches, and requests with an `Idempotency-Key`.

The Submission document is the whole intent, stored in one write: the tasks with the ids they will have. Putting them
into the queue can then be repeated by anybody (the same request again, the sweeper) without doubling one.
"""

import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import bson
import orjson
from django.db import IntegrityError
from django.utils import timezone
from uuid_utils.compat import uuid7

from fmv.errors import InvalidInput, Problem
from robots.models import Robot
from tasks.models import Status, Submission, Task
from tasks.queue import new_task
from tasks.queue.doorbell import ring_all

KEEP = dt.timedelta(hours=24)  # how long a key answers with its first answer
LEFT_BEHIND = dt.timedelta(seconds=10)  # a request that has not stored its tasks by then has died
MAX_SIZE = 15 * 1024 * 1024  # bytes of BSON; MongoDB takes 16 MiB a document
STEP = 50  # submissions looked at in one go

Build = Callable[[], list[Task]]


def once(key: str, body: Any, *, by: str, build: Build) -> list[Task]:
    """Submit what `build` returns, unless `by` has used this key within 24 hours: then return the tasks of that time.

    Raises InvalidInput when the key came with another body then, and whatever `build` raises.
    """
    id = hashlib.sha256(f"{by}\n{key}".encode()).hexdigest()
    fingerprint = hashlib.sha256(orjson.dumps(body, option=orjson.OPT_SORT_KEYS)).hexdigest()
    submission = Submission.objects.filter(pk=id).first()
    if submission and submission.created_at < timezone.now() - KEEP:
        Submission.objects.filter(pk=id, created_at=submission.created_at).delete()
        submission = None
    if submission is None:
        submission = _accept(id, fingerprint, build())
    if submission.fingerprint != fingerprint:
        raise InvalidInput([Problem(("header", "Idempotency-Key"), "This key was used with another request", "reused")])
    return _enqueue(submission)


def together(tasks: list[Task]) -> list[Task]:
    """Submit all these tasks or, should this process die here and now, none."""
    return _enqueue(_accept(str(uuid7()), "", tasks))


def _accept(id: str, fingerprint: str, tasks: list[Task]) -> Submission:
    submission = Submission(pk=id, fingerprint=fingerprint, created_at=timezone.now())
    submission.tasks = [task.as_submitted() for task in tasks]
    if len(bson.encode({"tasks": submission.tasks})) > MAX_SIZE:
        raise InvalidInput([Problem(("body", "runs"), "Too much for one batch: send it in several", "too_long")])
    try:
        submission.save(force_insert=True)
    except IntegrityError:  # the same request, at the same moment
        return Submission.objects.get(pk=id)
    return submission


def _enqueue(submission: Submission) -> list[Task]:
    tasks = [Task.submitted(values) for values in submission.tasks]
    if not submission.stored:
        store(tasks)
        Submission.objects.filter(pk=submission.pk).update(stored=True)
        ring_for(tasks)
    return tasks


def store(tasks: Sequence[Task]) -> None:
    """Put tasks into the queue, those that are not there yet: to do it again, or twice at once, doubles none."""
    missing = list(tasks)
    while missing:
        try:
            Task.objects.bulk_create(missing)
            return
        except IntegrityError:  # somebody stored some of them already
            stored = set(Task.objects.filter(pk__in=[task.pk for task in tasks]).values_list("pk", flat=True))
            missing = [task for task in tasks if task.pk not in stored]


def ring_for(tasks: Sequence[Task]) -> None:
    """Ring as often as a robot could use it."""
    waiting = Counter(task.robot for task in tasks if task.status == Status.QUEUED)
    in_service = Robot.objects.in_service().filter(pk__in=waiting)
    ring_all({robot.name: min(waiting[robot.name], robot.lanes) for robot in in_service})


def finish_submissions() -> int:
    """Put into the queue what requests that died had accepted, and return of how many; forget old submissions."""
    now = timezone.now()
    left_behind = Submission.objects.left_behind(now - LEFT_BEHIND)[:STEP]
    finished = [_enqueue(submission) for submission in left_behind]
    Submission.objects.done_before(now - KEEP).delete()
    return len(finished)


def build_batch(runs: Sequence[dict[str, Any]], *, by: str) -> list[Task]:
    """Return the tasks of a batch, one for each run, in order; nothing is stored.

    Raises InvalidInput that names each wrong run, and RobotOutOfService.
    """
    names = {run["robot"] for run in runs}
    robots = {robot.name: robot for robot in Robot.objects.filter(pk__in=names)}
    tasks, problems = [], []
    for index, run in enumerate(runs):
        options = {name: value for name, value in run.items() if name != "robot"}
        try:
            tasks.append(new_task.build(_robot_of(run, robots), by=by, **options))
        except InvalidInput as error:
            problems += [Problem(("body", "runs", index, *p.loc[1:]), p.msg, p.type) for p in error.problems]
    if problems:
        raise InvalidInput(problems)
    return tasks


def _robot_of(run: dict[str, Any], robots: dict[str, Robot]) -> Robot:
    if run["robot"] not in robots:
        raise InvalidInput([Problem(("body", "robot"), "No such robot", "unknown_robot")])
    return robots[run["robot"]]
