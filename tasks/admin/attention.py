"""The dashboard's first panel: what needs a person, and the button or link of each line."""

from dataclasses import dataclass

from django.urls import reverse

from fmv.monitoring import servers
from fmv.templatetags.display import counted
from tasks.reports.attention import sources
from tasks.reports.attention.lines import Line
from tasks.reports.fleet import Fleet

SHOWN = 5  # lines of a kind
LISTS = {"robots": "admin:robots_robot_changelist", "tasks": "admin:tasks_task_changelist"}


@dataclass(frozen=True)
class Group:
    """The lines of one kind. `more`: how many others there are, "" if none; `url` lists all, "" if no list does."""

    kind: str
    title: str
    lines: list[Line]
    more: str = ""
    url: str = ""


def groups(fleet: Fleet | None) -> list[Group]:
    """Return what needs a person: at most 30 round trips, each bounded."""
    silent = [Line(f"{server.title}: {server.text}", server.since, is_error=True) for server in _silent_servers()]
    first = [Group("server", "Servers that do not answer", silent)] if silent else []
    return first + [_group(found) for found in sources.found(SHOWN, fleet=fleet)]


def _silent_servers() -> list[servers.Health]:
    return [health for health in (servers.mongodb.health(), servers.broker.health()) if health.state == "error"]


def _group(found: sources.Found) -> Group:
    source = found.source
    more = counted(found.more, sources.MAX_COUNTED) if found.more else ""
    url = f"{reverse(LISTS[source.listed[0]])}?{source.listed[1]}" if source.listed else ""
    return Group(source.kind, source.title, found.lines, more, url)
