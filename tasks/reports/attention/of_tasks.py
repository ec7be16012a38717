"""What needs a person at tasks: those that are stuck, and those that wait for long."""

import datetime as dt
from collections.abc import Iterator

from tasks.models import Status, Task
from tasks.reports import waiting_reason
from tasks.reports.attention.lines import Line, Look, Queued, Source
from tasks.reports.remedies import Remedy
from tasks.reports.robot_status import slim

LONG_WAIT = dt.timedelta(hours=1)
MAX_STUCK = 1000
WAITING_FIELDS = ("id", "robot", "status", "attempt", "priority", "run_at")
STUCK_FIELDS = ("id", "robot", "handler", "status", "run_at", "changed_at", "lease_expires_at", "cancel_requested")


def stuck_tasks(look: Look) -> Iterator[Line]:
    for task in slim(Task.objects.stuck(look.now).order_by()[:MAX_STUCK], STUCK_FIELDS):
        text, since = _why_stuck(task)
        remedy = Remedy("show_task", task=task.pk)
        yield Line(text, since, robot=task.robot, task=task.pk, handler=task.handler, remedy=remedy, is_error=True)


def _why_stuck(task: Task) -> tuple[str, dt.datetime | None]:
    if task.status != Status.STARTED:
        return "Its time has come, and it was not queued", task.run_at
    if task.cancel_requested:
        return "It was cancelled, and whoever runs it has not stopped", task.changed_at
    return "Its worker has not renewed its lease", task.lease_expires_at


def long_waits(look: Look) -> Iterator[Line]:
    """Yield the task of each robot that is queued longest, if that is long; the longest first.

    Not of robots that start no tasks: somebody has decided so.
    """
    longest: dict[str, Queued] = {}
    for queued in look.queued:
        known = longest.get(queued.robot)
        if known is None or queued.since < known.since:
            longest[queued.robot] = queued
    late = sorted(
        (each for each in longest.values() if each.since < look.now - LONG_WAIT and each.robot in look.starting),
        key=lambda each: each.since,
    )
    shown = [queued.first for queued in late[: look.shown]]
    tasks = slim(Task.objects.filter(pk__in=shown).order_by(), WAITING_FIELDS) if shown else []
    reasons = waiting_reason.of_tasks(tasks)
    for queued in late:
        why = reasons.get(queued.first)
        remedy = why.remedy if why and why.remedy else Remedy("show_task", task=queued.first)
        yield Line(_long(why), queued.since, queued.robot, queued.first, queued.handler, remedy=remedy)


def _long(why: waiting_reason.Waiting | None) -> str:
    """Return the reason of a line; its time is that of the task."""
    if why is None:
        return "It waits"
    first = f"{why.before}: {waiting_reason.name_of(why.first)}. " if why.first else ""
    return f"It waits. {first}{why.text}"


TASKS = (
    Source(
        "stuck",
        "Tasks that are stuck",
        stuck_tasks,
        "tasks",
        "The maintenance worker moves them: see `workers` and `beat`. `list_tasks --stuck` lists them.",
        ("tasks", "show=stuck"),
    ),
    Source(
        "long_wait",
        "Robots whose queue has waited for more than an hour",
        long_waits,
        "tasks",
        "See `workers`, and whether the robot has many tasks or a long one.",
        ("tasks", "show=waiting"),
    ),
)
