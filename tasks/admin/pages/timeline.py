"""The admin's pages Timeline: what a robot did, and what the fleet did, in an hour to a week."""

import datetime as dt
from collections import defaultdict
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils.timezone import localtime

from fmv import local_time
from fmv.admin_base import with_fixed_times, wrong_words
from fmv.local_time import day_of, in_utc
from fmv.mongodb.server import recent_now
from robots.models import Absence, Robot
from tasks.admin.pages.timeline_chart import KINDS, Scale, chart
from tasks.models import Status
from tasks.reports import spans, timeline
from tasks.reports.spans import DAY, HOUR, YEARS, hour_of
from tasks.reports.timeline import MAX_FINISHED, Bar
from tasks.templatetags.fleet import timeline_url

ZOOMS = {"Hour": HOUR, "6 hours": 6 * HOUR, "Day": DAY, "Week": 7 * DAY}
SHORTEST, LONGEST = dt.timedelta(minutes=1), 31 * DAY + HOUR  # the clocks may be put back meanwhile
BY_ATTEMPT = 6 * HOUR  # a longer span of the fleet is shown by the hour, from rolled-up totals
TABLE_ROWS = 500
ROBOTS = 50  # on a page of the fleet
CELLS = 28  # of a robot on a page of the fleet, about


def pages(site: Any) -> list[URLPattern]:
    def fleet(request: HttpRequest) -> HttpResponse:
        _check_may_view(request)
        return with_fixed_times(request, "from", "to") or render(
            request, "admin/pages/fleet_timeline.html", site.each_context(request) | of_fleet(request)
        )

    def robot(request: HttpRequest, name: str) -> HttpResponse:
        _check_may_view(request)
        name = unquote(name)
        if "\0" in name or not Robot.objects.filter(pk=name).exists():
            messages.error(request, f"There is no robot {name[:64]}.")
            return HttpResponseRedirect(reverse("admin:robots_robot_changelist"))
        return with_fixed_times(request, "from", "to") or render(
            request, "admin/pages/timeline.html", site.each_context(request) | of_robot(request, name)
        )

    return [
        path("timeline/", site.admin_view(fleet), name="timeline"),
        path("timeline/robot/<path:name>/", site.admin_view(robot), name="robot_timeline"),
    ]


def _check_may_view(request: HttpRequest) -> None:
    user: Any = request.user
    if not user.has_perms(("tasks.view_task", "robots.view_robot")):
        raise PermissionDenied


# --- The span --------------------------------------------------------------------------------------------------------


class Span:
    """The span that the address asks for, and the addresses of others."""

    def __init__(self, request: HttpRequest, begun: dt.datetime, until: dt.datetime, *others: str) -> None:
        """`begun`, `until`: the span of an address without one. `others`: further parameters that it may have."""
        said = {name: request.GET.get(name, "").strip() for name in ("from", "to")}
        self.problems = [problem.msg for problem in wrong_words(request.GET, "from", "to", *others)]
        self.begun, self.until = begun, until
        if any(said.values()) and not self.problems:
            try:
                self._take(*(local_time.read(said[name]) for name in ("from", "to")))
            except local_time.WrongTime as error:
                self.problems.append(f"From and to: {error}")
        self.kept = {name: request.GET[name] for name in others if request.GET.get(name)}

    def _take(self, begun: dt.datetime, until: dt.datetime) -> None:
        if not (begun.year in YEARS and until.year in YEARS):
            self.problems.append(f"from and to should be between the years {YEARS.start} and {YEARS.stop}.")
        elif not SHORTEST <= until - begun <= LONGEST:
            self.problems.append("to should be later than from, by a minute to 31 days.")
        else:
            self.begun, self.until = begun, until

    def query(self, begun: dt.datetime, until: dt.datetime, **others: str) -> str:
        return "?" + urlencode({"from": in_utc(begun), "to": in_utc(until)} | others)

    @property
    def length(self) -> dt.timedelta:
        return self.until - self.begun

    def controls(self) -> dict[str, Any]:
        """Return what the templates need for the links to other spans."""
        yesterday, today, tomorrow = (day_of(recent_now(), days) for days in (-1, 0, 1))
        days = {"Two days": (yesterday, tomorrow), "Today": (today, tomorrow), "Yesterday": (yesterday, today)}
        zooms = {title: self._zoomed(length) for title, length in ZOOMS.items()}
        links = [
            (title, (begun, until) == (self.begun, self.until), self.query(begun, until, **self.kept))
            for title, (begun, until) in (days | zooms).items()
        ]
        return {
            "span": self,
            "problems": self.problems,
            "links": links,
            "link": self.query(self.begun, self.until, **self.kept),
            "earlier": self.query(self._going_on(self.begun, -1), self.begun, **self.kept),
            "later": self.query(self.until, self._going_on(self.until, 1), **self.kept),
            "parts": self._parts(),
            "marks": [_mark(self.begun + number * self.length / 4, self.length) for number in range(5)],
        }

    def _going_on(self, moment: dt.datetime, direction: int) -> dt.datetime:
        """Return the other end of the span before or after `moment`: of as many days if this one is of whole days."""
        days = round(self.length / DAY)
        if days and day_of(self.begun) == self.begun and day_of(self.begun, days) == self.until:
            return day_of(moment, direction * days)
        return moment + direction * self.length

    def _zoomed(self, length: dt.timedelta) -> tuple[dt.datetime, dt.datetime]:
        """Return a span of this length about the same time: from a full hour, or of whole days."""
        last = self.until - dt.timedelta(microseconds=1)
        if length >= DAY:
            days = length // DAY
            begun = day_of(self.begun) if length <= self.length else day_of(last, 1 - days)
            return begun, day_of(begun, days)
        longer = length > self.length
        begun = local_time.hour_of(last) + HOUR - length if longer else local_time.hour_of(self.begun)
        return begun, begun + length

    def _parts(self) -> list[tuple[str, list[tuple[str, str, str]]]]:
        """Return the hours, or in a long span the days, to zoom into: (day, [(text, name, query)])."""
        if self.length <= HOUR:
            return []
        by_hour = self.length <= 3 * DAY + HOUR
        begun = local_time.hour_of(self.begun) if by_hour else day_of(self.begun)
        found: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        while begun < self.until:
            until, local = begun + HOUR if by_hour else day_of(begun, 1), localtime(begun)
            day = f"{local:%a %d %b}"
            text, name = (f"{local:%H}", f"{_clock(begun)} to {_clock(until)}, {day}") if by_hour else (day, day)
            found[day if by_hour else ""].append((text, name, self.query(begun, until, **self.kept)))
            begun = until
        return list(found.items())


def _clock(moment: dt.datetime) -> str:
    local = localtime(moment)
    return f"{local:%H:%M}{local_time.offset_if_twice(local)}"


def _mark(moment: dt.datetime, length: dt.timedelta) -> str:
    return _clock(moment) if length <= DAY + HOUR else f"{localtime(moment):%a} {_clock(moment)}"


# --- A robot ---------------------------------------------------------------------------------------------------------


def of_robot(request: HttpRequest, name: str) -> dict[str, Any]:
    """Return the context of a robot's page. Without a span in the address it shows yesterday and today."""
    span = Span(request, day_of(recent_now(), -1), day_of(recent_now(), 1))
    context = {"title": f"Timeline of {name}", "robot": name, **span.controls()}
    if span.problems:
        return context
    found = timeline.of_robot(name, span.begun, span.until)
    rows = _table(found)
    return context | {
        "found": found,
        "chart": chart(found),
        "rows": rows[:TABLE_ROWS],
        "more": len(rows[TABLE_ROWS:]),
        "max_finished": MAX_FINISHED,
        "empty": not (found.attempts or found.waits or found.absences or found.marks),
    }


def _table(found: timeline.Timeline) -> list[dict[str, Any]]:
    """Return a row for each attempt, absence and mark, and each wait without an attempt, by time."""
    waits = {(wait.task, wait.ended): wait for wait in found.waits}
    rows = []
    for bar in found.attempts:
        wait = waits.pop((bar.task, bar.begun), None)
        waited = bar.begun - wait.begun if wait else None
        rows.append({"at": bar.begun, "bar": bar, "waited": waited, "took": (bar.ended or found.now) - bar.begun})
    rows += [
        {"at": wait.begun, "bar": wait, "waited": (wait.ended or found.now) - wait.begun, "took": None}
        for wait in waits.values()
    ]
    rows += [
        {"at": each.begun, "absence": each, "took": (each.ended or found.now) - each.begun} for each in found.absences
    ]
    rows += [{"at": mark.at, "mark": mark} for mark in found.marks]
    return sorted(rows, key=lambda row: row["at"])


# --- The fleet -------------------------------------------------------------------------------------------------------


def of_fleet(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the fleet's page: robots by name, beginning after the name `after`."""
    span = Span(request, day_of(recent_now(), -1), day_of(recent_now(), 1), "after")
    context: dict[str, Any] = {"title": "Timeline", **span.controls()}
    if span.problems:
        return context
    names = list(
        Robot.objects.filter(name__gt=request.GET.get("after", "").replace("\0", ""))
        .order_by("name")
        .values_list("name", flat=True)[: ROBOTS + 1]
    )
    shown = names[:ROBOTS]
    by_attempt = span.length <= BY_ATTEMPT
    if by_attempt:
        found = timeline.of_fleet(span.begun, span.until)
        cells, complete, said = _attempts(span, shown, found), found.complete, found.marks
    else:
        cells, complete, said = _cells(span, shown), True, timeline.audit_marks(span.begun, span.until)
    absent = defaultdict(list)
    scale = Scale(span.begun, span.until)
    for each in timeline.absences(shown, span.begun, span.until):
        x, width = scale.place(each.begun, each.ended or recent_now())
        absent[each.robot].append({"kind": each.kind, "x": x, "width": width, "title": Absence.Kind(each.kind).label})
    query = span.query(span.begun, span.until)
    return context | {
        "rows": [
            {"name": name, "url": timeline_url(name) + query, "cells": cells[name], "absences": absent[name]}
            | _totals(cells[name])
            for name in shown
        ],
        "by_attempt": by_attempt,
        "complete": complete,
        "max_finished": MAX_FINISHED,
        "said": said[:TABLE_ROWS],
        "more": span.query(span.begun, span.until, after=shown[-1]) if len(names) > ROBOTS else "",
    }


def _totals(cells: list[dict[str, Any]]) -> dict[str, int]:
    return {name: sum(cell[name] for cell in cells) for name in ("succeeded", "failed")}


def _attempts(span: Span, robots: list[str], found: timeline.Timeline) -> dict[str, list[dict[str, Any]]]:
    """Return the attempts of these robots, and the waits of their tasks, as cells."""
    scale = Scale(span.begun, span.until)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in robots}
    for bar in (*found.waits, *found.attempts):
        if bar.robot in rows:
            x, width = scale.place(bar.begun, bar.ended or found.now)
            url = reverse("admin:tasks_task_change", args=[bar.task])
            kind = "waits" if bar.outcome == Status.QUEUED else KINDS.get(bar.outcome, "other")
            rows[bar.robot].append(
                {"kind": kind, "x": x, "width": width, "url": url, "title": _said(bar)}
                | {"succeeded": int(kind == "ok"), "failed": int(kind == "failed")}
            )
    return rows


def _said(bar: Bar) -> str:
    ended = f"{localtime(bar.ended):%H:%M:%S}" if bar.ended else "now"
    how = "waits" if bar.outcome == Status.QUEUED else bar.outcome.value
    return f"{bar.handler}: {how}, {localtime(bar.begun):%a %H:%M:%S} to {ended} {local_time.current_name()}"


def _cells(span: Span, robots: list[str]) -> dict[str, list[dict[str, Any]]]:
    """Return what these robots did in each hour, or each few hours of a long span, as cells."""
    size = HOUR * max(1, round(span.length / HOUR / CELLS))
    begun, scale = hour_of(span.begun), Scale(span.begun, span.until)
    sums: dict[tuple[str, int], spans.Sums] = defaultdict(spans.Sums)
    for each in spans.between(begun, hour_of(span.until + HOUR - dt.timedelta(microseconds=1)), robots, by_day=False):
        for found in each.handlers.values():
            sums[each.robot, (each.begun - begun) // size].add(found)
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in robots}
    for (robot, number), found in sorted(sums.items()):
        since = begun + number * size
        x, width = scale.place(since, since + size)
        times = f"{localtime(since):%a %d %b} {_clock(since)} to {_clock(since + size)} {local_time.current_name()}"
        said = f"{found.succeeded:,} succeeded, {found.failed:,} failed, {found.cancelled:,} cancelled"
        rows[robot].append(
            {
                "kind": _kind(found),
                "x": x,
                "width": max(2.0, width - 2),
                "succeeded": found.succeeded,
                "failed": found.failed,
            }
            | {"url": timeline_url(robot) + span.query(since, since + size)}
            | {"title": f"{times}: {said}"}
        )
    return rows


def _kind(found: spans.Sums) -> str:
    if found.failed:
        return "failed" if found.failed >= found.succeeded else "retry"
    return "ok" if found.succeeded else "other"
