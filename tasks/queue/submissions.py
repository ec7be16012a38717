"""Submits that must not be half done or done twice: batches, and requests with an `Idempotency-Key`.

They are the internals of `tasks.queue.services.submit`. The Submission document is the whole intent, stored in one
write: the tasks with the ids they will have. Any process (the same request again, the periodic job) can then put them
into the queue, and doing so twice does not duplicate a task.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import bson
import orjson
from django.db import IntegrityError
from uuid_utils.compat import uuid7

from fmv.errors import InvalidInput, Problem
from fmv.mongodb.server import recent_now, stored_now
from robots.models import Robot
from tasks.models import Submission, Task
from tasks.queue.doorbell import ring_for

KEY_LIFETIME = dt.timedelta(hours=24)  # how long, at least, a key returns its first tasks
REQUEUE_AFTER = dt.timedelta(seconds=10)  # a request that has not queued its tasks by then has died
MAX_SIZE = 15 * 1024 * 1024  # bytes of BSON; MongoDB takes 16 MiB a document
STEP_SIZE = 50  # submissions finished in one run

Build = Callable[[], tuple[list[Task], Sequence[Robot]]]  # new tasks and their robots


def submit_idempotent(key: str, runs: Any, *, by: str, build: Build) -> list[Task]:
    """Submit the tasks that `build` returns, unless `by` has used this key before: then return the first tasks.

    A key is forgotten by `forget_old`, after KEY_LIFETIME, and nowhere else.

    Raises InvalidInput when the key was used with other `runs`, and whatever `build` raises.
    """
    id = _id(key, by)
    fingerprint = hashlib.sha256(_canonical(runs)).hexdigest()
    submission, robots = Submission.objects.filter(pk=id).first(), None
    if submission is None:
        tasks, robots = build()
        submission = _accept(id, fingerprint, tasks)
    if submission.fingerprint != fingerprint:
        raise InvalidInput([Problem(("header", "Idempotency-Key"), "This key was used with another request", "reused")])
    return _enqueue(submission, robots)


def first_task(key: str, *, by: str) -> UUID | None:
    """Return the id of the first task that `by` has submitted with this key; None if the key was not used."""
    submission = Submission.objects.filter(pk=_id(key, by)).first()
    return Task.submitted(submission.tasks[0]).pk if submission else None


def _id(key: str, by: str) -> str:
    return hashlib.sha256(f"{by}\n{key}".encode()).hexdigest()


def _canonical(runs: Any) -> bytes:
    try:
        return orjson.dumps(runs, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # it does not write whole numbers beyond 64 bits
        return json.dumps(runs, sort_keys=True, default=str).encode()


def submit_batch(tasks: list[Task], robots: Sequence[Robot]) -> list[Task]:
    """Submit all these tasks, of these robots; or none, if this process dies before they are accepted."""
    return _enqueue(_accept(str(uuid7()), "", tasks), robots)


def _accept(id: str, fingerprint: str, tasks: list[Task]) -> Submission:
    submission = Submission(pk=id, fingerprint=fingerprint, created_at=stored_now())
    submission.tasks = [task.as_submitted() for task in tasks]
    if len(bson.encode({"tasks": submission.tasks})) > MAX_SIZE:
        raise InvalidInput([Problem(("body", "runs"), "Too much for one batch: send it in several", "too_long")])
    try:
        submission.save(force_insert=True)
    except IntegrityError:  # the same request, at the same time
        return Submission.objects.get(pk=id)
    return submission


def _enqueue(submission: Submission, robots: Sequence[Robot] | None = None) -> list[Task]:
    tasks = [Task.submitted(values) for values in submission.tasks]
    if not submission.stored:
        store(tasks)
        Submission.objects.filter(pk=submission.pk).update(stored=True)
        ring_for(tasks, robots)
    return tasks


def store(tasks: Sequence[Task]) -> None:
    """Put into the queue the tasks that are not there yet. Doing it twice, even at the same time, duplicates none."""
    missing = list(tasks)
    while missing:
        try:
            Task.objects.bulk_create(missing)
            return
        except IntegrityError:  # another process has stored some of them
            stored = set(Task.objects.filter(pk__in=[task.pk for task in tasks]).values_list("pk", flat=True))
            missing = [task for task in tasks if task.pk not in stored]


def requeue_unfinished() -> int:
    """Queue the submissions of requests that died after accepting them; return how many."""
    unqueued = Submission.objects.unqueued(recent_now() - REQUEUE_AFTER)[:STEP_SIZE]
    return sum(bool(_enqueue(submission)) for submission in unqueued.iterator(1))  # each may take MAX_SIZE


def forget_old() -> int:
    """Delete the submissions that are in the queue and older than KEY_LIFETIME, with their keys; return how many."""
    deleted: int = Submission.objects.done_before(recent_now() - KEY_LIFETIME).delete()[0]
    return deleted
