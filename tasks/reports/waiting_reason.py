"""Why a task waits: the one true reason, for the task's page, its robot's page, lists, and programs.

The reason is found in the order in which workers and agents look: the robot, its lanes, the first task of its queue,
who runs that. It costs a fixed number of queries, however many tasks and robots are asked about.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from fmv.mongodb.server import recent_now
from robots.models import Robot
from tasks.models import Status, Task
from tasks.models.querysets import STUCK_AFTER
from tasks.models.status import EPOCH
from tasks.reports.fleet import Worker
from tasks.reports.held_lanes import HeldLane
from tasks.reports.remedies import Remedy
from tasks.reports.waiting_scene import Scene, look

#: why a task may wait, for programs
REASONS = {
    "scheduled": "its time has not come, or has come just now",
    "retry": "an attempt is over, and the time of the next has not come, or has come just now",
    "overdue": "its time has come, and no maintenance worker has queued it",
    "robot_gone": "its robot was deleted",
    "out_of_service": "its robot is out of service",
    "queue_held": "somebody holds the queue of its robot",
    "robot_busy": "all lanes of its robot are in use",
    "out_of_contact": "its robot is out of contact and may still run another task",
    "lane_blocked": "its robot has not confirmed that it stopped another task",
    "no_agent": "it runs on the robot, and no agent of the robot has ever connected",
    "agent_offline": "it runs on the robot, and the robot's agent is offline",
    "skill_unknown": "it runs on the robot, and the robot's agent does not know the handler",
    "not_ready": "it runs on the robot, and the robot reports an emergency stop, or a mode in which it takes no tasks",
    "no_worker": "no worker is running",
    "handler_unknown": "no worker knows the handler",
    "parameters_unknown": "no worker knows the version of its parameters",
    "workers_busy": "all workers that know the handler are busy",
    "not_taken": "nothing is in its way, and nobody has taken it for more than a minute",
    "starting": "nothing is in its way: it starts in a moment",
}


@dataclass(frozen=True)
class Waiting:
    """Why a task waits. `text` is a sentence without a full stop.

    `since`: since when that is so. `until`: when it ends by itself. `task`: the other task that is in the way.
    `first`: the task that comes first in the queue of the robot, with its HEAD, and `before` says why; the reason is
    then why that one waits. `is_urgent`: it does not end by itself, or should not last.
    """

    reason: str
    text: str
    since: dt.datetime | None = None
    until: dt.datetime | None = None
    task: uuid.UUID | None = None
    remedy: Remedy | None = None
    first: Task | None = None
    before: str = ""
    is_urgent: bool = False

    @property
    def sentence(self) -> str:
        """The whole of it, with times in UTC."""
        since = f", since {self.since:%F %T} UTC" if self.since else ""
        until = f", until {self.until:%F %T} UTC" if self.until else ""
        first = f"{self.before}: {name_of(self.first)}. " if self.first else ""
        return f"{first}{self.text}{since}{until}."


def of_task(task: Task) -> Waiting | None:
    """Return why the task waits, None if it does not wait: five queries at most."""
    return of_tasks([task]).get(task.pk)


def of_tasks(tasks: Iterable[Task]) -> dict[uuid.UUID, Waiting]:
    """Return why each of these tasks waits, by id, without those that do not: five queries at most.

    A task needs its HEAD, status and attempt.
    """
    waiting = [task for task in tasks if task.is_waiting]
    queued = [task for task in waiting if task.status == Status.QUEUED]
    scene = look({task.robot for task in queued}) if queued else None
    return {
        task.pk: _of_queued(task, scene) if scene and task.status == Status.QUEUED else _of_later(task)
        for task in waiting
    }


def of_robots(names: Collection[str]) -> dict[str, tuple[Task, Waiting]]:
    """Return the first task of each of these robots' queues, with its HEAD, and why it waits: five queries at most."""
    if not names:
        return {}
    scene = look(names)
    return {name: (head, _of_queued(head, scene)) for name, head in scene.heads.items()}


def name_of(task: Task) -> str:
    """Return how a sentence names the task: its handler and the end of its id."""
    return named(task.handler, task.pk)


def named(handler: str, id: uuid.UUID) -> str:
    return f"{handler} …{str(id)[-8:]}"


# --- What follows ----------------------------------------------------------------------------------------------------


def queued_since(task: Task) -> dt.datetime:
    return task.run_at or task.created_at


def _of_later(task: Task) -> Waiting:
    """Return why a scheduled or retrying task waits."""
    now = recent_now()
    if task.run_at and task.run_at + STUCK_AFTER < now:
        text = "Its time has come, and no maintenance worker has queued it"
        return Waiting("overdue", text, since=task.run_at, is_urgent=True)
    is_retry = task.status == Status.RETRY
    reason = "retry" if is_retry else "scheduled"
    if task.run_at and task.run_at <= now:
        return Waiting(reason, "Its time has come, and it is queued in a moment", since=task.run_at)
    text = f"Attempt {task.attempt} is over, and the next one waits" if is_retry else "It waits for its time"
    return Waiting(reason, text, until=task.run_at)


def _of_queued(task: Task, scene: Scene) -> Waiting:
    head = scene.heads.get(task.robot)
    if head is None:  # it was taken a moment ago
        return Waiting("starting", "It starts in a moment")
    robot = scene.robots.get(task.robot)
    if robot is None:
        return Waiting("robot_gone", "The robot was deleted", is_urgent=True)
    if not robot.enabled:
        since, remedy = scene.disabled.get(robot.name), Remedy("put_in_service", robot=robot.name)
        return Waiting("out_of_service", "The robot is out of service", since=since, remedy=remedy)
    if robot.held_since:
        remedy = Remedy("release_queue", robot=robot.name)
        return Waiting(
            "queue_held", f"The queue of the robot is {robot.hold_in_words}", since=robot.held_since, remedy=remedy
        )
    why = _of_lanes(robot, scene.held.get(robot.name, [])) or _of_head(head, scene)
    if head.pk == task.pk:
        return why
    before = "A task of higher priority is first" if head.priority > task.priority else "An older task is first"
    return replace(why, first=head, before=before)


def _of_lanes(robot: Robot, held: Sequence[HeldLane]) -> Waiting | None:
    """Return why no lane of the robot is free; None if one is."""
    if len(held) < robot.lanes:
        return None
    if blocked := [lane for lane in held if lane.is_blocked]:
        [about, *_] = blocked
        what = named(about.handler, about.task)
        text = f"A lane of the robot is blocked: it has not confirmed that it stopped {what}"
        remedy = Remedy("free_lane", robot=robot.name, task=about.task)
        return Waiting("lane_blocked", text, about.finished_at, task=about.task, remedy=remedy, is_urgent=True)
    if silent := [lane for lane in held if lane.out_of_contact_since]:
        [about, *_] = silent
        text = f"The robot is out of contact, and may still run {named(about.handler, about.task)}"
        remedy = Remedy("end", robot=robot.name, task=about.task)
        return Waiting(
            "out_of_contact", text, about.out_of_contact_since, task=about.task, remedy=remedy, is_urgent=True
        )
    about = min(held, key=lambda lane: lane.started_at or EPOCH)
    what = named(about.handler, about.task)
    text = f"The robot runs {what}"
    if len(held) > 1:
        text = f"All {len(held)} lanes of the robot are in use, the longest by {what}"
    remedy = Remedy("show_task", robot=robot.name, task=about.task)
    return Waiting("robot_busy", text, about.started_at, task=about.task, remedy=remedy)


def _of_head(head: Task, scene: Scene) -> Waiting:
    """Return why nobody runs the first task of a robot that has a free lane."""
    return _of_agent(head, scene) if head.runs_on == "robot" else _of_workers(head, scene)


def _of_agent(head: Task, scene: Scene) -> Waiting:
    """Return why the agent does not run the first task of its robot."""
    condition, name = scene.conditions.get(head.robot), head.robot
    remedy = Remedy("show_robot", robot=name)
    if condition is None:
        text = f"{head.handler} runs on the robot, and no agent has connected yet"
        return Waiting("no_agent", text, remedy=remedy, is_urgent=True)
    if not condition.online:
        text = f"The robot's agent is offline: {condition.why_offline}"
        return Waiting("agent_offline", text, condition.offline_since, remedy=remedy, is_urgent=True)
    if not condition.knows(head.handler):
        text = f"The robot's agent does not know {head.handler}"
        return Waiting("skill_unknown", text, remedy=remedy, is_urgent=True)
    if condition.not_now:
        return Waiting("not_ready", condition.not_now, remedy=remedy, is_urgent=True)
    if _is_late(head, scene.now):
        text = "The robot's agent is online, and has not asked for it"
        return Waiting("not_taken", text, queued_since(head), remedy=remedy)
    return Waiting("starting", "The robot's agent takes it in a moment")


def _of_workers(head: Task, scene: Scene) -> Waiting:
    """Return why no worker runs the first task of its robot."""
    crew = [worker for worker in scene.workers if "work" in worker.process.queues]
    if not crew:
        return Waiting("no_worker", "No worker is running", remedy=Remedy("show_workers"), is_urgent=True)
    published = {known for worker in crew for known in worker.known_handlers}
    able = [worker for worker in crew if not published or _knows(worker, head.handler)]
    if not able:
        remedy = Remedy("show_queued", handler=head.handler)
        return Waiting("handler_unknown", f"No worker knows the handler {head.handler}", remedy=remedy, is_urgent=True)
    if all(worker.task for worker in able):
        return _busy(head, able, among=len(crew))
    if not _is_late(head, scene.now):
        return Waiting("starting", "A worker takes it in a moment")
    if published and head.params_version and f"{head.handler}@{head.params_version}" not in published:
        text = f"No worker knows the parameters of {head.handler} with which it was submitted"
        remedy = Remedy("show_queued", handler=head.handler)
        return Waiting("parameters_unknown", text, remedy=remedy, is_urgent=True)
    text = "A worker is free, and has not taken it; the maintenance worker wakes the workers again"
    return Waiting("not_taken", text, queued_since(head), remedy=Remedy("show_workers"))


def _knows(worker: Worker, handler: str) -> bool:
    return any(known.rpartition("@")[0] == handler for known in worker.known_handlers)


def _busy(head: Task, able: list[Worker], among: int) -> Waiting:
    runs = sorted((worker.task for worker in able if worker.task), key=lambda run: run["started_at"] or EPOCH)
    knowing = f" that {'knows' if len(able) == 1 else 'know'} {head.handler}" if len(able) < among else ""
    tasks = [f"{run['handler']} for {run['robot']}" for run in runs]
    match len(runs):
        case 1:
            text = f"The only worker{knowing} is busy with {tasks[0]}"
        case 2:
            text = f"Both workers{knowing} are busy, with {tasks[0]} and {tasks[1]}"
        case number:
            text = f"All {number} workers{knowing} are busy, the longest with {tasks[0]}"
    since = max((run["started_at"] for run in runs if run["started_at"]), default=None)
    return Waiting("workers_busy", text, since, task=runs[0]["id"], remedy=Remedy("show_workers"))


def _is_late(task: Task, now: dt.datetime) -> bool:
    return queued_since(task) + STUCK_AFTER < now
