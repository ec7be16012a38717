"""What each robot is doing, for pages that show many: a fixed number of queries, however many robots and tasks."""

import datetime as dt
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fmv.mongodb.counting import collection
from fmv.templatetags.display import counted
from robots.models import Robot, RobotQuerySet
from tasks.models import Status, Task
from tasks.models.querysets import TaskQuerySet
from tasks.models.status import EPOCH
from tasks.reports import outcomes, queue_stats
from tasks.reports.outcomes import Outcomes

QUEUE_CAP = 100  # queued tasks of a robot that are counted
PAGE_CAP = 50_000  # the same for a page of robots, before each is counted by itself
RUNNING = ("id", "robot", "handler", "status", "progress", "message", "started_at", "attempt", "cancel_requested")


class State(NamedTuple):
    title: str
    says: str


#: what operators ask for
STATES = {
    "busy": State("busy", "Runs a task now"),
    "idle": State("idle", "In service, runs nothing"),
    "out": State("out of service", "Keeps its queue, and may be running what it had begun"),
    "failing": State("failing", "Of its tasks that succeeded or failed, the last one failed"),
}


@dataclass(frozen=True)
class Glance:
    """A robot and what it is doing."""

    robot: Robot
    running: list[Task] = field(default_factory=list)
    queued: int = 0
    outcomes: Outcomes = outcomes.NONE

    @property
    def state(self) -> str:
        """One of "out", "busy", "idle": out of service it may still be running what it had begun."""
        if not self.robot.enabled:
            return "out"
        return "busy" if self.running else "idle"

    @property
    def states(self) -> list[tuple[str, State]]:
        """Its state, and whether it fails, as badges tell them."""
        return [(state, STATES[state]) for state in (self.state, *(["failing"] if self.failing else []))]

    @property
    def failing(self) -> bool:
        return self.outcomes.failing

    @property
    def queue(self) -> str:
        """How many tasks wait for it: "0", "17", "100+"."""
        return counted(self.queued, QUEUE_CAP)


def glances(robots: Sequence[Robot]) -> list[Glance]:
    """Return what each of these robots is doing: five queries, six when tens of thousands wait for them."""
    names = [robot.name for robot in robots]
    if not names:
        return []
    running: dict[str, list[Task]] = {name: [] for name in names}
    for task in slim(Task.objects.started().filter(robot__in=names).order_by(), RUNNING):
        running[task.robot].append(task)
    queued, ended = queue_lengths(names), outcomes_of(names)
    return [
        Glance(robot, running[robot.name], queued[robot.name], ended.get(robot.name, outcomes.NONE)) for robot in robots
    ]


def slim(tasks: TaskQuerySet, fields: Sequence[str]) -> list[Task]:
    """Return tasks that hold these fields only: params, results and histories can be large.

    Of `error`, whose traceback can be, they hold the parts that are named: `error__type`.
    """
    return [_task(values) for values in tasks.values(*fields)]


def _task(values: dict[str, Any]) -> Task:
    error = {name.partition("__")[2]: value for name, value in values.items() if name.startswith("error__")}
    plain = {name: value for name, value in values.items() if not name.startswith("error__")}
    return Task(**plain, error=error) if any(error.values()) else Task(**plain)


def queue_lengths(names: Collection[str]) -> Counter[str]:
    """Return how many queued tasks each robot has, read from the index `task_next` alone.

    From QUEUE_CAP on a number says no more than that.
    """
    waiting = {"status": Status.QUEUED.value, "robot": {"$in": list(names)}}
    count = {"$group": {"_id": "$robot", "count": {"$sum": 1}}}
    tasks = collection(Task)
    rows = list(tasks.aggregate([{"$match": waiting}, {"$limit": PAGE_CAP}, count]))
    if sum(row["count"] for row in rows) >= PAGE_CAP:  # some may be missing: each up to a bound of its own
        first, *others = (
            [{"$match": waiting | {"robot": name}}, {"$limit": QUEUE_CAP}, count] for name in sorted(names)
        )
        rows = list(tasks.aggregate([*first, *({"$unionWith": {"coll": tasks.name, "pipeline": o}} for o in others)]))
    return Counter({row["_id"]: row["count"] for row in rows})


def outcomes_of(names: Collection[str] | None = None) -> dict[str, Outcomes]:
    """Return the last outcomes of these robots, or of all that have any."""
    tallied = _tallied()  # before what is kept is read, or what a tally adds in between would be in neither
    return outcomes.merged(outcomes.stored(names), outcomes.between(tallied, robots=names))


def _tallied() -> dt.datetime:
    latest = queue_stats.latest_tally()
    return latest.until if latest else EPOCH


def in_state(robots: RobotQuerySet, state: str) -> RobotQuerySet:
    """Return those of the robots that are in one of STATES."""
    match state:
        case "busy":
            return robots.filter(pk__in=queue_stats.busy_robots())
        case "idle":
            return robots.in_service().exclude(pk__in=queue_stats.busy_robots())
        case "out":
            return robots.out_of_service()
        case "failing":
            return robots.filter(pk__in=[name for name, ended in outcomes_of().items() if ended.failing])
    return robots
