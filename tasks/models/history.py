"""The history of a task: one line for each change, written together with the change."""

import datetime as dt
import uuid
from typing import Any

from fmv.mongodb.fields import DocumentField
from fmv.mongodb.uuid7 import time_of
from tasks.models.status import Status


class HistoryField(DocumentField):
    """A list of `{at, status, attempt, note}`, oldest first."""

    def from_db_value(self, value: list[dict[str, Any]] | None, *args: object) -> list[dict[str, Any]] | None:
        for entry in value or ():
            entry["at"] = entry["at"].replace(tzinfo=dt.UTC)
        return value


def first_line(id: uuid.UUID, status: Status, by: str) -> dict[str, Any]:
    """Return the line that the history of a new task begins with."""
    return {"at": time_of(id), "status": status.value, "attempt": 0, "note": f"by {by}"}
