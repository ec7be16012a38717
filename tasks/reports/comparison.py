"""Compare: how a span of time went against the one before, by handler, robot, location or label of the robots.

It reads the totals by hour and day (tasks.reports.spans), so its cost does not depend on the number of tasks, and it
still knows what was purged. It reads MAX_SPANS of them at most; a week of a robot is about forty with the one before.
"""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from fmv.mongodb.server import recent_now
from robots.models import Robot
from tasks.reports.histogram import percentile
from tasks.reports.spans import DAY, FLEET, HOUR, Span, Sums, between, day_of, hour_of

BY = {"handler": "Handler", "robot": "Robot", "location": "Location", "label": "Label"}
#: word -> (title, number of days)
SPANS = {"day": ("24 hours", 1), "week": ("7 days", 7), "month": ("28 days", 28)}
SETTLED = dt.timedelta(minutes=1)  # after its end an hour is rolled up
MAX_SPANS = 100_000  # that are read
MAX_GROUPS = 1000  # rows of an answer, those with most tasks
NO_LABEL, NO_LOCATION = "(no label)", "(not registered)"


@dataclass(frozen=True)
class Figures:
    """How tasks went that finished within so many hours. Percent, seconds, and tasks an hour; None: there were none."""

    sums: Sums = field(default_factory=Sums)
    hours: float = 0.0

    @property
    def finished(self) -> int:
        return self.sums.succeeded + self.sums.failed + self.sums.cancelled

    @property
    def success_rate(self) -> float | None:
        """The percentage that succeeded; cancelled tasks do not count."""
        judged = self.sums.succeeded + self.sums.failed
        return 100 * self.sums.succeeded / judged if judged else None

    @property
    def per_hour(self) -> float:
        return self.finished / self.hours if self.hours else 0.0

    @property
    def wait_p50(self) -> float | None:
        return percentile(self.sums.waits, 50)

    @property
    def wait_p95(self) -> float | None:
        return percentile(self.sums.waits, 95)

    @property
    def run_p50(self) -> float | None:
        return percentile(self.sums.runs, 50)

    @property
    def run_p95(self) -> float | None:
        return percentile(self.sums.runs, 95)


@dataclass(frozen=True)
class Period:
    begun: dt.datetime
    until: dt.datetime

    @property
    def hours(self) -> float:
        return (self.until - self.begun) / HOUR

    def earlier(self, by: dt.timedelta) -> Period:
        return Period(self.begun - by, self.until - by)


@dataclass(frozen=True)
class Group:
    name: str
    now: Figures
    before: Figures


@dataclass(frozen=True)
class Column:
    """An hour or a day of either period."""

    period: Period
    figures: Figures
    is_now: bool


@dataclass(frozen=True)
class Comparison:
    now: Period
    before: Period
    #: those with most tasks first
    groups: list[Group]
    total: Group
    #: oldest first
    columns: list[Column]
    #: False: there was more than MAX_SPANS to read
    complete: bool


@dataclass(frozen=True)
class Asked:
    """What to compare. `by`: a key of BY; `span`: a key of SPANS; `until`: a full hour, None means the last one.

    The others, unless empty, leave out what is not of that handler, robot, location or label.
    """

    by: str = "handler"
    span: str = "week"
    until: dt.datetime | None = None
    handler: str = ""
    robot: str = ""
    location: str = ""
    label: str = ""

    def periods(self) -> tuple[Period, Period]:
        """Return the span and the one before. Those of several days begin at midnight, UTC."""
        until = hour_of(self.until or recent_now() - SETTLED)
        length = SPANS[self.span][1] * DAY
        begun = until - DAY if self.span == "day" else day_of(until - HOUR) + DAY - length
        now = Period(begun, until)
        return now, now.earlier(length)


def compare(asked: Asked) -> Comparison:
    """Return the comparison: two round trips about the registry at most, and four for each of the two spans."""
    now, before = asked.periods()
    robots = _robots(asked)
    names = _names(asked.by)
    groups: dict[str, tuple[Sums, Sums]] = defaultdict(lambda: (Sums(), Sums()))
    columns: dict[dt.datetime, Sums] = defaultdict(Sums)
    whole, read = (Sums(), Sums()), 0
    step = HOUR if asked.span == "day" else DAY
    for which, period in enumerate((now, before)):
        found = between(period.begun, period.until, robots, by_day=step == DAY)
        for span in islice(found, MAX_SPANS - read):
            read += 1
            for handler, sums in span.handlers.items():
                if asked.handler in ("", handler):
                    whole[which].add(sums)
                    columns[span.begun if step == HOUR else day_of(span.begun)].add(sums)
                    for name in names(span, handler):
                        groups[name][which].add(sums)
    rows = [
        Group(name, Figures(sums[0], now.hours), Figures(sums[1], before.hours))
        for name, sums in sorted(groups.items())
    ]
    rows.sort(key=lambda row: -(row.now.finished or row.before.finished / MAX_SPANS))
    return Comparison(
        now,
        before,
        rows[:MAX_GROUPS],
        Group("", Figures(whole[0], now.hours), Figures(whole[1], before.hours)),
        [*_columns(before, step, columns, is_now=False), *_columns(now, step, columns, is_now=True)],
        complete=read < MAX_SPANS,
    )


def _columns(period: Period, step: dt.timedelta, sums: Mapping[dt.datetime, Sums], *, is_now: bool) -> Iterator[Column]:
    begun = period.begun
    while begun < period.until:
        part = Period(begun, min(begun + step, period.until))
        yield Column(part, Figures(sums.get(begun, Sums()), part.hours), is_now)
        begun += step


def _robots(asked: Asked) -> list[str] | None:
    """Return the names of the robots to read; None: each."""
    if asked.location or asked.label:
        found = Robot.objects.matching(label=asked.label or None)
        found = found.filter(location=asked.location) if asked.location else found
        names = list(found.order_by().values_list("name", flat=True))
        return [name for name in names if asked.robot in ("", name)]
    if asked.robot:
        return [asked.robot]
    return [FLEET] if asked.by == "handler" else None


def _names(by: str) -> Callable[[Span, str], Iterable[str]]:
    """Return what gives the names of the groups in which a robot's span counts for this handler."""
    if by == "handler":
        return lambda span, handler: [handler]
    if by == "robot":
        return lambda span, handler: [span.robot]
    column = {"location": "location", "label": "labels"}[by]
    known = dict(Robot.objects.order_by().values_list("name", column))
    if by == "location":
        return lambda span, handler: [known.get(span.robot, NO_LOCATION)]
    return lambda span, handler: known.get(span.robot) or [NO_LABEL]
