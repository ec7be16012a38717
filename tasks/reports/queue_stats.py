"""How queue and fleet are doing, as cheap with a million tasks as with ten.

What is unfinished is counted by index, up to a bound. What has finished is added up once a minute into tallies, each
of which holds the totals since FMV counts, so that any span of time is the difference of two.

A tally is made from the tasks themselves, after its minute is over, and inserted whole or not at all. A count kept
beside each transition would be a second write, and a crash between the two would leave it wrong for ever; here a crash
only leaves a minute to be added up again, by whoever comes next, to the same sums.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from django.db import IntegrityError

from fmv.mongodb.counting import collection
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import time_of
from robots.models import Robot
from tasks.models import FINISHED, UNFINISHED, Status, Tally, Task
from tasks.models.querysets import TaskQuerySet
from tasks.models.status import EPOCH
from tasks.reports import outcomes

MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
SETTLED = dt.timedelta(seconds=10)  # a minute is added up this long after its end: no write of it is under way then
KEEP = dt.timedelta(days=8)  # how long tallies are kept, but for the last one before
CAP = 100_000  # tasks of one unfinished status that are counted
STEP = 100  # queued tasks looked at in the first go
UNTALLIED = 20_000  # finished tasks that no tally covers yet, of which pages add up this many at most
MEASURES = ("count", "attempts", "seconds")  # attempts: begun; seconds: that the last one took


class Totals(dict[tuple[str, str, str], float]):
    """Sums by status, handler and measure."""

    def __missing__(self, key: tuple[str, str, str]) -> float:
        return 0

    @classmethod
    def read(cls, rows: Iterable[Mapping[str, Any]]) -> Totals:
        return cls({(row["status"], row["handler"], name): row[name] for row in rows for name in MEASURES})

    def rows(self) -> list[dict[str, Any]]:
        pairs = sorted({(status, handler) for status, handler, _ in self})
        return [
            {"status": status, "handler": handler} | {name: self[status, handler, name] for name in MEASURES}
            for status, handler in pairs
        ]

    def plus(self, other: Totals) -> Totals:
        return Totals({key: self[key] + other[key] for key in {*self, *other}})

    def minus(self, other: Totals) -> Totals:
        return Totals({key: self[key] - other[key] for key in self})


# --- What has finished -----------------------------------------------------------------------------------------------


def count_finished() -> int:
    """Add up the past minutes that no tally covers yet; return how many there were. Forget tallies long past."""
    now = server_now()
    added = 0
    while _add_next(now - SETTLED):
        added += 1
    _forget(now - KEEP)
    return added


def _add_next(settled: dt.datetime) -> bool:
    """Add up the first minute since the last tally in which a task finished; False when none is over yet."""
    last = latest_tally()
    begun = last.until if last else EPOCH
    first = Task.objects.finished_since(begun).values_list("finished_at", flat=True).first()
    if first is None or (until := first.replace(second=0, microsecond=0) + MINUTE) > settled:
        return False
    totals = totals_of(last).plus(finished_between(begun, until))
    outcomes.note(begun, until)  # before the tally says that this minute is done; twice is as good as once
    with contextlib.suppress(IntegrityError):  # somebody else added it up at the same time
        Tally(until=until, totals=totals.rows()).save(force_insert=True)
    return True


def _forget(limit: dt.datetime) -> None:
    """Delete the tallies before the last one that tells what there was at `limit`."""
    if needed := latest_tally(limit):
        Tally.objects.filter(until__lt=needed.until).delete()


def latest_tally(by: dt.datetime | None = None) -> Tally | None:
    """Return the last tally, or the last one of what had finished by then."""
    tallies = Tally.objects.filter(until__lte=by) if by else Tally.objects.all()
    return tallies.order_by("-until").first()


def totals_of(tally: Tally | None) -> Totals:
    return Totals.read(tally.totals if tally else ())


def finished_between(since: dt.datetime, until: dt.datetime | None = None, at_most: int = 0) -> Totals:
    """Return the sums over the tasks that finished in this time, read by the index `task_finished`.

    `at_most`: of so many of them, unless 0.
    """
    return Totals.read(_sums({"$gte": since} | ({"$lt": until} if until else {}), at_most))


def _sums(finished_at: dict[str, Any], at_most: int, **key: Any) -> Iterator[dict[str, Any]]:
    """Yield the sums by status, handler and whatever else `key` tells apart."""
    milliseconds = {"$subtract": ["$finished_at", "$started_at"]}  # null, which adds nothing, if it never started
    rows = collection(Task).aggregate(
        [
            {"$match": {"finished_at": finished_at}},
            *([{"$limit": at_most}] if at_most else []),
            {
                "$group": {
                    "_id": {"status": "$status", "handler": "$handler", **key},
                    "count": {"$sum": 1},
                    "attempts": {"$sum": "$attempt"},
                    "seconds": {"$sum": {"$divide": [milliseconds, 1000]}},
                }
            },
        ]
    )
    return (row | row["_id"] for row in rows)


def finished_within(span: dt.timedelta) -> Totals:
    """Return the sums over what has finished in this time until now, from a whole minute on: four round trips.

    Of what no tally covers UNTALLIED at most.
    """
    since = server_now().replace(second=0, microsecond=0) - span
    latest = latest_tally()
    recent = finished_between(max(since, latest.until) if latest else since, at_most=UNTALLIED)
    return totals_of(latest).plus(recent).minus(totals_of(latest_tally(since)))


def series(edges: list[dt.datetime]) -> list[Totals]:
    """Return the sums over what finished between each two of these moments, multiples of the time between them.

    Four round trips: the tally before them all, the keys of those within, the last one before each moment, and the
    tasks since the last of all, UNTALLIED at most.
    """
    before = latest_tally(edges[0])
    within = Tally.objects.filter(until__gt=edges[0], until__lte=edges[-1]).order_by("until")
    keys = list(within.values_list("until", flat=True)[: _minutes(edges)])
    last = [keys[number - 1] if (number := bisect_right(keys, edge)) else None for edge in edges]
    needed = {key for key in last if key}
    tallies = {tally.until: totals_of(tally) for tally in Tally.objects.filter(pk__in=needed).order_by()}
    sums = [tallies[key] if key else totals_of(before) for key in last]
    recent = _untallied(max(edges[0], keys[-1]) if keys else edges[0], edges[1] - edges[0])
    spans = zip(edges, pairwise(sums), strict=False)
    return [later.minus(earlier).plus(recent.get(begun, Totals())) for begun, (earlier, later) in spans]


def _untallied(since: dt.datetime, span: dt.timedelta) -> dict[dt.datetime, Totals]:
    """Return the sums over what finished since then by the beginning of the span it finished in."""
    rows: dict[dt.datetime, list[dict[str, Any]]] = {}
    moment = {"$toLong": "$finished_at"}
    begun = {"$toDate": {"$subtract": [moment, {"$mod": [moment, int(span.total_seconds() * 1000)]}]}}
    for row in _sums({"$gte": since}, UNTALLIED, begun=begun):
        rows.setdefault(row["begun"].replace(tzinfo=dt.UTC), []).append(row)
    return {begun: Totals.read(found) for begun, found in rows.items()}


def _minutes(edges: list[dt.datetime]) -> int:
    return int((edges[-1] - edges[0]) / MINUTE)


# --- What has not ----------------------------------------------------------------------------------------------------


def unfinished() -> Counter[tuple[str, str]]:
    """Return how many unfinished tasks there are by status and handler, of each status CAP at most.

    The index `task_overdue` holds both, so no task is read.
    """
    counts: Counter[tuple[str, str]] = Counter()
    for status in UNFINISHED:
        pipeline = [
            {"$match": {"status": status.value}},
            {"$limit": CAP},
            {"$group": {"_id": "$handler", "count": {"$sum": 1}}},
        ]
        for row in collection(Task).aggregate(pipeline):
            counts[status.value, row["_id"]] = row["count"]
    return counts


@dataclass(frozen=True)
class Waiting:
    """A queued task, and since when it is queued."""

    since: dt.datetime
    id: uuid.UUID
    robot: str
    handler: str


def queue_age() -> float:
    """Return for how many seconds the task queued longest has waited, of a robot in service; 0 without one."""
    oldest = longest_waiting()
    return max(0.0, (server_now() - oldest.since).total_seconds()) if oldest else 0.0


def longest_waiting() -> Waiting | None:
    """Return the task queued longest of a robot in service."""
    firsts = [first for queue in Task.objects.longest_queued() if (first := _first_in_service(queue))]
    return min(firsts, key=lambda first: first.since, default=None)


def _first_in_service(queue: TaskQuerySet) -> Waiting | None:
    """Return the first task of a robot in service; robots out of service are stepped over."""
    out: set[str] = set()
    step = STEP
    while rows := list(queue.exclude(robot__in=out).values_list("robot", "id", "run_at", "handler")[:step]):
        names = {robot for robot, *_ in rows}
        serving = set(Robot.objects.in_service().filter(pk__in=names).values_list("pk", flat=True))
        for robot, id, run_at, handler in rows:
            if robot in serving:
                return Waiting(run_at or time_of(id), id, robot, handler)
        out |= names
        step = min(10 * step, 100 * STEP)
    return None


def robots() -> dict[str, int]:
    """Return how many robots are in service, out of it, and busy: running a task."""
    return {"in_service": _count(enabled=True), "out_of_service": _count(enabled=False), "busy": len(busy_robots())}


def robots_by_state() -> dict[str, int]:
    """Return how many are busy, how many in service idle, and how many out of service, which may be busy still."""
    busy = busy_robots()
    idle = _count(enabled=True) - (_count(enabled=True, _id={"$in": [*busy]}) if busy else 0)
    return {"busy": len(busy), "idle": max(0, idle), "out": _count(enabled=False)}


def _count(**conditions: Any) -> int:
    """Count robots by index: the ORM's count() would read them."""
    return int(collection(Robot).count_documents(conditions))


def busy_robots() -> set[str]:
    """Return the names of the robots that run a task: no more than there are processes to run them."""
    return set(Task.objects.started().order_by().values_list("robot", flat=True))


# --- All of it -------------------------------------------------------------------------------------------------------


def overview() -> dict[str, Any]:
    """Return what `GET /stats` answers."""
    since = server_now().replace(second=0, microsecond=0) - HOUR
    latest = latest_tally()
    recent = finished_between(max(since, latest.until) if latest else since)
    totals = totals_of(latest).plus(recent)
    last_hour = totals.minus(totals_of(latest_tally(since)))
    waiting = unfinished()
    return {
        "tasks": _by_status(totals, waiting),
        "handlers": {
            name: _by_status(totals, waiting, name)
            for name in sorted({handler for _, handler, _ in totals} | {handler for _, handler in waiting})
        },
        "queue_age": queue_age(),
        "last_hour": {status.value: count_of(last_hour, status) for status in FINISHED},
        "robots": robots(),
    }


def _by_status(totals: Totals, waiting: Counter[tuple[str, str]], handler: str | None = None) -> dict[str, int]:
    unfinished = {
        status.value: sum(n for (of, name), n in waiting.items() if of == status and handler in (None, name))
        for status in UNFINISHED
    }
    finished = {status.value: count_of(totals, status, handler) for status in FINISHED}
    return {status.value: (unfinished | finished)[status.value] for status in Status}


def count_of(totals: Totals, status: Status, handler: str | None = None) -> int:
    """Return how many tasks ended in this status, of all handlers or one."""
    return sum(
        int(value)
        for (of, name, measure), value in totals.items()
        if of == status and measure == "count" and handler in (None, name)
    )
