"""How a worker process takes tasks: it starts the next task of a robot on a free lane, and runs it."""

import contextlib
import datetime as dt
import logging
import os
import time

from django.conf import settings
from django.db import DatabaseError

from fmv.clock import uptime
from fmv.errors import FmvError
from fmv.mongodb.server import server_now
from robots.models import Robot
from tasks import registry
from tasks.models import Task, WorkerProcess
from tasks.models.task import LaneTaken
from tasks.models.worker_process import worker_name
from tasks.queue.doorbell import ring
from tasks.queue.lanes import free_lanes, lane_of, start_on_any
from tasks.worker import process_end
from tasks.worker.attempt import Attempt
from tasks.worker.lease import LEASE_GRACE

logger = logging.getLogger(__name__)

MAX_PASSED_ON = 10  # times that workers pass a message on to one that can run the task
#: Seconds for which a process goes on starting tasks of one robot before it serves another. A message and what it sets
#: going cost about as much as a task of some milliseconds, so they should be shared by a dozen of these. A hundred busy
#: robots for each process then let a new one wait for less than half a minute.
TIME_SLICE = 0.25
LOOK_LIFETIME = 0.1  # seconds for which a process takes a robot and its queue to be as it has seen them
MAX_AHEAD = 10  # tasks that a look finds at most

#: seconds that the last task of this process took; None before the first
_pace: float | None = None

#: for robots with one lane: when they were created, and at which revision this process has seen no task beyond the lane
_within_lane: dict[str, tuple[dt.datetime, int]] = {}


def run_next(robot_name: str, message_id: str, passed_on: int = 0) -> None:
    """Run queued tasks of the robot, while it has any and a free lane, for TIME_SLICE seconds; ring for the rest.

    `message_id`: of the Celery message that this process handles. If the process dies, its tasks are found by it.
    `passed_on`: how often other workers have passed the message on.

    Nobody rings for a task that is queued behind another, so whoever has run a task looks for the next, or rings.
    """
    global _pace  # noqa: PLW0603 - what this process has learned from its tasks
    turn = Turn(robot_name, message_id, passed_on)
    end = time.monotonic() + TIME_SLICE
    while True:
        since = uptime()
        task = turn.claim()
        if task is None or turn.robot is None:
            return
        attempt = Attempt(task, turn.robot, since)
        try:
            attempt.run()
        except BaseException as error:
            attempt.hand_back(error)
            with contextlib.suppress(DatabaseError):
                turn.ring_for_rest()
            raise
        _pace = uptime() - since
        if attempt.interrupted or process_end.is_ending() or time.monotonic() >= end:
            break
    turn.ring_for_rest()


class Turn:
    """A process's turn at one robot: it starts tasks of the robot while it handles one message."""

    def __init__(self, robot_name: str, message_id: str, passed_on: int = 0) -> None:
        #: as the last look has seen it; None if it has no queued task, or was deleted
        self.robot: Robot | None = None
        self._name, self._message_id, self._passed_on = robot_name, message_id, passed_on
        self._found: list[Task] = []  # by the last look, and not taken since
        self._looked = float("-inf")  # by time.monotonic()
        self._own: tuple[str, int] | None = None  # the lane of the last task, and the robot's revision then

    def claim(self) -> Task | None:
        """Start the next queued task and return it; None without a task or a free lane, out of service, or held.

        Also None if this worker cannot run that task: it is left to another, or to the robot, and the tasks behind it
        wait, because a robot runs its tasks in order.
        """
        while task := self._next():
            if self.robot is None:
                Task.objects.of_robot(self._name).fail_orphans()
                return None
            if not self.robot.starts_tasks:
                return None
            if task.expire():
                continue
            if task.runs_on == "robot":
                return None  # the agent of the robot asks for it; whatever ends it wakes whoever runs the next
            if not can_run(task):
                _leave(task, self._passed_on)
                return None
            try:
                if self._start(task, self.robot):
                    return task
            except LaneTaken:
                return None
            self._found.clear()  # another process was faster, or somebody has cancelled or moved the task
        return None

    def ring_for_rest(self) -> None:
        """Ring if the robot has more tasks."""
        if not self._found:
            self._look()
        if self._found and self._found[0].runs_on == "worker" and (self.robot is None or self.robot.starts_tasks):
            ring(self._name, self._found[0].priority)

    def _next(self) -> Task | None:
        if not self._found or time.monotonic() - self._looked >= LOOK_LIFETIME:
            self._look()
        return self._found.pop(0) if self._found else None

    def _look(self) -> None:
        """Look at the robot and its queue. While tasks are short, and no other process takes any, find several."""
        self._looked = time.monotonic()
        alone = self.robot is None or self.robot.lanes == 1
        ahead = int(LOOK_LIFETIME / _pace) if _pace and alone else 0
        self.robot, self._found = Task.look(self._name, 1 + min(ahead, MAX_AHEAD - 1))
        if self.robot and self.robot.lanes > 1:  # other processes take the next ones
            del self._found[1:]

    def _start(self, task: Task, robot: Robot) -> bool:
        """Start the task on a free lane; False if it is not as it was found. Raises LaneTaken when no lane is free."""
        if lane := self._likely_lane(robot):
            try:
                return self._start_on([lane], task, robot)
            except LaneTaken:
                if robot.lanes == 1:
                    raise
        taken = Task.lanes_taken(robot.name)
        if robot.lanes == 1 and taken <= {lane_of(robot.name, 0)}:
            _within_lane[robot.name] = robot.created_at, robot.revision
        return self._start_on(free_lanes(robot.name, robot.lanes, taken), task, robot)

    def _likely_lane(self, robot: Robot) -> str | None:
        """Return a lane that may be tried before one asks which are taken: none runs beyond the robot's lanes."""
        if self._own and self._own[1] == robot.revision:
            return self._own[0]
        if robot.lanes > 1:
            return None
        never_had_more = robot.revision == 1  # nobody has changed it
        seen = _within_lane.get(robot.name) == (robot.created_at, robot.revision)
        return lane_of(robot.name, 0) if never_had_more or seen else None

    def _start_on(self, lanes: list[str], task: Task, robot: Robot) -> bool:
        owner = {"worker": worker_name(os.getpid()), "message_id": self._message_id}
        lane = start_on_any(lanes, task, **owner, lease=settings.ENVIRONMENT.lease_seconds, grace=LEASE_GRACE)
        if lane:
            self._own = lane, robot.revision
        return lane is not None


def can_run(task: Task) -> bool:
    """Return whether this worker knows the handler and takes the parameters, which newer or older code may have stored.

    Parameters of this worker's own version are for it, valid or not: no other worker could do better.
    """
    try:
        handler = registry.get(task.handler)
        if handler.runs_on == "robot":  # since a newer or older version of the code
            return False
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
