"""The admin's page Compare: how a day, a week or four weeks went against the time before."""

from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode
from django.utils.timezone import get_current_timezone, localtime

from fmv import local_time
from fmv.admin_base import with_fixed_times, wrong_words
from fmv.local_time import day_of, in_utc
from fmv.templatetags.display import lasting
from tasks.admin import charts
from tasks.admin.dashboard import task_list
from tasks.models import Status
from tasks.reports.comparison import BY, MAX_SPANS, SPANS, Asked, Column, Comparison, Group, compare
from tasks.reports.histogram import ERROR
from tasks.reports.spans import HOUR, YEARS
from tasks.templatetags.fleet import timeline_url

TEXTS = {"handler": "Handler", "robot": "Robot", "location": "Location", "label": "Robot's label"}
WORDS = ("by", "span", "until", *TEXTS)
MAX_LENGTH = 200
ROWS = 100  # groups in the table
HEADINGS = ("Success", "Wait, median", "Wait, 95 %", "Run, median", "Run, 95 %", "Tasks an hour")
MUCH = 0.25  # by which a duration must differ to be called longer or shorter: beyond the error of both numbers


def pages(site: Any) -> list[URLPattern]:
    def page(request: HttpRequest) -> HttpResponse:
        user: Any = request.user
        if not user.has_perms(("tasks.view_task", "robots.view_robot")):
            raise PermissionDenied
        return with_fixed_times(request, "until") or render(
            request, "admin/pages/compare.html", site.each_context(request) | shown(request)
        )

    return [path("compare/", site.admin_view(page), name="compare")]


def shown(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the page."""
    asked, problems = read(request)
    context = {"title": "Compare", "asked": asked, "problems": problems, **_controls(asked)}
    if problems:
        return context
    found = compare(asked)
    rows = [_row(asked, found, group) for group in found.groups[:ROWS]]
    return context | {
        "found": found,
        "heading": BY[asked.by],
        "headings": HEADINGS,
        "verdict": verdict(found.total),
        "total": _cells(found.total),
        "rows": rows,
        "more": len(found.groups) - len(rows),
        "columns": [_column(asked, column) for column in reversed(found.columns)],
        "charts": _charts(found) if found.total.now.finished or found.total.before.finished else None,
        "error": round(ERROR),
        "max_read": MAX_SPANS,
        "earlier": _query(asked, until=in_utc(found.before.until)),
        "link": _query(asked, until=in_utc(found.now.until)),
    }


def read(request: HttpRequest) -> tuple[Asked, list[str]]:
    """Return what the address asks for, and what is wrong with it, in sentences."""
    problems = [problem.msg for problem in wrong_words(request.GET, *WORDS)]
    said = {name: request.GET.get(name, "").strip() for name in WORDS}
    by, span, until = said["by"] or "handler", said["span"] or "week", None
    for name, value, known in (("by", by, BY), ("span", span, SPANS)):
        if value not in known:
            problems.append(f"Unknown {name} {value[:50]!r}. Use one of: {', '.join(known)}.")
    try:
        until = local_time.read(said["until"]) if said["until"] else None
        if until and until.year not in YEARS:
            problems.append(f"until should be between the years {YEARS.start} and {YEARS.stop}.")
    except local_time.WrongTime as error:
        problems.append(f"until: {error}")
    texts = {name: said[name] for name in TEXTS}
    for name, text in texts.items():
        if len(text) > MAX_LENGTH or "\0" in text:
            problems.append(f"{TEXTS[name]} may have at most {MAX_LENGTH} characters and no NUL character.")
    if problems:
        return Asked(), problems
    return Asked(by, span, until, zone=get_current_timezone(), **texts), []


def verdict(total: Group) -> str:
    """Say in a sentence whether tasks take longer than before, and whether they fail more often."""
    now, before = total.now, total.before
    if not before.finished or not now.finished:
        return "There is nothing to compare with: no task finished in one of the two spans."
    said = [
        _compared(what, getattr(now, name), getattr(before, name))
        for what, name in (("Tasks wait", "wait_p95"), ("run", "run_p95"))
    ]
    words = " and ".join(part for part in said if part)
    rates = now.success_rate, before.success_rate
    if None not in rates:
        words += f"{'; ' if words else ''}{rates[0]:.1f} % succeed (before: {rates[1]:.1f} %)"
    return f"{words[0].upper()}{words[1:]}." if words else ""


def _compared(what: str, now: float | None, before: float | None) -> str:
    if now is None or before is None:
        return ""
    how = "longer than" if now > before * (1 + MUCH) else "shorter than" if now < before / (1 + MUCH) else "as long as"
    return f"{what} {how} before (95 % at most {lasting(now)}; before: {lasting(before)})"


def _query(asked: Asked, **changed: str) -> str:
    said = {"by": asked.by, "span": asked.span, "until": in_utc(asked.until) if asked.until else ""}
    said |= {name: getattr(asked, name) for name in TEXTS} | changed
    return "?" + urlencode({name: value for name, value in said.items() if value})


def _controls(asked: Asked) -> dict[str, Any]:
    return {
        "spans": [(title, word == asked.span, _query(asked, span=word)) for word, (title, _) in SPANS.items()],
        "bys": [(title, word == asked.by, _query(asked, by=word)) for word, title in BY.items()],
        "fields": [(name, title, getattr(asked, name)) for name, title in TEXTS.items()],
        "is_filtered": any(getattr(asked, name) for name in TEXTS),
    }


def _row(asked: Asked, found: Comparison, group: Group) -> dict[str, Any]:
    """Return a row of the table. Its name leads to the same comparison of this group by the next finer thing."""
    within = {"handler": "robot", "robot": "handler", "location": "robot", "label": "robot"}[asked.by]
    url = "" if group.name.startswith("(") else _query(asked, **{asked.by: group.name, "by": within})
    return {"name": group.name, "url": url, "cells": _cells(group)}


def _cells(group: Group) -> list[dict[str, Any]]:
    """Return the cells of a row: heading, number now, number before, and whether the change is for the worse."""
    now, before = group.now, group.before
    durations = [(getattr(now, name), getattr(before, name)) for name in ("wait_p50", "wait_p95", "run_p50", "run_p95")]
    cells = [
        _cell(_percent, now.success_rate, before.success_rate, worse=lambda a, b: a < b - 1),
        *(_cell(lasting, *pair, worse=lambda a, b: a > b * (1 + MUCH)) for pair in durations),
        _cell(_per_hour, now.per_hour, before.per_hour, worse=lambda a, b: False),
    ]
    return [{"title": title} | cell for title, cell in zip(HEADINGS, cells, strict=True)]


def _cell(show: Any, now: float | None, before: float | None, worse: Any) -> dict[str, Any]:
    is_worse = now is not None and before is not None and worse(now, before)
    return {"now": show(now), "before": show(before), "is_worse": is_worse}


def _percent(value: float | None) -> str:
    return lasting(None) if value is None else f"{value:.1f} %"


def _per_hour(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _column(asked: Asked, column: Column) -> dict[str, Any]:
    """Return a row of the table of hours or days, which leads to the tasks that failed then."""
    period, figures = column.period, column.figures
    chosen = {name: getattr(asked, name) for name in ("handler", "robot") if getattr(asked, name)}
    times = {"finished_after": in_utc(period.begun), "finished_before": in_utc(period.until)}
    return {
        "title": _title(column),
        "begun": period.begun,
        "is_now": column.is_now,
        "figures": figures,
        "url": f"{_timeline(asked)}?{urlencode({'from': in_utc(period.begun), 'to': in_utc(period.until)})}",
        "failed_url": task_list(status=Status.FAILURE.value, **chosen, **times) if figures.sums.failed else "",
        "rate": _percent(figures.success_rate),
        "wait": lasting(figures.wait_p95),
        "run": lasting(figures.run_p95),
    }


def _timeline(asked: Asked) -> str:
    return timeline_url(asked.robot) if asked.robot else reverse("admin:timeline")


def _title(column: Column) -> str:
    begun, until = column.period.begun, column.period.until
    day, clock = f"{localtime(begun):%a %d %b}", f"{localtime(begun):%H:%M}"
    if until - begun <= HOUR:
        return f"{day} {clock}{local_time.offset_if_twice(localtime(begun))}"
    if day_of(begun) == begun:
        return day if day_of(begun, 1) == until else f"{day} until {localtime(until):%H:%M}"
    return f"{day} {clock} until {localtime(until):%a %d %b %H:%M}"


def _charts(found: Comparison) -> list[dict[str, Any]]:
    """Return the charts: a bar for each hour or day, first those before, then those now."""
    tasks: list[tuple[str, dict[str, float]]] = []
    runs: list[tuple[str, dict[str, float]]] = []
    for column in found.columns:
        figures, title = column.figures, _title(column)
        sums = figures.sums
        said = f"{title}: {sums.succeeded:,} succeeded, {sums.failed:,} failed, {sums.cancelled:,} cancelled"
        tasks.append((said, {"bar-ok": sums.succeeded, "bar-other": sums.cancelled, "bar-failed": sums.failed}))
        seconds = figures.run_p95 or 0.0
        kind = "bar-now" if column.is_now else "bar-before"
        runs.append((f"{title}: 95 % ran at most {lasting(figures.run_p95)}", {kind: seconds}))
    durations = charts.strip(runs, 96)
    return [
        {"id": "tasks", "title": "Tasks that finished", "strip": charts.strip(tasks, 120), "top": ""},
        {"id": "runs", "title": "Duration", "strip": durations, "top": lasting(durations.top)},
    ]
