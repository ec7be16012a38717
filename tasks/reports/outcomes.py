"""The last success and the last failure of each robot, without a read of all its tasks.

They are rolled up minute by minute by the same job as the tallies (see tasks.reports.tallies). Tasks that ended since
are one range of the index `task_finished`, about a minute long.
"""

import datetime as dt
import uuid
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pymongo import UpdateOne

from fmv.mongodb.counting import collection
from tasks.models import LastOutcomes, Status, Task

#: the field for each status; a cancelled task says nothing about its robot
FIELDS = {Status.SUCCESS: "success", Status.FAILURE: "failure"}

Found = dict[str, dict[str, dict[str, Any]]]  # robot -> field -> ending


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
        """Whether the last task that succeeded or failed has failed."""
        return self.failure is not None and (self.success is None or self.success < self.failure)


NO_OUTCOMES = Outcomes()


def roll_up(since: dt.datetime, until: dt.datetime) -> None:
    """Store the last outcomes of this time. Repeating a time, in any order, is harmless: the later outcome stays."""
    found = between(since, until)
    if found:
        changes = [UpdateOne({"_id": robot}, {"$max": endings}, upsert=True) for robot, endings in found.items()]
        collection(LastOutcomes).bulk_write(changes, ordered=False)


def between(since: dt.datetime, until: dt.datetime | None = None, robots: Collection[str] | None = None) -> Found:
    """Return the last endings in this time by robot and field of LastOutcomes, read by the index `task_finished`."""
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
    """Return the stored outcomes of these robots, or of all."""
    match = {} if robots is None else {"_id": {"$in": list(robots)}}
    return {row.pop("_id"): row for row in collection(LastOutcomes).find(match)}


def merged(stored: Found, recent: Found) -> dict[str, Outcomes]:
    """Return the outcomes of every robot in either; a recent one is the later."""
    both = {robot: stored.get(robot, {}) | recent.get(robot, {}) for robot in {*stored, *recent}}
    return {
        robot: Outcomes(**{field: _ending(ending) for field, ending in endings.items()})
        for robot, endings in both.items()
    }


def _ending(ending: dict[str, Any] | None) -> Ending | None:
    return Ending(ending["at"].replace(tzinfo=dt.UTC), uuid.UUID(ending["id"])) if ending else None


def forget(robot: str) -> None:
    """Delete the stored outcomes of a robot."""
    LastOutcomes.objects.filter(pk=robot).delete()
