"""How a worker process takes tasks: it starts the next task of a robot on a free lane, and runs it."""

import contextlib
import logging
import os
import time

from django.conf import settings

from fmv.clock import uptime
from fmv.errors import FmvError
from fmv.mongodb.server import server_now
from robots.models import Robot
from tasks import registry
from tasks.models import Task, WorkerProcess
from tasks.models.task import LaneTaken
from tasks.models.worker_process import worker_name
from tasks.queue.doorbell import ring
from tasks.worker import process_end
from tasks.worker.attempt import Attempt
from tasks.worker.lease import LEASE_GRACE

logger = logging.getLogger(__name__)

MAX_PASSED_ON = 10  # times that workers pass a message on to one that can run the task
TIME_SLICE = 0.1  # seconds for which a process goes on starting tasks of one robot before it serves another


def run_next(robot_name: str, message_id: str, passed_on: int = 0) -> None:
    """Run queued tasks of the robot, while it has any and a free lane, for TIME_SLICE seconds; ring for the rest.

    `message_id`: of the Celery message that this process handles. If the process dies, its tasks are found by it.
    `passed_on`: how often other workers have passed the message on.
    """
    robot = Robot.objects.find(robot_name)
    if robot is None:
        Task.objects.of_robot(robot_name).fail_orphans()
        return
    end = time.monotonic() + TIME_SLICE
    while True:
        since = uptime()
        task = claim(robot, message_id, passed_on)
        if task is None:
            return
        attempt = Attempt(task, robot, since)
        try:
            attempt.run()
        except BaseException as error:
            attempt.hand_back(error)
            raise
        if attempt.interrupted or process_end.is_ending() or time.monotonic() >= end:
            break
    if Task.is_queued_for(robot_name):
        ring(robot_name)


def claim(robot: Robot, message_id: str, passed_on: int = 0) -> Task | None:
    """Start the next queued task of the robot and return it; None without a task or a free lane, or out of service.

    Also None if this worker cannot run that task: it is left to another, and the tasks behind it wait, because a robot
    runs its tasks in order.
    """
    if not robot.enabled:
        return None
    with contextlib.suppress(LaneTaken):
        while task := Task.next_of(robot.name):
            if not can_run(task):
                _leave(task, passed_on)
                return None
            if _start(task, robot, message_id):
                return task
    return None


def can_run(task: Task) -> bool:
    """Return whether this worker knows the handler and takes the parameters, which newer or older code may have stored.

    Parameters of this worker's own version are for it, valid or not: no other worker could do better.
    """
    try:
        handler = registry.get(task.handler)
        if task.params_version not in (None, handler.params_version):
            handler.read_params(task.params)
    except FmvError:
        return False
    return True


def _leave(task: Task, passed_on: int) -> None:
    """Leave the task in the queue, and pass the message on if a living worker knows another version of the handler.

    The message may come back, so it is passed on MAX_PASSED_ON times at most. Then the periodic step rings again.
    """
    others = WorkerProcess.objects.known_handlers(server_now()) - {
        own.versioned_name for own in registry.all_handlers()
    }
    known = any(other.rpartition("@")[0] == task.handler for other in others)
    logger.info("Task %s is left: this worker does not know the handler %s or its parameters", task.pk, task.handler)
    if known and passed_on < MAX_PASSED_ON:
        ring(task.robot, task.priority, passed_on=passed_on + 1)


def _start(task: Task, robot: Robot, message_id: str) -> bool:
    """Start the task on a free lane; False when another process was faster. Raises LaneTaken when no lane is free."""
    owner = {"worker": worker_name(os.getpid()), "message_id": message_id}
    for lane in free_lanes(robot.name, robot.lanes, Task.lanes_taken(robot.name)):
        with contextlib.suppress(LaneTaken):
            return task.start(lane=lane, **owner, lease=settings.ENVIRONMENT.lease_seconds, grace=LEASE_GRACE)
    raise LaneTaken


def free_lanes(robot: str, lanes: int, taken: set[str]) -> list[str]:
    """Return the lanes on which a task may start.

    If the robot had more lanes before, tasks may still run on those beyond `lanes`: they count until they end.
    """
    free = [lane for number in range(lanes) if (lane := f"{robot}/{number}") not in taken]
    return free[: max(0, lanes - len(taken))]
