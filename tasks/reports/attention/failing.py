"""Robots on which the last tasks of a handler failed, one after the other."""

import datetime as dt
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from fmv.mongodb.counting import collection
from fmv.mongodb.server import recent_now
from tasks.models import Status, Task

FAILURES = 3  # in a row
WITHIN = dt.timedelta(days=1)  # in which they failed
MAX_FAILURES = 1000  # the latest, which are read
MAX_ENDED = 2000  # the latest tasks of the robots with so many failures, which are read


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
    ended: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in _ended_since(min(pairs.values()), {robot for robot, _ in pairs}) if pairs else ():
        ended.setdefault((row["robot"], row["handler"]), []).append(row)
    for robot, handler in sorted(pairs):
        last = ended.get((robot, handler), [])[:FAILURES]
        if len(last) == FAILURES and all(row["status"] == Status.FAILURE for row in last):
            error, since = (last[0].get("error") or {}).get("type", ""), last[-1]["finished_at"]
            yield Failing(robot, handler, since.replace(tzinfo=dt.UTC), uuid.UUID(last[0]["_id"]), error)


def _often_failed() -> dict[tuple[str, str], dt.datetime]:
    """Return the robots and handlers with enough of the latest failures, each with the time of the last but two.

    The index `task_failed` has the failures in order.
    """
    pipeline: list[dict[str, Any]] = [
        {"$match": {"status": Status.FAILURE.value, "finished_at": {"$gte": recent_now() - WITHIN}}},
        {"$sort": {"finished_at": -1}},
        {"$limit": MAX_FAILURES},
        {"$group": {"_id": {"robot": "$robot", "handler": "$handler"}, "times": {"$push": "$finished_at"}}},
    ]
    found = {(row["_id"]["robot"], row["_id"]["handler"]): row["times"] for row in collection(Task).aggregate(pipeline)}
    return {pair: times[FAILURES - 1] for pair, times in found.items() if len(times) >= FAILURES}


def _ended_since(begun: dt.datetime, robots: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield the MAX_ENDED latest tasks of these robots that succeeded or failed since then, latest first.

    The index `task_ended` has those of each robot in order.
    """
    shown = dict.fromkeys(("robot", "handler", "status", "finished_at", "error.type"), 1)
    match = {"robot": {"$in": sorted(robots)}, "finished_at": {"$gte": begun}}
    found = collection(Task).find(match, shown, sort=[("finished_at", -1)], limit=MAX_ENDED)
    yield from (row for row in found if row["status"] != Status.REVOKED)
