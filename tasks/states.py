"""What a task can be, and the values that each change of it writes."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

from django.db import models
from django.db.models import F
from django.db.models.functions import Greatest, Least

from fmv.ids import time_of
from fmv.mongodb.expressions import Appended, Later, Now

EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
DEFAULT_PRIORITY = 4
MAX_PRIORITY = 9


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


def error_document(type: str, message: str, traceback: str = "") -> dict[str, str]:
    """Return what `Task.error` holds; long texts are cut, of a traceback the end is kept."""
    return {"type": type, "message": encodable(message)[:2000], "traceback": encodable(traceback)[-20_000:]}


def encodable(text: str) -> str:
    """Return the text as UTF-8, and so MongoDB, can hold it: half characters, as in odd file names, become "?"."""
    return text.encode("utf-8", "replace").decode()


def note_of(error: dict[str, str]) -> str:
    return f"{error['type']}: {error['message']}"[:500]


def entering(status: Status, note: str, attempt: Any) -> dict[str, Any]:
    """The values that every entry into `status` writes: the status, and its line of history."""
    line = Appended("history", at=tick(), status=status.value, attempt=attempt, note=note)
    return {"status": status, "history": line, "changed_at": tick()}


def staying(note: Any) -> dict[str, Any]:
    """The values of a change that leaves the status as it is: a line of history."""
    line = Appended("history", at=tick(), status=F("status"), attempt=F("attempt"), note=note)
    return {"history": line, "changed_at": tick()}


def tick() -> Greatest:
    """Now, but later than the task's last change: so `changed_at` tells any two states of a task apart."""
    return Greatest(Now(), Later(F("changed_at"), 0.001))


def lease_until(started_at: Any, lease: float, grace: float) -> Least:
    """When a lease taken or renewed now ends: `lease` seconds on, but at most `grace` seconds after the timeout."""
    return Least(Later(Now(), lease), Later(started_at, F("timeout") + grace))


def first_line(id: uuid.UUID, status: Status, by: str) -> dict[str, Any]:
    """Return the line that a new task's history begins with."""
    return {"at": time_of(id), "status": status.value, "attempt": 0, "note": f"by {by}"}
