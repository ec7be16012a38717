"""The admin's dashboard: the fleet now, the last 24 hours, and the latest failures.

Each panel asks a few indexed queries, whose cost does not depend on the number of finished tasks. Its result is cached
for a moment, so that many viewers cost as much as one. A panel that cannot be read shows an error; the others stay.
"""

import datetime as dt
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pymongo
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode
from django.utils.timezone import localtime
from pymongo.errors import PyMongoError

from fmv import local_time
from fmv.mongodb.server import recent_now
from fmv.monitoring import servers as server_health
from fmv.templatetags.display import counted
from robots import connections
from tasks.admin import charts
from tasks.admin.attention import Group, groups
from tasks.models import FINISHED, UNFINISHED, Status, Task
from tasks.reports import queue_stats, tallies
from tasks.reports.fleet import current_fleet
from tasks.reports.robot_status import STATES

logger = logging.getLogger(__name__)

CACHE_SECONDS = 2.0  # for which a panel's result is shown to everybody
ATTENTION_CACHE_SECONDS = 4.0  # the same for the panel that asks most
DAY_CACHE_SECONDS = 15.0  # the same for the panel of the last day
STALE_SECONDS = 10.0  # for which an expired result is still shown while another request renews it
QUERY_TIMEOUT = 5.0  # seconds MongoDB may take for a panel
HALF_HOUR = dt.timedelta(minutes=30)
HALF_HOURS = 48
MAX_FAILURES = 8
MAX_HANDLERS = 12  # whose failures are counted
MAX_WORKERS = 30  # processes listed, busy ones first
MAX_LOST_WORKERS = 10


@dataclass(frozen=True)
class Figure:
    """The number of tasks in a status, or that reached it in the last day; `url` lists them."""

    status: Status
    text: str
    url: str
    alarming: bool = False


def task_list(**conditions: str) -> str:
    """Return the URL of the admin's list of tasks with this filter."""
    return f"{reverse('admin:tasks_task_changelist')}?{urlencode(conditions)}"


# --- The content of each panel ---------------------------------------------------------------------------------------


def figures() -> dict[str, list[Figure]]:
    """Count unfinished tasks, and those that finished in the last day: four round trips."""
    counts = queue_stats.unfinished()
    [ended] = tallies.finished_within(tallies.DAY)
    now = {status: sum(n for (of, _), n in counts.items() if of == status) for status in UNFINISHED}
    return {
        "now": [Figure(s, counted(n, queue_stats.MAX_COUNTED), task_list(status=s)) for s, n in now.items()],
        "day": [_ended(status, ended.count(status)) for status in FINISHED],
    }


def _ended(status: Status, number: int) -> Figure:
    if status == Status.FAILURE:
        return Figure(status, counted(number), task_list(show="failed"), alarming=number > 0)
    return Figure(status, counted(number), task_list(status=status))


def day() -> dict[str, Any] | None:
    """Count what finished in each half hour of the last day: four round trips. None if nothing did.

    The result is kept for readers in all zones; `_drawn` shows it to one.
    """
    now = recent_now()
    until = now.replace(minute=now.minute // 30 * 30, second=0, microsecond=0) + HALF_HOUR
    edges = [until + number * HALF_HOUR for number in range(-HALF_HOURS, 1)]
    sums = tallies.series(edges)
    rows = [_row(begun, totals) for begun, totals in zip(edges, sums, strict=False)]
    if not any(row["succeeded"] or row["failed"] or row["cancelled"] for row in rows):
        return None
    return {"rows": rows, "edges": edges, "by_handler": _failed_by_handler(sums, edges[0])}


def _drawn(day: dict[str, Any]) -> dict[str, Any]:
    """Return the charts and the table of the last day, with the times of the reader's zone."""
    rows = [row | {"span": f"{_clock(row['begun'])}-{_clock(row['begun'] + HALF_HOUR)}"} for row in day["rows"]]
    finished = [(_title(row), {"bar-ok": row["succeeded"], "bar-other": row["cancelled"]}) for row in rows]
    failed = [(_title(row), {"bar-failed": row["failed"]}) for row in rows]
    return {
        "finished": charts.strip(finished, 120),
        "failed": charts.strip(failed, 48),
        "rows": rows[::-1],
        "by_handler": day["by_handler"],
        "marks": [_clock(edge) for edge in day["edges"][::12]],
    }


def _clock(moment: dt.datetime) -> str:
    return f"{localtime(moment):%H:%M}"


def _failed_by_handler(sums: list[tallies.FinishedTotals], begun: dt.datetime) -> list[tuple[str, str, str]]:
    """Return the handlers whose tasks failed, most failures first: name, number, and the URL that lists them."""
    failed: Counter[str] = Counter()
    for totals in sums:
        for status, handler, measure in totals:
            if (status, measure) == (Status.FAILURE, "count"):
                failed[handler] += int(totals[status, handler, measure])
    return [
        (handler, counted(number), _failed_tasks(begun, handler=handler))
        for handler, number in failed.most_common(MAX_HANDLERS)
        if number > 0
    ]


def _row(begun: dt.datetime, totals: tallies.FinishedTotals) -> dict[str, Any]:
    numbers = {
        "succeeded": totals.count(Status.SUCCESS),
        "failed": totals.count(Status.FAILURE),
        "cancelled": totals.count(Status.REVOKED),
    }
    until = local_time.in_utc(begun + HALF_HOUR)
    return numbers | {"begun": begun, "url": _failed_tasks(begun, finished_before=until) if numbers["failed"] else ""}


def _failed_tasks(begun: dt.datetime, **conditions: str) -> str:
    return task_list(status=Status.FAILURE, finished_after=local_time.in_utc(begun), **conditions)


def _title(row: dict[str, Any]) -> str:
    return f"{row['span']}: {row['succeeded']:,} succeeded, {row['failed']:,} failed, {row['cancelled']:,} cancelled"


def failures() -> dict[str, Any]:
    """Return the tasks that failed last: one round trip."""
    shown = ("id", "robot", "handler", "finished_at", "error__type", "error__message")
    return {"tasks": list(Task.objects.failed().values(*shown)[:MAX_FAILURES]), "url": task_list(show="failed")}


def oldest() -> dict[str, Any] | None:
    """Return the queued task of a robot in service that waits longest.

    Three round trips, or more if robots out of service have queues.
    """
    task = queue_stats.longest_waiting()
    return {"task": task, "seconds": (recent_now() - task.since).total_seconds()} if task else None


def robots() -> dict[str, Any]:
    """Count robots by state, and those with an agent by what it says: five round trips."""
    counts, kinds = queue_stats.robots_by_state(), connections.counts()
    connected = kinds["online"] + kinds["offline"] > 0
    reported = {kind: count for kind, count in kinds.items() if connected and (count or kind in ("online", "offline"))}
    return {"states": _robot_figures(counts), "agents": _robot_figures(reported), "any": any(counts.values())}


def _robot_figures(counts: dict[str, int]) -> list[tuple[str, str, str, str]]:
    listed = reverse("admin:robots_robot_changelist")
    return [
        (state, STATES[state].title.capitalize(), counted(count), f"{listed}?state={state}")
        for state, count in counts.items()
    ]


def fleet() -> dict[str, Any]:
    """Return the live worker processes with their tasks, and the lost ones: two round trips."""
    found = current_fleet()
    workers = sorted(found.workers, key=lambda worker: worker.task is None)
    return {
        "fleet": found,
        "workers": workers[:MAX_WORKERS],
        "more": len(workers[MAX_WORKERS:]),
        "lost": found.lost[:MAX_LOST_WORKERS],
        "more_lost": len(found.lost[MAX_LOST_WORKERS:]),
    }


def servers() -> list[server_health.Health]:
    """Return the state of MongoDB and the broker, which a thread checks in the background."""
    return [server_health.mongodb.health(), server_health.broker.health()]


def attention() -> list[Group]:
    """Return what needs a person, with the fleet that its panel has read."""
    found = look("fleet").get("data")
    return groups(found["fleet"] if found else None)


# --- Panels ----------------------------------------------------------------------------------------------------------


class Panel:
    """The cached result of a function: {"data": …}, or {"error": sentence} if MongoDB did not answer."""

    def __init__(self, find: Callable[[], Any], seconds: float = CACHE_SECONDS) -> None:
        self._find, self._seconds = find, seconds
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        self._found: dict[str, Any] = {}
        self._until = 0.0

    def look(self) -> dict[str, Any]:
        serves = bool(self._found) and time.monotonic() < self._until + STALE_SECONDS
        if self._lock.acquire(blocking=not serves):  # a slow panel must not block every viewer's thread
            try:
                self._renew()
            finally:
                self._lock.release()
        return self._found

    def _renew(self) -> None:
        if time.monotonic() >= self._until:
            self._found = self._ask()
            self._until = time.monotonic() + (CACHE_SECONDS if "error" in self._found else self._seconds)

    def _ask(self) -> dict[str, Any]:
        try:
            with pymongo.timeout(QUERY_TIMEOUT):
                return {"data": self._find()}
        except (PyMongoError, DatabaseError) as error:
            logger.warning("The dashboard's panel %s could not be read: %s", self._find.__name__, error)
            return {"error": "MongoDB did not answer. Trying again in a moment."}


PANELS = {find.__name__: Panel(find) for find in (figures, failures, oldest, robots, fleet, servers)}
PANELS["attention"] = Panel(attention, ATTENTION_CACHE_SECONDS)
PANELS["day"] = Panel(day, DAY_CACHE_SECONDS)

#: parts of the page that are refreshed together: name -> (panels, seconds between two refreshes)
PARTS = {
    "now": (("attention", "figures", "robots", "oldest", "servers"), 3),
    "day": (("day",), 20),
    "rest": (("failures", "fleet"), 3),
}


def look(panel: str) -> dict[str, Any]:
    found = PANELS[panel].look()
    return {"data": _drawn(found["data"])} if panel == "day" and found.get("data") else found


def forget() -> None:
    """Empty the cache of every panel."""
    for panel in PANELS.values():
        panel.forget()


# --- Pages -----------------------------------------------------------------------------------------------------------


def may_see(request: HttpRequest) -> bool:
    user: Any = request.user
    return bool(user.has_perms(("tasks.view_task", "robots.view_robot")))


def may_do(request: HttpRequest) -> dict[str, Any]:
    """Return which buttons the page has."""
    user: Any = request.user
    return {"may_operate": user.has_perms(("tasks.operate_task", "robots.operate_robot"))}


def index(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the template admin/index.html."""
    if not may_see(request):
        return {"may_see": False}
    parts = [
        (name, f"admin/dashboard/{name}.html", reverse(f"admin:dashboard_{name}"), seconds)
        for name, (_, seconds) in PARTS.items()
    ]
    return {"may_see": True, "parts": parts} | may_do(request) | {name: look(name) for name in PANELS}


def part(request: HttpRequest, name: str) -> HttpResponse:
    """Render the current content of a part of the page."""
    if not may_see(request):
        raise PermissionDenied
    panels, _ = PARTS[name]
    context = may_do(request) | {panel: look(panel) for panel in panels}
    answer = render(request, f"admin/dashboard/{name}.html", context)
    answer["X-Live"] = "goes on"
    return answer


def pages(site: Any) -> list[URLPattern]:
    """Return the URLs of the page's parts."""
    views = {name: site.admin_view(partial(part, name=name)) for name in PARTS}
    return [path(f"dashboard/{name}/", view, name=f"dashboard_{name}") for name, view in views.items()]
