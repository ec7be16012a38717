"""The ends of the ids of tasks and of their requests, by which the admin's search finds tasks.

Lists show the last 8 characters of an id. An index of the ids themselves finds only their beginnings, so the
maintenance worker stores each id backwards (TaskEnding). A submit pays nothing for that. A column of the task with an
index of its own would cost each submit one index key more, and its place in that index is random; the embedded server
would look at that index in each of the four writes of a task, too.
"""

import datetime as dt
import time
from collections.abc import Collection, Mapping
from itertools import islice
from typing import Any
from uuid import UUID

from pymongo import UpdateOne

from fmv.mongodb.counting import collection
from fmv.mongodb.server import recent_now
from tasks.models import EndingsUntil, Task, TaskEnding
from tasks.models.status import EPOCH

BATCH = 1000  # tasks that are read and stored at a time
BUDGET = 2.0  # seconds that a run takes; after an upgrade all tasks are due, and the next run goes on
LAG = dt.timedelta(seconds=5)  # that a run reads again: a write may become visible some time after the time it stores
LONGEST = dt.timedelta(minutes=1)  # for which a run that finds nothing leaves the position as it is
NAME = "tasks"


def note(seconds: float = BUDGET) -> int:
    """Store the endings of new tasks, for about `seconds`; return how many. Two round trips if there are none.

    The index `task_changed` finds them, because a task's id may be older than its document: a batch whose submission a
    crash has interrupted is stored minutes after its ids were chosen.
    """
    end, now = time.monotonic() + seconds, recent_now()
    known = EndingsUntil.objects.filter(pk=NAME).first()
    begun = known.changed if known else EPOCH
    noted, last = 0, begun
    columns = ["request_id", "stored_at", "changed_at"]
    with collection(Task).find(unnoted(known), columns, sort=[("changed_at", 1)], batch_size=BATCH) as cursor:
        while found := list(islice(cursor, BATCH)):
            new = [task for task in found if not _is_noted(task, known)]
            noted += _store({ending_of(task["_id"]): ending_of(task.get("request_id") or "") for task in new})
            last = found[-1]["changed_at"].replace(tzinfo=dt.UTC)
            if time.monotonic() >= end and last > begun:
                _come_to(changed=last)
                return noted
    if known is None or not known.stored or noted or now - LAG - begun > LONGEST:
        _come_to(changed=now - LAG, stored=now - LAG)
    return noted


def unnoted(known: EndingsUntil | None) -> dict[str, Any]:
    """Return the criteria of the tasks among which are all whose endings are not stored yet."""
    return {"changed_at": {"$gte": known.changed if known else EPOCH}}


def _is_noted(task: Mapping[str, Any], known: EndingsUntil | None) -> bool:
    """Return whether the task has only changed since it was noted."""
    return bool(known and known.stored and task["stored_at"].replace(tzinfo=dt.UTC) < known.stored)


def _come_to(**times: dt.datetime) -> None:
    collection(EndingsUntil).update_one({"_id": NAME}, {"$max": times}, upsert=True)


def _store(endings: Mapping[str, str]) -> int:
    """Store those of these endings that are not stored yet; return how many. Two processes may do it at once."""
    if not endings:
        return 0
    writes = [UpdateOne({"_id": id}, {"$setOnInsert": {"request": end}}, upsert=True) for id, end in endings.items()]
    return int(collection(TaskEnding).bulk_write(writes, ordered=False).upserted_count)


def ending_of(text: str) -> str:
    """Return the text backwards: texts with the same end have the same beginning then."""
    return text[::-1]


def forget(ids: Collection[Any]) -> None:
    """Delete the endings of these tasks."""
    TaskEnding.objects.filter(pk__in=[ending_of(UUID(str(id)).hex) for id in ids]).delete()
