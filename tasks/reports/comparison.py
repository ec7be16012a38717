"""Compare: how a span of time went against the one before, by handler, robot, location or label of the robots.

It reads the totals by hour and day (tasks.reports.spans), so its cost does not depend on the number of tasks, and it
still knows what was purged. It reads MAX_SPANS of them at most; a week of a robot is about forty with the one before.
"""

from __future__ import annotations

import datetime as dt
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice, pairwise, takewhile

from fmv import local_time
from fmv.mongodb.server import recent_now
from robots.models import Robot
from tasks.reports.histogram import percentile
from tasks.reports.spans import DAY, FLEET, HOUR, Span, Sums, between, hour_of

BY = {"handler": "Handler", "robot": "Robot", "location": "Location", "label": "Label"}
#: word -> (title, number of days)
SPANS = {"day": ("24 hours", 1), "week": ("7 days", 7), "month": ("28 days", 28)}
SETTLED = dt.timedelta(minutes=1)  # after its end an hour is rolled up
MAX_SPANS = 100_000  # that are read
MAX_HOURS = 20_000  # of robots that are read for the days of a zone other than UTC
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
    #: whose days they are
    zone: dt.tzinfo = dt.UTC

    def periods(self) -> tuple[Period, Period]:
        """Return the span and the one before. Those of several days begin when a day of the zone begins.

        All begin and end with an hour of UTC, because the totals do: in a zone with half hours, that half hour earlier.
        """
        until, days = hour_of(self.until or recent_now() - SETTLED), SPANS[self.span][1]
        if self.span == "day":
            return Period(until - DAY, until), Period(until - 2 * DAY, until - DAY)
        begun, earlier = (hour_of(local_time.day_of(until - HOUR, 1 - each, self.zone)) for each in (days, 2 * days))
        same_time = (until.astimezone(self.zone) - days * DAY).astimezone(dt.UTC)  # by the zone's clock
        return Period(begun, until), Period(earlier, hour_of(same_time))


def compare(asked: Asked) -> Comparison:
    """Return the comparison: two round trips about the registry at most, and five for each of the two spans."""
    now, before = asked.periods()
    robots = _robots(asked)
    names = _names(asked.by)
    by_hour = _robots_by_hour(asked, robots)
    groups: dict[str, tuple[Sums, Sums]] = defaultdict(lambda: (Sums(), Sums()))
    columns: list[list[Column]] = []
    whole, read = (Sums(), Sums()), 0
    for which, period in enumerate((now, before)):
        edges = _edges(asked, period, dt.UTC if by_hour is None else asked.zone)
        sums = [Sums() for _ in edges]
        found = between(period.begun, period.until, robots, by_day=asked.span != "day")
        for span in islice(found, MAX_SPANS - read):
            read += 1
            for handler, those in _asked_for(asked, span):
                whole[which].add(those)
                if by_hour is None:
                    sums[bisect(edges, span.begun) - 1].add(those)
                for name in names(span, handler):
                    groups[name][which].add(those)
        for span in between(period.begun, period.until, by_hour, by_day=False) if by_hour else ():
            for _, those in _asked_for(asked, span):
                sums[bisect(edges, span.begun) - 1].add(those)
        parts = (Period(*each) for each in pairwise([*edges, period.until]))
        columns.append(
            [Column(part, Figures(those, part.hours), which == 0) for part, those in zip(parts, sums, strict=True)]
        )
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
        [*columns[1], *columns[0]],
        complete=read < MAX_SPANS,
    )


def _asked_for(asked: Asked, span: Span) -> Iterator[tuple[str, Sums]]:
    return ((handler, sums) for handler, sums in span.handlers.items() if asked.handler in ("", handler))


def _edges(asked: Asked, period: Period, zone: dt.tzinfo) -> list[dt.datetime]:
    """Return when the period's hours, or its days in the zone, begin."""
    if asked.span == "day":
        return [period.begun + number * HOUR for number in range(round(period.hours))]
    days = (hour_of(local_time.day_of(period.begun + HOUR, number, zone)) for number in count(1))
    return [period.begun, *takewhile(lambda begun: begun < period.until, days)]


def _robots_by_hour(asked: Asked, robots: list[str] | None) -> list[str] | None:
    """Return the robots whose hours are added up to the zone's days; None if the columns are hours, or days of UTC.

    They are of UTC, which each column then says, also for so many robots that it would be too much to read.
    """
    periods = asked.periods()
    if asked.span == "day" or all(_edges(asked, each, asked.zone) == _edges(asked, each, dt.UTC) for each in periods):
        return None
    whose = [FLEET] if robots is None else robots
    return whose if len(whose) * sum(period.hours for period in periods) <= MAX_HOURS else None


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
