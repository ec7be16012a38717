"""The history of a task: one line for each change, written together with the change."""

import datetime as dt
import uuid
from typing import Any

from fmv.mongodb.fields import DocumentField
from fmv.mongodb.uuid7 import time_of
from tasks.models.status import Status

SCHEDULED_FOR = "%Y-%m-%d %H:%M:%S UTC"


class HistoryField(DocumentField):
    """A list of `{at, status, attempt, note}`, oldest first."""

    def from_db_value(self, value: list[dict[str, Any]] | None, *args: object) -> list[dict[str, Any]] | None:
        for entry in value or ():
            entry["at"] = entry["at"].replace(tzinfo=dt.UTC)
        return value


def first_line(id: uuid.UUID, status: Status, by: str, run_at: dt.datetime | None = None) -> dict[str, Any]:
    """Return the line that the history of a new task begins with. It names the time that a scheduled one waits for."""
    at = f", for {run_at.astimezone(dt.UTC):{SCHEDULED_FOR}}" if run_at and status == Status.SCHEDULED else ""
    return {"at": time_of(id), "status": status.value, "attempt": 0, "note": f"by {by}{at}"}


def scheduled_for(history: list[dict[str, Any]]) -> dt.datetime | None:
    """Return the time for which the task was scheduled, in whole seconds; None if it was queued at once."""
    first = history[0] if history else {"status": "", "note": ""}
    if first["status"] != Status.SCHEDULED:
        return None
    try:
        return dt.datetime.strptime(first["note"].rpartition(", for ")[2], SCHEDULED_FOR).replace(tzinfo=dt.UTC)
    except ValueError:  # stored before the line named the time
        return None
