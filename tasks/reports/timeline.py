"""Timeline: what a robot or the fleet did in a span of time: attempts, waits, absences, cancels, audit entries.

Attempts and waits are read from the histories of tasks. Each query walks an index and reads a bounded number of
documents: MAX_FINISHED tasks that ended in the span; of those that ended after it, and of those that wait or run now,
MAX_OTHERS. Eight round trips.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fmv.audit.models import AuditEntry
from fmv.mongodb.counting import collection
from fmv.mongodb.server import recent_now
from fmv.mongodb.uuid7 import id_at
from robots.models import Absence
from tasks.models import FINISHED, Status, Task
from tasks.models.task import NEXT_FIRST

MAX_FINISHED = 3000  # tasks
MAX_OTHERS = 300  # tasks that ended after the span; tasks that wait or run, of each status
MAX_MARKS = 300  # entries of the audit
MAX_ABSENCES = 1000
COLUMNS = ["robot", "handler", "status", "history"]
UNFINISHED_NOW = (Status.STARTED, Status.QUEUED, Status.RETRY)
CANCEL_NOTE = "cancel"  # with which the notes of cancels begin


@dataclass(frozen=True)
class Bar:
    """An attempt of a task, or its wait in the queue, of which `attempt` is the number of those before."""

    task: uuid.UUID
    robot: str
    handler: str
    attempt: int
    begun: dt.datetime
    #: None: it goes on
    ended: dt.datetime | None
    #: how the attempt ended; STARTED: it goes on; RETRY: it failed or was given back; QUEUED: a wait
    outcome: Status


@dataclass(frozen=True)
class Mark:
    """A cancel, or an entry of the audit about a robot."""

    at: dt.datetime
    robot: str
    text: str
    by: str = ""
    #: None: it is about the robot
    task: uuid.UUID | None = None


@dataclass
class Timeline:
    """What happened from `begun` until `until`, each list by time."""

    begun: dt.datetime
    until: dt.datetime
    now: dt.datetime
    attempts: list[Bar] = field(default_factory=list)
    waits: list[Bar] = field(default_factory=list)
    absences: list[Absence] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    #: False: more tasks ended in the span than are read; those that ended first are here
    complete: bool = True

    def has(self, begun: dt.datetime, ended: dt.datetime | None) -> bool:
        """Return whether something with these limits has a moment in the span."""
        return begun < self.until and (ended is None or ended > self.begun or begun >= self.begun)


def of_robot(name: str, begun: dt.datetime, until: dt.datetime) -> Timeline:
    """Return the timeline of the robot."""
    return _read(begun, until, name)


def of_fleet(begun: dt.datetime, until: dt.datetime) -> Timeline:
    """Return the timeline of all robots, without their absences."""
    return _read(begun, until, None)


def absences(robots: list[str], begun: dt.datetime, until: dt.datetime) -> list[Absence]:
    """Return when these robots were offline or out of service in this time."""
    return list(Absence.objects.within(robots, begun, until)[:MAX_ABSENCES])


def _read(begun: dt.datetime, until: dt.datetime, robot: str | None) -> Timeline:
    found = Timeline(begun, until, recent_now())
    finished, late = _finished(begun, until, robot)
    found.complete = len(finished) <= MAX_FINISHED
    last = id_at(until)
    for task in (*finished[:MAX_FINISHED], *late, *_unfinished(robot)):
        if task["_id"] < last.hex:
            _tell(found, task)
    found.absences = absences([robot], begun, until) if robot is not None else []
    found.marks += audit_marks(begun, until, robot)
    for bars in (found.attempts, found.waits):
        bars.sort(key=lambda bar: (bar.begun, bar.task))
    found.marks.sort(key=lambda mark: mark.at)
    return found


def _finished(begun: dt.datetime, until: dt.datetime, robot: str | None) -> tuple[list[Any], list[Any]]:
    """Return the tasks that ended in the span, and some that ended next, by the index `task_ended` or `task_finished`.

    A task that ended after the span may have begun in it.
    """
    of = {} if robot is None else {"robot": robot}
    spans = (({"$gte": begun, "$lt": until}, MAX_FINISHED + 1), ({"$gte": until}, MAX_OTHERS))
    within, after = (
        list(collection(Task).find(of | {"finished_at": span}, COLUMNS, sort=[("finished_at", 1)], limit=limit))
        for span, limit in spans
    )
    return within, after


def _unfinished(robot: str | None) -> Iterator[Any]:
    """Yield the tasks that wait or run now, by the index `task_next` or `task_by_status`."""
    for status in UNFINISHED_NOW:
        of = {"status": status.value} | ({} if robot is None else {"robot": robot})
        order = NEXT_FIRST if robot is not None else {"_id": 1}
        yield from collection(Task).find(of, COLUMNS, sort=list(order.items()), limit=MAX_OTHERS)


def _tell(found: Timeline, task: Mapping[str, Any]) -> None:
    """Add to the timeline what the task's history says of the span."""
    id, robot = uuid.UUID(task["_id"]), task["robot"]
    queued: dt.datetime | None = None
    started: dt.datetime | None = None
    attempt = 0

    def add(bars: list[Bar], begun: dt.datetime | None, ended: dt.datetime | None, outcome: Status) -> None:
        if begun is not None and found.has(begun, ended):
            bars.append(Bar(id, robot, task["handler"], attempt, begun, ended, outcome))

    for line in task.get("history") or ():
        at, status = line["at"].replace(tzinfo=dt.UTC), Status(line["status"])
        if line["note"].startswith(CANCEL_NOTE) and found.begun <= at < found.until:
            found.marks.append(Mark(at, robot, f"{task['handler']}: {line['note']}", task=id))
        if status != Status.QUEUED:
            add(found.waits, queued, at, Status.QUEUED)
            queued = None
        elif queued is None:
            queued = at
        if started is not None and (status != Status.STARTED or line["attempt"] != attempt):
            add(found.attempts, started, at, status if status != Status.STARTED else Status.RETRY)
            started = None
        if status == Status.STARTED and started is None:
            started, attempt = at, line["attempt"]
    if task["status"] not in FINISHED:
        add(found.waits, queued, None, Status.QUEUED)
        add(found.attempts, started, None, Status.STARTED)


def audit_marks(begun: dt.datetime, until: dt.datetime, robot: str | None = None) -> list[Mark]:
    """Return the first entries of the audit about robots: by the index `audit_of_object`, or `audit_by_kind`."""
    entries = AuditEntry.objects.filter(kind="robot", id__gte=id_at(begun), id__lt=id_at(until)).order_by("id")
    entries = entries if robot is None else entries.filter(key=robot)
    return [
        Mark(entry.at, entry.key, f"{entry.action.partition('.')[2]}: {entry.text}".removesuffix(": "), entry.by)
        for entry in entries[:MAX_MARKS]
    ]
