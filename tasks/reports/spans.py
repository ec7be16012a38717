"""Totals of finished tasks by hour, robot and handler, so that one week can be compared with another.

The step that rolls up minutes (tasks.reports.tallies) rolls up an hour too when it is over, from the tasks themselves,
which it finds by the index `task_finished`. It replaces what is stored of that hour, so a crash, or a second process,
changes nothing. When a day is over, its hours are added up, so that a week of a robot is a few documents.
"""

from __future__ import annotations

import datetime as dt
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pymongo import UpdateOne

from fmv.mongodb.counting import collection
from tasks.models import SpanTally, Status, Task
from tasks.models.status import EPOCH
from tasks.reports.histogram import bucket

HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)
RETENTION = dt.timedelta(days=366)
BUDGET = 3.0  # seconds that a run takes, and one hour at least: after an upgrade the hours of all kept tasks are due
#: of the times that can be asked for; so that a week before the first and after the last of them exists too
YEARS = range(2000, 9000)
FLEET = ""  # in the place of a robot's name: all robots together
READ_BATCH = 1000  # documents in one reply of the server
#: what is read of a task
COLUMNS = ("robot", "handler", "status", "started_at", "finished_at", "history.at", "history.status")
FIELDS = {Status.SUCCESS: "succeeded", Status.FAILURE: "failed", Status.REVOKED: "cancelled"}


@dataclass
class Sums:
    """Numbers of finished tasks, and histograms of durations.

    `waits`: from when a task was queued first to its first start. `runs`: the last attempts of those that succeeded.
    """

    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    waits: Counter[int] = field(default_factory=Counter)
    runs: Counter[int] = field(default_factory=Counter)

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Sums:
        waits, runs = (Counter({int(each): count for each, count in row[name].items()}) for name in ("waits", "runs"))
        return cls(row["succeeded"], row["failed"], row["cancelled"], waits, runs)

    def stored(self) -> dict[str, Any]:
        numbers = {name: getattr(self, name) for name in FIELDS.values()}
        return numbers | {
            name: {str(k): n for k, n in sorted(getattr(self, name).items())} for name in ("waits", "runs")
        }

    def add(self, other: Sums) -> None:
        for name in FIELDS.values():
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.waits.update(other.waits)
        self.runs.update(other.runs)

    def count(self, task: Mapping[str, Any]) -> None:
        name = FIELDS[Status(task["status"])]
        setattr(self, name, getattr(self, name) + 1)
        if (wait := _wait(task.get("history") or ())) is not None:
            self.waits[bucket(wait)] += 1
        if name == "succeeded" and task.get("started_at"):
            self.runs[bucket((task["finished_at"] - task["started_at"]).total_seconds())] += 1


def _wait(history: Iterable[Mapping[str, Any]]) -> float | None:
    queued = None
    for line in history:
        if line["status"] == Status.QUEUED and queued is None:
            queued = line["at"]
        if line["status"] == Status.STARTED:
            return (line["at"] - queued).total_seconds() if queued else None
    return None


ByHandler = defaultdict[str, Sums]  # handler -> its sums


# --- Rolling up ------------------------------------------------------------------------------------------------------


def roll_up(limit: dt.datetime) -> int:
    """Roll up the hours before `limit` that are not yet, for about BUDGET; return how many. Delete old ones then.

    Two round trips while there is no such hour.
    """
    last = rolled_up_until()
    done, end = 0, time.monotonic() + BUDGET
    while not done or time.monotonic() < end:
        first = Task.objects.finished_since(last or EPOCH).values_list("finished_at", flat=True).first()
        if first is None or (begun := hour_of(first)) + HOUR > limit:
            break
        if last and (yesterday := day_of(last - HOUR)) < day_of(begun):
            _roll_up_day(yesterday)
        _store(begun, 1, _sums_of_hour(begun))
        last, done = begun + HOUR, done + 1
    if done:
        for hours in (1, 24):
            SpanTally.objects.filter(hours=hours, begun__lt=limit - RETENTION).delete()
    return done


def hour_of(moment: dt.datetime) -> dt.datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def day_of(moment: dt.datetime) -> dt.datetime:
    return hour_of(moment).replace(hour=0)


def _sums_of_hour(begun: dt.datetime) -> dict[str, ByHandler]:
    found: dict[str, ByHandler] = defaultdict(lambda: defaultdict(Sums))
    match = {"finished_at": {"$gte": begun, "$lt": begun + HOUR}}
    with collection(Task).find(match, list(COLUMNS), batch_size=READ_BATCH) as tasks:
        for task in tasks:
            for robot in (task["robot"], FLEET):
                found[robot][task["handler"]].count(task)
    return found


def _roll_up_day(begun: dt.datetime) -> None:
    """Add up the hours of a day that is over."""
    found: dict[str, ByHandler] = defaultdict(lambda: defaultdict(Sums))
    for tally in _read({"hours": 1, "begun": {"$gte": begun, "$lt": begun + DAY}}):
        for handler, sums in tally.handlers.items():
            found[tally.robot][handler].add(sums)
    _store(begun, 24, found)


def _store(begun: dt.datetime, hours: int, found: Mapping[str, ByHandler]) -> None:
    """Store these sums. Those of the fleet, whose document says that the span is done, come last."""
    writes = []
    for robot in sorted(found, reverse=True):
        rows = [{"handler": handler} | sums.stored() for handler, sums in sorted(found[robot].items())]
        values = {"robot": robot, "hours": hours, "begun": begun, "handlers": rows}
        writes.append(UpdateOne({"_id": f"{robot}/{begun:%Y-%m-%dT%H}/{hours}"}, {"$set": values}, upsert=True))
    collection(SpanTally).bulk_write(writes, ordered=True)


# --- Reading ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Span:
    """The sums of a robot (FLEET: of all) by handler, over so many hours."""

    robot: str
    begun: dt.datetime
    hours: int
    handlers: dict[str, Sums]


def rolled_up_until() -> dt.datetime | None:
    """Return the end of the last hour that is rolled up; None if there is none."""
    last = SpanTally.objects.filter(robot=FLEET, hours=1).order_by("-begun").first()
    return last.begun + HOUR if last else None


def between(
    begun: dt.datetime, until: dt.datetime, robots: Collection[str] | None = None, *, by_day: bool = True
) -> Iterator[Span]:
    """Yield the spans of these robots (None: of each robot) from one full hour to another.

    `by_day`: a day in UTC is one span if its hours are added up already. Four round trips at most, or one.
    """
    whose = {"robot": {"$gt": FLEET}} if robots is None else {"robot": {"$in": list(robots)}}
    for hours, since, to in _parts(begun, until) if by_day else [(1, begun, until)]:
        if since < to:
            yield from _read({"hours": hours, "begun": {"$gte": since, "$lt": to}} | whose)


def _parts(begun: dt.datetime, until: dt.datetime) -> list[tuple[int, dt.datetime, dt.datetime]]:
    """Return the parts of the span that are read by the day, and by the hour: (hours, begin, end) each."""
    last = SpanTally.objects.filter(robot=FLEET, hours=24).order_by("-begun").first()
    morning = day_of(begun + DAY - HOUR)
    night = min(day_of(until), last.begun + DAY) if last else morning
    if night <= morning:
        return [(1, begun, until)]
    return [(1, begun, morning), (24, morning, night), (1, night, until)]


def _read(match: dict[str, Any]) -> Iterator[Span]:
    with collection(SpanTally).find(match, batch_size=READ_BATCH) as found:
        for row in found:
            handlers = {each["handler"]: Sums.read(each) for each in row["handlers"]}
            yield Span(row["robot"], row["begun"].replace(tzinfo=dt.UTC), row["hours"], handlers)
