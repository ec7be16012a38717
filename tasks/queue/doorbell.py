"""The message "this robot has work". A lost one delays, a doubled one does nothing: MongoDB holds the queue."""

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


def ring(robot: str, priority: int = DEFAULT_PRIORITY, expires: float | None = None) -> bool:
    """Tell the workers; False when the broker does not take the message (the sweeper rings again).

    `expires`: seconds after which the message means nothing any more.
    """
    return _send(RUN_NEXT, robot, queue="work", priority=priority, expires=expires)


def ring_for(tasks: Iterable[Task], robots: Iterable[Robot] | None = None) -> None:
    """Ring for the queued ones of these tasks as often as their robots could start one now.

    `robots`: theirs, if the caller has just read them.
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
    """Ring for each robot so many times; at the first message that the broker does not take, stop and return False."""
    return all(ring(robot, **options) for robot, times in bells.items() for _ in range(times))


def report_worker_lost(worker: str, message_id: str) -> bool:
    """Tell the maintenance worker that this process died over this message; a lost word costs a lease of time."""
    return _send(PROCESS_DIED, worker, message_id, queue="maintenance")


def ring_for_bulks() -> bool:
    """Tell the maintenance worker that a bulk run has begun; a lost word costs it a few seconds."""
    return _send(WORK_ON_BULKS, queue="maintenance", expires=60.0)


def _send(name: str, *arguments: str, **options: Any) -> bool:
    try:
        app.send_task(name, arguments, confirm_timeout=CONFIRM_TIMEOUT, ignore_result=True, **options)
    except (AMQPError, KombuError, OSError, PyMongoError) as error:
        logger.warning("The broker did not take %s%r: %s", name, arguments, error)
        counters.count("doorbells_not_taken")
        return False
    return True
