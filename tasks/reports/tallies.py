"""Totals of finished tasks, rolled up once a minute, so that statistics cost the same with a million tasks as with ten.

A tally holds the totals since FMV began to count; the totals of any span of time are the difference of two tallies.

A tally is computed from the tasks themselves, after its minute is over, and inserted in one write. A count kept beside
each transition would be a second write, and a crash between the two would leave it wrong for ever. Here a crash only
leaves a minute that the next run rolls up, with the same result.
"""

from __future__ import annotations

import contextlib
import datetime as dt
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from django.db import IntegrityError

from fmv.mongodb.counting import collection
from fmv.mongodb.server import recent_now, server_now
from tasks.models import Status, Tally, Task
from tasks.models.status import EPOCH
from tasks.reports import outcomes, spans

MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
ROLLUP_DELAY = dt.timedelta(seconds=10)  # from the end of a minute to its rollup: no write of that minute is late
RETENTION = dt.timedelta(days=8)  # of tallies; the last one before that time is kept too
MAX_RECENT = 20_000  # finished tasks that are not rolled up yet and that a page adds up
MEASURES = ("count", "attempts", "seconds")  # tasks, attempts that were begun, seconds that the last attempts took


class FinishedTotals(dict[tuple[str, str, str], float]):
    """Totals of finished tasks by status, handler and measure."""

    def __missing__(self, key: tuple[str, str, str]) -> float:
        return 0

    @classmethod
    def read(cls, rows: Iterable[Mapping[str, Any]]) -> FinishedTotals:
        return cls({(row["status"], row["handler"], name): row[name] for row in rows for name in MEASURES})

    def rows(self) -> list[dict[str, Any]]:
        pairs = sorted({(status, handler) for status, handler, _ in self})
        return [
            {"status": status, "handler": handler} | {name: self[status, handler, name] for name in MEASURES}
            for status, handler in pairs
        ]

    def plus(self, other: FinishedTotals) -> FinishedTotals:
        return FinishedTotals({key: self[key] + other[key] for key in {*self, *other}})

    def minus(self, other: FinishedTotals) -> FinishedTotals:
        return FinishedTotals({key: self[key] - other[key] for key in self})

    def total(self) -> int:
        """Return how many tasks ended."""
        return sum(int(value) for (_, _, measure), value in self.items() if measure == "count")

    def count(self, status: Status, handler: str | None = None) -> int:
        """Return how many tasks ended in this status, of one handler or all."""
        return sum(
            int(value)
            for (of, name, measure), value in self.items()
            if of == status and measure == "count" and handler in (None, name)
        )


# --- Rolling up ------------------------------------------------------------------------------------------------------


def roll_up() -> int:
    """Roll up the past minutes that no tally covers yet, and return their number. Delete old tallies.

    If there were any, an hour may be over too: see `roll_up_hours`.
    """
    now = server_now()
    added = 0
    while _roll_up_next(now - ROLLUP_DELAY):
        added += 1
    if added:
        roll_up_hours()
    if needed := latest_tally(now - RETENTION):
        Tally.objects.filter(until__lt=needed.until).delete()
    return added


def roll_up_hours() -> int:
    """Roll up the past hours (tasks.reports.spans); return how many.

    `roll_up` calls it, and a job every ten minutes, so that the last hour of a fleet that has become quiet is found.
    """
    return spans.roll_up(recent_now() - ROLLUP_DELAY)


def _roll_up_next(limit: dt.datetime) -> bool:
    """Roll up the first minute since the last tally in which a task finished; False if there is none before `limit`."""
    last = latest_tally()
    begun = last.until if last else EPOCH
    first = Task.objects.finished_since(begun).values_list("finished_at", flat=True).first()
    if first is None or (until := first.replace(second=0, microsecond=0) + MINUTE) > limit:
        return False
    totals = totals_of(last).plus(finished_between(begun, until))
    outcomes.roll_up(begun, until)  # before the tally, which records that the minute is done; repeating it is harmless
    with contextlib.suppress(IntegrityError):  # another process has rolled it up at the same time
        Tally(until=until, totals=totals.rows()).save(force_insert=True)
    return True


# --- Reading ---------------------------------------------------------------------------------------------------------


def latest_tally(by: dt.datetime | None = None) -> Tally | None:
    """Return the last tally, or the last one up to that time."""
    tallies = Tally.objects.filter(until__lte=by) if by else Tally.objects.all()
    return tallies.order_by("-until").first()


def rolled_up_until() -> dt.datetime:
    """Return the time up to which finished tasks are rolled up."""
    latest = latest_tally()
    return latest.until if latest else EPOCH


def totals_of(tally: Tally | None) -> FinishedTotals:
    return FinishedTotals.read(tally.totals if tally else ())


def finished_between(since: dt.datetime, until: dt.datetime | None = None, at_most: int = 0) -> FinishedTotals:
    """Return the totals of the tasks that finished in this time, read by the index `task_finished`.

    `at_most` limits the number of tasks; 0 means all.
    """
    return FinishedTotals.read(_sums({"$gte": since} | ({"$lt": until} if until else {}), at_most))


def _sums(finished_at: dict[str, Any], at_most: int, **key: Any) -> Iterator[dict[str, Any]]:
    """Yield the totals by status, handler and the further expressions in `key`."""
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


def finished_within(*spans: dt.timedelta) -> list[FinishedTotals]:
    """Return the totals of the tasks that finished in each of these spans until now, from a whole minute on.

    Two round trips and one for each span. Of the tasks that are not rolled up yet, at most MAX_RECENT are counted.
    """
    now, latest = recent_now().replace(second=0, microsecond=0), latest_tally()
    begun = [max(now - span, latest.until) if latest else now - span for span in spans]
    recent = {since: finished_between(since, at_most=MAX_RECENT) for since in {*begun}}
    return [
        totals_of(latest).plus(recent[since]).minus(totals_of(latest_tally(now - span)))
        for span, since in zip(spans, begun, strict=True)
    ]


def series(edges: list[dt.datetime]) -> list[FinishedTotals]:
    """Return the totals of the tasks that finished between each two neighbours of `edges`, which are equally spaced.

    Each edge must be a multiple of the space. Four round trips: the tally before all edges, the keys of those within,
    the last one before each edge, and at most MAX_RECENT tasks since the last of all.
    """
    before = latest_tally(edges[0])
    within = Tally.objects.filter(until__gt=edges[0], until__lte=edges[-1]).order_by("until")
    keys = list(within.values_list("until", flat=True)[: int((edges[-1] - edges[0]) / MINUTE)])
    last = [keys[number - 1] if (number := bisect_right(keys, edge)) else None for edge in edges]
    needed = {key for key in last if key}
    tallies = {tally.until: totals_of(tally) for tally in Tally.objects.filter(pk__in=needed).order_by()}
    sums = [tallies[key] if key else totals_of(before) for key in last]
    recent = _recent(max(edges[0], keys[-1]) if keys else edges[0], edges[1] - edges[0])
    spans = zip(edges, pairwise(sums), strict=False)
    return [later.minus(earlier).plus(recent.get(begun, FinishedTotals())) for begun, (earlier, later) in spans]


def _recent(since: dt.datetime, span: dt.timedelta) -> dict[dt.datetime, FinishedTotals]:
    """Return the totals of the tasks that finished since then, by the beginning of the span they finished in."""
    rows: dict[dt.datetime, list[dict[str, Any]]] = {}
    finished = {"$toLong": "$finished_at"}
    begun = {"$toDate": {"$subtract": [finished, {"$mod": [finished, int(span.total_seconds() * 1000)]}]}}
    for row in _sums({"$gte": since}, MAX_RECENT, begun=begun):
        rows.setdefault(row["begun"].replace(tzinfo=dt.UTC), []).append(row)
    return {begun: FinishedTotals.read(found) for begun, found in rows.items()}
