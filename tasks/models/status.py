"""What a task can be, and the values that each change of it writes."""

from __future__ import annotations

import datetime as dt

from django.db import models

from fmv.mongodb.expressions import NOW, Mql, appended, later, literal

EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
DEFAULT_PRIORITY = 4
MAX_PRIORITY = 9

#: Now, but later than the task's last change: so `changed_at` tells any two states of a task apart.
TICK: Mql = {"$max": [NOW, later("$changed_at", 0.001)]}


class Status(models.TextChoices):
    #: waits for its `run_at`
    SCHEDULED = "SCHEDULED"
    #: waits for a free lane of its robot
    QUEUED = "QUEUED"
    #: a worker runs it and holds a lane
    STARTED = "STARTED"
    #: failed or was interrupted, waits for its `run_at` to try again
    RETRY = "RETRY"
    #: its handler returned
    SUCCESS = "SUCCESS"
    #: its handler failed for good, ran too long, or its worker was lost too often
    FAILURE = "FAILURE"
    #: cancelled, or expired before it started
    REVOKED = "REVOKED"


#: still ahead of its next start
WAITING = (Status.SCHEDULED, Status.QUEUED, Status.RETRY)
UNFINISHED = (*WAITING, Status.STARTED)
FINISHED = (Status.SUCCESS, Status.FAILURE, Status.REVOKED)


def entering(status: Status, note: str, attempt: Mql = "$attempt") -> dict[str, Mql]:
    """Return what every entry into `status` sets: the status, and its line of history."""
    line = appended("history", at=TICK, status=status.value, attempt=attempt, note=literal(note))
    return {"status": status.value, "history": line, "changed_at": TICK}


def staying(note: Mql) -> dict[str, Mql]:
    """Return what a change sets that leaves the status as it is: a line of history."""
    line = appended("history", at=TICK, status="$status", attempt="$attempt", note=note)
    return {"history": line, "changed_at": TICK}


def lease_until(started_at: Mql, lease: float, grace: float) -> Mql:
    """When a lease taken or renewed now ends: `lease` seconds on, but at most `grace` seconds after the timeout."""
    return {"$min": [later(NOW, lease), later(started_at, {"$add": ["$timeout", grace]})]}
