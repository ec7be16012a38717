"""The doorbell: messages that wake worker processes up.

To ring for a robot is to send "this robot has work"; the process that gets the message looks in MongoDB for the tasks,
because MongoDB holds the queue. So a message that is lost delays a task until the periodic job rings again, and one
that arrives twice does nothing. Two more messages wake the maintenance worker up in the same way.
"""

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from amqp.exceptions import AMQPError
from kombu.exceptions import KombuError
from pymongo.errors import PyMongoError

from fmv.celery import app
from fmv.monitoring import counters
from robots.models import Robot
from tasks.models import Status, Task
from tasks.models.status import DEFAULT_PRIORITY

logger = logging.getLogger(__name__)

CONFIRM_TIMEOUT = 0.25  # seconds for the broker to confirm a message

RUN_NEXT = "tasks.run_next"
PROCESS_DIED = "tasks.process_died"
WORK_ON_BULKS = "tasks.work_on_bulks"


def ring(
    robot: str, priority: int = DEFAULT_PRIORITY, expires: float | None = None, passed_on: int | None = None
) -> bool:
    """Wake a worker process up for the robot. Returns False if the broker does not take the message.

    `expires`: seconds after which the broker drops the message. (Celery's own `expires` would have the worker compare
    its wall clock with that of the sender.) `passed_on`: how often workers that cannot run the robot's next task have
    passed the message on.
    """
    arguments = (robot,) if passed_on is None else (robot, passed_on)
    return _send(RUN_NEXT, *arguments, queue="work", priority=priority, expiration=expires)


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
        if priorities and not ring_all({robot.name: min(len(priorities), robot.lanes)}, priority=max(priorities)):
            return


def ring_all(bells: Mapping[str, int], **options: Any) -> bool:
    """Ring for each robot the given number of times. Stops and returns False if the broker does not take a message."""
    return all(ring(robot, **options) for robot, times in bells.items() for _ in range(times))


def report_worker_lost(worker: str, message_id: str) -> bool:
    """Report that a process died while it handled a message. If that is lost, recovery waits for the lease to end."""
    return _send(PROCESS_DIED, worker, message_id, queue="maintenance")


def ring_for_bulks() -> bool:
    """Wake the maintenance worker up for a new bulk run. If the message is lost, the run starts a few seconds later."""
    return _send(WORK_ON_BULKS, queue="maintenance", expiration=60.0)


def _send(name: str, *arguments: str | int, **options: Any) -> bool:
    try:
        app.send_task(name, arguments, confirm_timeout=CONFIRM_TIMEOUT, ignore_result=True, **options)
    except (AMQPError, KombuError, OSError, PyMongoError) as error:
        logger.warning("The broker did not take %s%r: %s", name, arguments, error)
        counters.count("doorbells_not_taken")
        return False
    return True
