"""The status of robots for pages that show many: a fixed number of queries, however many robots and tasks there are."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fmv.mongodb.server import recent_now
from fmv.templatetags.display import counted
from robots import connections
from robots.condition import Condition
from robots.models import LOW_BATTERY, Robot, RobotQuerySet, RobotState
from tasks.models import Task
from tasks.models.querysets import TaskQuerySet
from tasks.reports import mismatches, outcomes, queue_stats
from tasks.reports.outcomes import Outcomes
from tasks.reports.tallies import rolled_up_until

QUEUE_CAP = 100  # queued tasks that are counted for a robot
RUNNING = (
    *("id", "robot", "handler", "status", "progress", "message", "started_at", "attempt", "cancel_requested"),
    *("runs_on", "out_of_contact_since"),
)


class State(NamedTuple):
    title: str
    says: str


#: by which operators filter
STATES = {
    "busy": State("busy", "Runs a task now"),
    "idle": State("idle", "In service, runs nothing"),
    "out": State("out of service", "Starts no task, keeps its queue, and may still run a task that it had started"),
    "held": State("queue held", "Starts no task until its queue is released; the tasks that run go on"),
    "failing": State("failing", "The last of its tasks that succeeded or failed has failed"),
    "online": State("online", "Its agent is there"),
    "offline": State("offline", "Its agent has signed off, or has not called for a while"),
    "low_battery": State("battery low", f"Reports less than {LOW_BATTERY:g} % of charge"),
    "with_errors": State("reports errors", "Reports errors or warnings of its own"),
}


@dataclass(frozen=True)
class RobotStatus:
    """A robot, the tasks it runs, its queue, its last outcomes, and its condition if it has had an agent."""

    robot: Robot
    running: list[Task] = field(default_factory=list)
    queued: int = 0
    outcomes: Outcomes = outcomes.NO_OUTCOMES
    condition: Condition | None = None

    @property
    def state(self) -> str:
        """One of "out", "busy", "idle"; a robot that is "out" may still run a task that it had started."""
        if not self.robot.enabled:
            return "out"
        return "busy" if self.running else "idle"

    @property
    def states(self) -> list[tuple[str, State]]:
        """The state, "held" and "failing" if so, and what its agent says, for its badges."""
        found = [self.state, *(["held"] if self.robot.held_since else []), *(["failing"] if self.failing else [])]
        return [(state, STATES[state]) for state in found + (self.condition.kinds if self.condition else [])]

    @property
    def mismatch(self) -> dict[str, Any] | None:
        """The task that the robot believes it runs, if FMV does not count it as running on it."""
        held = [(str(task.pk), task.attempt) for task in self.running]
        if self.condition is None or not (task := self.condition.mismatch(held)):
            return None
        return mismatches.settled([(self.condition.state, task)]).get(self.robot.name)

    @property
    def failing(self) -> bool:
        return self.outcomes.failing

    @property
    def queue(self) -> str:
        """The number of queued tasks: "0", "17", "100+"."""
        return counted(self.queued, QUEUE_CAP)


def robot_statuses(robots: Sequence[Robot]) -> list[RobotStatus]:
    """Return the status of each robot: six queries, or seven if very many tasks are queued."""
    names = [robot.name for robot in robots]
    if not names:
        return []
    running: dict[str, list[Task]] = {name: [] for name in names}
    for task in slim(Task.objects.started().filter(robot__in=names).order_by(), RUNNING):
        running[task.robot].append(task)
    queued, ended, conditions = queue_lengths(names), outcomes_of(names), _conditions(names)
    return [
        RobotStatus(
            robot,
            running[robot.name],
            queued[robot.name],
            ended.get(robot.name, outcomes.NO_OUTCOMES),
            conditions.get(robot.name),
        )
        for robot in robots
    ]


def _conditions(names: Collection[str]) -> dict[str, Condition]:
    now = recent_now()
    return {state.robot: Condition(state, now) for state in RobotState.objects.filter(pk__in=names).order_by()}


def slim(tasks: TaskQuerySet, fields: Sequence[str]) -> list[Task]:
    """Return tasks with only these fields, because params, results and histories can be large.

    A part of `error`, whose traceback can be large too, is named like `error__type`.
    """
    return [_task(values) for values in tasks.values(*fields)]


def _task(values: dict[str, Any]) -> Task:
    error = {name.partition("__")[2]: value for name, value in values.items() if name.startswith("error__")}
    plain = {name: value for name, value in values.items() if not name.startswith("error__")}
    return Task(**plain, error=error) if any(error.values()) else Task(**plain)


def queue_lengths(names: Collection[str]) -> Counter[str]:
    """Return the number of queued tasks of each robot, read from the index `task_next` alone.

    A number of QUEUE_CAP or more means at least QUEUE_CAP.
    """
    return Counter({row["_id"]: row["count"] for row in queue_stats.by_queue(names, QUEUE_CAP)})


def outcomes_of(names: Collection[str] | None = None) -> dict[str, Outcomes]:
    """Return the last outcomes of these robots, or of all that have any."""
    since = rolled_up_until()  # read first, or outcomes that are rolled up in between would be in neither
    return outcomes.merged(outcomes.stored(names), outcomes.between(since, robots=names))


def in_state(robots: RobotQuerySet, state: str) -> RobotQuerySet:
    """Return the robots that are in one of STATES."""
    match state:
        case "busy":
            return robots.filter(pk__in=queue_stats.busy_robots())
        case "idle":
            return robots.in_service().exclude(pk__in=queue_stats.busy_robots())
        case "out":
            return robots.out_of_service()
        case "held":
            return robots.held()
        case "failing":
            return robots.filter(pk__in=[name for name, ended in outcomes_of().items() if ended.failing])
        case kind if kind in connections.KINDS:
            return robots.filter(pk__in=connections.names(kind))
    return robots
