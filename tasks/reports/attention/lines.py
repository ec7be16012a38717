"""The parts of the list of what needs a person: a source, a line of it, and what sources have read already."""

import datetime as dt
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from fmv.mongodb.counting import collection
from fmv.mongodb.server import recent_now
from fmv.mongodb.uuid7 import time_of
from robots.models import Robot
from tasks.models import Status, Task
from tasks.reports.fleet import Fleet, current_fleet
from tasks.reports.held_lanes import HeldLane, held_lanes
from tasks.reports.remedies import Remedy

MAX_QUEUED = 5000  # tasks that a look reads


@dataclass(frozen=True)
class Line:
    """One thing that needs a person. `reason` is a sentence without a full stop, in which the subject is not named.

    The subject is a task with its robot and handler; or a robot, perhaps with a handler; or a handler; or a worker.
    `since`: since when it is so; None if unknown. `hint`: for this line, instead of the source's.
    """

    reason: str
    since: dt.datetime | None = None
    robot: str = ""
    task: uuid.UUID | None = None
    handler: str = ""
    worker: str = ""
    remedy: Remedy | None = None
    is_error: bool = False
    hint: str = ""

    @property
    def subject(self) -> str:
        """What the line is about, in words; "" if it is about all."""
        if self.task:
            return f"{self.handler} …{str(self.task)[-8:]} for {self.robot}"
        return self.robot or self.handler or self.worker

    @property
    def sentence(self) -> str:
        """Subject, reason and time, in UTC."""
        subject = f"{self.subject}: " if self.subject else ""
        since = f", since {self.since:%F %T} UTC" if self.since else ""
        return f"{subject}{self.reason}{since}."


@dataclass(frozen=True)
class Source:
    """A kind of trouble, and the function that finds it.

    `title` heads its lines. `check` names the check of the doctor that prints them, and `hint` is what the doctor adds.
    `listed` is where the admin lists all: the list, and its query.
    """

    kind: str
    title: str
    find: Callable[["Look"], Iterable[Line]]
    check: str
    hint: str
    listed: tuple[str, str] | None = None


@dataclass(frozen=True)
class Queued:
    """Tasks of one robot and kind that are queued: their number, the first, and since when that one is queued."""

    robot: str
    handler: str
    runs_on: str
    params_version: str | None
    count: int
    first: uuid.UUID
    since: dt.datetime


class Look:
    """What the sources of one look at the fleet share, each read once, if a source asks for it."""

    def __init__(self, shown: int, fleet: Fleet | None = None) -> None:
        #: lines of each source that are shown: only these need what is costly to find
        self.shown = shown
        self.now = recent_now()
        if fleet is not None:  # the caller has just read it
            self.fleet = fleet

    @cached_property
    def fleet(self) -> Fleet:
        return current_fleet()

    @cached_property
    def queued(self) -> list[Queued]:
        """The MAX_QUEUED tasks that are queued longest, by robot and kind."""
        key = {name: f"${name}" for name in ("robot", "handler", "runs_on", "params_version")}
        pipeline = [
            {"$match": {"status": Status.QUEUED.value}},
            {"$sort": {"_id": 1}},
            {"$limit": MAX_QUEUED},
            {
                "$group": {
                    "_id": key,
                    "count": {"$sum": 1},
                    "first": {"$first": "$_id"},
                    "run_at": {"$first": "$run_at"},
                }
            },
        ]
        return [_queued(row) for row in collection(Task).aggregate(pipeline)]

    @cached_property
    def starting(self) -> set[str]:
        """Those of the robots with queued tasks that start tasks: in service, and not held."""
        names = {queued.robot for queued in self.queued}
        return set(Robot.objects.starting().filter(pk__in=names).order_by().values_list("pk", flat=True))

    @cached_property
    def held(self) -> list[HeldLane]:
        return list(held_lanes())


def _queued(row: dict[str, Any]) -> Queued:
    key, id, run_at = row["_id"], uuid.UUID(row["first"]), row["run_at"]
    since = run_at.replace(tzinfo=dt.UTC) if run_at else time_of(id)
    runs_on = key.get("runs_on") or "worker"
    return Queued(key["robot"], key["handler"], runs_on, key.get("params_version"), row["count"], id, since)
