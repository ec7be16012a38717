"""The doorbell: messages that wake worker processes up.

To ring for a robot is to send "this robot has work"; the process that gets the message looks in MongoDB for the tasks,
because MongoDB holds the queue. So a message that is lost delays a task until the periodic job rings again, and one
that arrives twice does nothing. Two more messages wake the maintenance worker up in the same way. Nobody waits for the
broker: fmv.publisher sends the messages a moment later, in a thread.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from django.dispatch import receiver

from fmv.monitoring import counters
from fmv.publisher import messages_lost, publisher
from robots.models import Robot
from tasks.models import Status, Task
from tasks.models.status import DEFAULT_PRIORITY

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
    publisher.send(RUN_NEXT, arguments, queue="work", priority=priority, expiration=expires)


def ring_for(tasks: Iterable[Task], robots: Iterable[Robot] | None = None) -> None:
    """Ring for those of these tasks that are queued: for each robot in service once a task, but at most once a lane.

    `robots`: the robots of the tasks, if the caller has just read them.
    """
    waiting: dict[str, list[int]] = {}
    for task in tasks:
        if task.status == Status.QUEUED:
            waiting.setdefault(task.robot, []).append(task.priority)
    if robots is None:
        robots = Robot.objects.filter(pk__in=waiting) if waiting else ()
    for robot in robots:
        priorities = waiting.get(robot.name, []) if robot.enabled else []
        if priorities:
            ring_all({robot.name: min(len(priorities), robot.lanes)}, priority=max(priorities))


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
