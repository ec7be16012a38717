"""How each robot's tasks ended last, known without reading its tasks.

The last success and the last failure of every robot are kept up to the latest tally, minute by minute and by the same
job (see tasks.reports.queue_stats). What ended since is one range of the index `task_finished`, about a minute long.
"""

import datetime as dt
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pymongo import UpdateOne

from fmv.mongodb.counting import collection
from tasks.models import LastOutcomes, Status, Task

#: the field that holds the last task which ended so; one that was cancelled says nothing about its robot
FIELDS = {Status.SUCCESS: "success", Status.FAILURE: "failure"}

Found = dict[str, dict[str, dict[str, Any]]]


@dataclass(frozen=True, order=True)
class Ending:
    """The end of a task."""

    at: dt.datetime
    id: uuid.UUID


@dataclass(frozen=True)
class Outcomes:
    """A robot's last success and last failure."""

    success: Ending | None = None
    failure: Ending | None = None

    @property
    def failing(self) -> bool:
        """Whether its last task that succeeded or failed has failed."""
        return self.failure is not None and (self.success is None or self.success < self.failure)


NONE = Outcomes()


def note(since: dt.datetime, until: dt.datetime) -> None:
    """Keep the last outcomes of this time. Repeating it, or doing it out of turn, changes nothing: the later stays."""
    found = between(since, until)
    if found:
        changes = [UpdateOne({"_id": robot}, {"$max": endings}, upsert=True) for robot, endings in found.items()]
        collection(LastOutcomes).bulk_write(changes, ordered=False)


def between(since: dt.datetime, until: dt.datetime | None = None, robots: Collection[str] | None = None) -> Found:
    """Return by robot and field of LastOutcomes what ended last in this time, read by the index `task_finished`."""
    match: dict[str, Any] = {
        "finished_at": {"$gte": since} | ({"$lt": until} if until else {}),
        "status": {"$in": [status.value for status in FIELDS]},
    }
    if robots is not None:
        match["robot"] = {"$in": list(robots)}
    key = {"robot": "$robot", "status": "$status"}
    group = {"_id": key, "last": {"$max": {"at": "$finished_at", "id": "$_id"}}}
    found: Found = {}
    for row in collection(Task).aggregate([{"$match": match}, {"$group": group}]):
        found.setdefault(row["_id"]["robot"], {})[FIELDS[Status(row["_id"]["status"])]] = row["last"]
    return found


def stored(robots: Collection[str] | None = None) -> Found:
    """Return the kept ones: of these robots, by key, or of all, as many as there are robots."""
    match = {} if robots is None else {"_id": {"$in": list(robots)}}
    return {row.pop("_id"): row for row in collection(LastOutcomes).find(match)}


def merged(kept: Found, recent: Found) -> dict[str, Outcomes]:
    """Return the outcomes of every robot that either knows; what is recent is the later."""
    both = {robot: kept.get(robot, {}) | recent.get(robot, {}) for robot in {*kept, *recent}}
    return {
        robot: Outcomes(**{field: _ending(ending) for field, ending in endings.items()})
        for robot, endings in both.items()
    }


def _ending(ending: dict[str, Any] | None) -> Ending | None:
    return Ending(ending["at"].replace(tzinfo=dt.UTC), uuid.UUID(ending["id"])) if ending else None


def forget(robot: str) -> None:
    """Forget those of a robot that is gone."""
    LastOutcomes.objects.filter(pk=robot).delete()
