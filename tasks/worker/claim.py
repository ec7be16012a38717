"""How a worker process takes tasks: it starts the next task of a robot on a free lane, and runs it."""

import contextlib
import os
import time

from django.conf import settings

from fmv.clock import uptime
from robots.models import Robot
from tasks.models import Task
from tasks.models.task import LaneTaken
from tasks.models.worker_process import worker_name
from tasks.queue.doorbell import ring
from tasks.worker.attempt import Attempt
from tasks.worker.lease import LEASE_GRACE

TIME_SLICE = 0.1  # seconds for which a process goes on starting tasks of one robot before it serves another


def run_next(robot_name: str, message_id: str) -> None:
    """Run queued tasks of the robot, while it has any and a free lane, for TIME_SLICE seconds; ring for the rest.

    `message_id`: of the Celery message that this process handles. If the process dies, its tasks are found by it.
    """
    robot = Robot.objects.find(robot_name)
    if robot is None:
        Task.objects.of_robot(robot_name).fail_orphans()
        return
    end = time.monotonic() + TIME_SLICE
    while True:
        since = uptime()
        task = claim(robot, message_id)
        if task is None:
            return
        attempt = Attempt(task, robot, since)
        attempt.run()
        if attempt.interrupted or time.monotonic() >= end:
            break
    if Task.is_queued_for(robot_name):
        ring(robot_name)


def claim(robot: Robot, message_id: str) -> Task | None:
    """Start the next queued task of the robot and return it; None without a task or a free lane, or out of service."""
    if not robot.enabled:
        return None
    with contextlib.suppress(LaneTaken):
        while task := Task.next_of(robot.name):
            if _start(task, robot, message_id):
                return task
    return None


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
