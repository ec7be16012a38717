"""The doorbell: messages that wake worker processes up.

To ring for a robot is to send "this robot has work"; the process that gets the message looks in MongoDB for the tasks,
because MongoDB holds the queue. So a message that is lost delays a task until the periodic job rings again, and one
that arrives twice does nothing. Two more messages wake the maintenance worker up in the same way. Nobody waits for the
broker: fmv.publisher sends the messages a moment later, in a thread.

A task that runs on the robot needs no message, because the robot's agent asks for it: see `tasks.queue.waiting`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from django.dispatch import receiver

from fmv.monitoring import counters
from fmv.publisher import messages_lost, publisher
from robots.agents import with_agents
from robots.models import Robot
from tasks.models import Status, Task
from tasks.models.status import DEFAULT_PRIORITY, MAX_PRIORITY
from tasks.queue.waiting import wake

RUN_NEXT = "tasks.run_next"
PROCESS_DIED = "tasks.process_died"
WORK_ON_BULKS = "tasks.work_on_bulks"


def ring(
    robot: str, priority: int = DEFAULT_PRIORITY, expires: float | None = None, passed_on: int | None = None
) -> None:
    """Wake a worker process up for the robot.

    `expires`: seconds after which the broker drops the message. (Celery's own `expires` would have the worker compare
    its wall clock with that of the sender.) `passed_on`: how often workers that cannot run the robot's next task have
    passed the message on.
    """
    arguments = [robot] if passed_on is None else [robot, passed_on]
    publisher.send(RUN_NEXT, arguments, queue="work", priority=min(priority, MAX_PRIORITY), expiration=expires)


def ring_for_new(task: Task) -> None:
    """Wake whoever runs this new task, whether somebody comes anyway or not."""
    if task.runs_on == "robot":
        wake(task.robot)
    else:
        ring(task.robot, task.priority)


def ring_for_next(robot: str) -> None:
    """Wake whoever runs the robot's next task, if it has one: a lane has become free."""
    runs_on = Task.objects.next_runs_on(robot)
    if runs_on == "worker":
        ring(robot)
    elif runs_on == "robot":
        wake(robot)


def ring_for(tasks: Iterable[Task], robots: Iterable[Robot] | None = None) -> None:
    """Ring for those of these tasks that are queued now: for each robot once a task, but at most once a lane.

    Not for a robot with one lane that has an older task which is queued or runs: whoever runs that one looks for the
    next afterwards. This must be asked after the tasks were stored. Of tasks that are queued at the same time the
    oldest is always rung for, so they never wait for each other. But a robot with an agent may have an older task that
    runs on the robot, for which nobody is on the way.

    `robots`: the robots of the tasks, if the caller has just read them. One that was changed since may be rung for
    in vain, or its tasks wait for the periodic job.
    """
    waiting: dict[str, list[Task]] = {}
    for task in tasks:
        if task.status == Status.QUEUED and task.runs_on == "worker":
            waiting.setdefault(task.robot, []).append(task)
        elif task.status == Status.QUEUED:
            wake(task.robot)
    if not waiting:
        return
    known = {robot.name: robot for robot in (Robot.objects.filter(pk__in=waiting) if robots is None else robots)}
    narrow = [name for name in waiting if name in known and known[name].lanes == 1]
    oldest = min(task.pk for tasks in waiting.values() for task in tasks)
    served = Task.objects.robots_served(narrow, before=oldest) if narrow else set()
    if served:
        served -= with_agents(served)
    for name in waiting.keys() - served:
        ring_all(
            {name: _lanes_to_wake(known.get(name), len(waiting[name]))},
            priority=max(task.priority for task in waiting[name]),
        )


def _lanes_to_wake(robot: Robot | None, tasks: int) -> int:
    """Return for how many lanes to ring; 1 for a deleted robot: the worker that gets the message ends its tasks."""
    if robot is None:
        return 1
    return min(tasks, robot.lanes) if robot.starts_tasks else 0


def ring_all(bells: Mapping[str, int], **options: Any) -> None:
    """Ring for each robot the given number of times."""
    for robot, times in bells.items():
        for _ in range(times):
            ring(robot, **options)


def report_worker_lost(worker: str, message_id: str) -> None:
    """Report that a process died while it handled a message. If that is lost, recovery waits for the lease to end."""
    publisher.send(PROCESS_DIED, [worker, message_id], queue="maintenance")


def ring_for_bulks() -> None:
    """Wake the maintenance worker up for a new bulk run. If the message is lost, the run starts a few seconds later."""
    publisher.send(WORK_ON_BULKS, queue="maintenance", expiration=60.0)


@receiver(messages_lost)
def count_lost(count: int, **_: Any) -> None:
    """Count the messages that the broker did not take."""
    counters.count("doorbells_not_taken", count)
