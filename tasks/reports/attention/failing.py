"""Robots on which the last tasks of a handler failed, one after the other."""

import datetime as dt
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from fmv.mongodb.counting import collection
from fmv.mongodb.server import recent_now
from tasks.models import Status, Task
from tasks.models.status import EPOCH

FAILURES = 3  # in a row
WITHIN = dt.timedelta(days=1)  # in which they failed
MAX_FAILURES = 1000  # the latest, which are read
MAX_ROBOTS = 50  # with so many failures, of which the latest tasks are read
LATEST = 50  # tasks of a robot that are read


@dataclass(frozen=True)
class Failing:
    """A robot and a handler whose last FAILURES tasks there failed: since when, the last, and the type of its error."""

    robot: str
    handler: str
    since: dt.datetime
    last: uuid.UUID
    error: str


def now_failing() -> Iterator[Failing]:
    """Yield the robots and handlers that fail now, by robot: one query, and one more if any failed so often."""
    pairs = _often_failed()
    robots = sorted({robot for robot, _ in pairs})[:MAX_ROBOTS]
    ended: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _latest(robots) if robots else ():
        ended.setdefault((row["robot"], row["handler"]), []).append(row)
    for robot, handler in sorted(pairs):
        last = ended.get((robot, handler), [])[:FAILURES]
        if len(last) == FAILURES and all(row["status"] == Status.FAILURE for row in last):
            error, since = (last[0].get("error") or {}).get("type", ""), last[-1]["finished_at"]
            yield Failing(robot, handler, since.replace(tzinfo=dt.UTC), uuid.UUID(last[0]["_id"]), error)


def _often_failed() -> set[tuple[str, str]]:
    """Return the robots and handlers with enough of the latest failures; the index `task_failed` has these in order."""
    pipeline: list[dict[str, Any]] = [
        {"$match": {"status": Status.FAILURE.value, "finished_at": {"$gte": recent_now() - WITHIN}}},
        {"$sort": {"finished_at": -1}},
        {"$limit": MAX_FAILURES},
        {"$group": {"_id": {"robot": "$robot", "handler": "$handler"}, "count": {"$sum": 1}}},
        {"$match": {"count": {"$gte": FAILURES}}},
    ]
    return {(row["_id"]["robot"], row["_id"]["handler"]) for row in collection(Task).aggregate(pipeline)}


def _latest(robots: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the latest tasks of each robot that succeeded or failed, latest first, by the index `task_ended`."""
    tasks = collection(Task)
    shown = dict.fromkeys(("robot", "handler", "status", "finished_at", "error.type"), 1)
    pipelines: list[list[dict[str, Any]]] = [
        [
            {"$match": {"robot": robot, "finished_at": {"$gt": EPOCH}}},
            {"$sort": {"finished_at": -1}},
            {"$limit": LATEST},
            {"$match": {"status": {"$ne": Status.REVOKED.value}}},
            {"$project": shown},
        ]
        for robot in robots
    ]
    first, *others = pipelines
    united = [*first, *({"$unionWith": {"coll": tasks.name, "pipeline": other}} for other in others)]
    yield from tasks.aggregate(united)
