"""How a worker process runs a task: claim, keep the lease, call the handler, write the outcome.

Three clocks guard an attempt. The keeper, a thread, renews the lease and interrupts the handler when the task is
cancelled, late or no longer ours. The interrupt is a signal, so it also ends a blocking call. And should the process
be stuck where no Python runs (or the handler swallow the interrupt), the watchdog, armed anew with every renewal, ends
the process itself before the lease runs out: whoever takes the task over then never overlaps with this attempt.
"""

from __future__ import annotations

import contextlib
import contextvars
import enum
import faulthandler
import json
import logging
import os
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import bson
from django.conf import settings
from django.db import DatabaseError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from fmv.errors import FmvError
from fmv.http import request_id
from fmv.mongodb.server import is_unreachable
from fmv.monitoring import counters
from robots.models import Robot
from tasks import registry
from tasks.models import LogLine, Task
from tasks.models.error_document import encodable, error_document
from tasks.models.task import LaneTaken
from tasks.queue.doorbell import ring
from tasks.registry import Handler, PermanentError

logger = logging.getLogger(__name__)

INTERRUPT = signal.SIGUSR2
TURN = 0.1  # seconds for which a process that has looked at a robot starts its tasks, before others have their turn
MAX_RESULT = 1024 * 1024  # bytes of JSON
MAX_LOG_LINES = 10_000  # an attempt
REPORT_EVERY = 1.0  # seconds between writes of a handler's progress
KILL_GRACE = 3.0  # seconds from an interrupt that is ignored to the end of the process
LEASE_GRACE = 6.0  # seconds a lease may outlive the timeout: the process has ended by then


class Reason(enum.Enum):
    """Why an attempt is interrupted."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    LOST = "lease lost"
    STOPPING = "worker stops"


class Interrupted(BaseException):
    """Raised in the handler, wherever it is, to end the attempt."""


def worker_name(pid: int) -> str:
    """Name a process of this machine as tasks show it: host/pid."""
    return f"{socket.gethostname()}/{pid}"


def run_next(robot_name: str, message_id: str) -> None:
    """Run the robot's queued tasks, if it has any and a free lane, for TURN seconds; ring for those after that.

    `message_id`: of the Celery message that brought us here, by which a process that dies is told from others.
    """
    robot = Robot.objects.find(robot_name)
    if robot is None:
        Task.objects.of_robot(robot_name).fail_orphans()
        return
    over = time.monotonic() + TURN
    while True:
        since = time.monotonic()
        task = claim(robot, message_id)
        if task is None:
            return
        attempt = Attempt(task, robot, since)
        attempt.run()
        if attempt.interrupted or time.monotonic() >= over:
            break
    if Task.is_queued_for(robot_name):
        ring(robot_name)


def claim(robot: Robot, message_id: str) -> Task | None:
    """Start the robot's next queued task and return it; None without a task or a free lane, or out of service."""
    if not robot.enabled:
        return None
    with contextlib.suppress(LaneTaken):
        while task := Task.next_of(robot.name):
            if _start(task, robot, message_id):
                return task
    return None


def _start(task: Task, robot: Robot, message_id: str) -> bool:
    """Start the task on a free lane; False when another process was faster. Raises LaneTaken when there is none."""
    # A robot with one lane may have had more, but not one that was never changed: it is spared the question.
    taken = Task.objects.lanes_taken(robot.name) if robot.lanes > 1 or robot.revision > 1 else set()
    about = {"worker": worker_name(os.getpid()), "message_id": message_id}
    for lane in free_lanes(robot.name, robot.lanes, taken):
        with contextlib.suppress(LaneTaken):
            return task.start(lane=lane, **about, lease=settings.FMV_LEASE_SECONDS, grace=LEASE_GRACE)
    raise LaneTaken


def free_lanes(robot: str, lanes: int, taken: set[str]) -> list[str]:
    """Return the lanes a task may start on; lanes beyond the robot's own still count while they are taken."""
    free = [lane for number in range(lanes) if (lane := f"{robot}/{number}") not in taken]
    return free[: max(0, lanes - len(taken))]


class Attempt:
    """One attempt of one task in this process; to its handler it is the `registry.Context`.

    `since`: when it was claimed at the earliest, by `time.monotonic()`. Runs in the process's main thread only.
    """

    def __init__(self, task: Task, robot: Robot, since: float) -> None:
        self.task_id = str(task.pk)
        self.attempt = task.attempt
        self.robot = robot
        self.params: Any = None
        self._task = task
        self._lease = settings.FMV_LEASE_SECONDS
        self._started = self._renewed = since
        self._renewing = threading.Lock()
        self._report: dict[str, Any] = {}
        self._stored_report: dict[str, Any] = {}
        self._log_lines = 0
        self._reason: Reason | None = None
        self._interruptible = False
        self._over = threading.Event()

    # For the handler.

    def progress(self, percent: float, message: str = "") -> None:
        self._report = {"progress": min(100.0, max(0.0, float(percent))), "message": encodable(str(message))[:500]}
        self.check()

    def log(self, text: str) -> None:
        self._log_lines += 1
        if self._log_lines <= MAX_LOG_LINES:
            text = str(text) if self._log_lines < MAX_LOG_LINES else "(further lines of this attempt are not kept)"
            with self._shielded():
                self._store_line(encodable(text)[:4000])

    def _store_line(self, text: str) -> None:
        try:
            LogLine.objects.create(task=self._task.pk, attempt=self.attempt, text=text)
        except DatabaseError as error:  # not worth failing the task for
            logger.warning("Task %s: a line of its log was lost: %r", self.task_id, error.__cause__)

    def check(self) -> None:
        with self._shielded():
            if time.monotonic() - self._renewed >= REPORT_EVERY:
                self._renew()

    @contextlib.contextmanager
    def _shielded(self) -> Iterator[None]:
        """Let an interrupt wait until our own talk with MongoDB is over, and raise it then."""
        shielded_before, self._interruptible = self._interruptible, False
        try:
            yield
        finally:
            self._interruptible = shielded_before
        if self._reason and self._interruptible:
            raise Interrupted

    # The run.

    @property
    def interrupted(self) -> bool:
        return self._reason is not None

    def run(self) -> None:
        """Call the handler under guard and write what came of it."""
        token = request_id.current.set(self._task.request_id)
        try:
            self._run()
        finally:
            request_id.current.reset(token)

    def _run(self) -> None:
        try:
            handler = registry.get(self._task.handler)
            self.params = handler.read_params(self._task.params)
        except FmvError as error:  # the submit knew it: this worker runs other code
            cannot = error_document("CannotRun", f"{self._task.handler}: {error}")
            self._write(lambda: self._task.fail(cannot))
            return
        about = {"task_id": self.task_id, "handler": handler.name, "robot": self.robot.name, "attempt": self.attempt}
        logger.info("Task %(task_id)s (%(handler)s) of robot %(robot)r: attempt %(attempt)d", about, extra=about)
        with self._guarded():
            outcome = self._call(handler)
        self._write(lambda: self._conclude(handler, *outcome))
        counters.store()

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        name, in_context = f"keeper of {self.task_id}", contextvars.copy_context().run  # with the request id
        keeper = threading.Thread(target=in_context, args=(self._keep,), name=name, daemon=True)
        before = signal.signal(INTERRUPT, self._on_signal)
        self._arm_watchdog()
        keeper.start()
        try:
            yield
        finally:
            self._over.set()
            keeper.join()
            faulthandler.cancel_dump_traceback_later()
            signal.signal(INTERRUPT, before)

    def _call(self, handler: Handler[Any]) -> tuple[Any, BaseException | None]:
        try:
            self._interruptible = True
            result = storable(handler.run(self))
            self._interruptible = False
        except BaseException as error:
            self._interruptible = False
            return None, error
        return result, None

    def _on_signal(self, *_: object) -> None:
        self._reason = self._reason or Reason.STOPPING  # nobody but a stopping worker signals without a reason
        if self._interruptible:
            raise Interrupted

    # The keeper's and the watchdog's part.

    def _keep(self) -> None:
        late = self._started + self._task.timeout
        while not self._over.wait(min(1.0, max(0.01, late - time.monotonic()))):
            now = time.monotonic()
            if self._reason is None and now >= late:
                self._give_up(Reason.TIMED_OUT)
            elif self._reason is None and now - self._renewed >= settings.FMV_RENEW_SECONDS:
                self._renew()
                if time.monotonic() - self._renewed > self._lease * 5 / 6:
                    self._give_up(Reason.LOST)
            if self._reason:
                late = now + 1  # interrupt again each second, should the handler have swallowed it
                signal.pthread_kill(threading.main_thread().ident or 0, INTERRUPT)

    def _renew(self) -> None:
        """Renew the lease and store the report in one write; learn from it when the attempt is to end."""
        if self._reason or not self._renewing.acquire(blocking=False):
            return
        try:
            before = time.monotonic()
            report = self._report
            news = {} if report == self._stored_report else report
            if self._task.renew(lease=self._lease, grace=LEASE_GRACE, **news):
                self._renewed, self._stored_report = before, report
                self._arm_watchdog()
            else:
                self._give_up(self._why_not_renewed())
        except DatabaseError as error:  # the keeper tries again until the lease is nearly over
            logger.warning("Task %s: its lease could not be renewed: %r", self.task_id, error.__cause__)
            counters.note("renewal_failures")
        finally:
            self._renewing.release()

    def _why_not_renewed(self) -> Reason:
        if self._task.is_being_cancelled():
            return Reason.CANCELLED
        counters.note("renewal_failures")
        return Reason.LOST

    def _give_up(self, reason: Reason) -> None:
        self._reason = reason
        self._arm_watchdog(KILL_GRACE)

    def _arm_watchdog(self, at_most: float = float("inf")) -> None:
        """End this process, with a traceback, unless armed anew before the lease or the timeout's grace is over.

        A C thread does it, whoever holds the GIL: https://docs.python.org/3/library/faulthandler.html
        """
        now = time.monotonic()
        lease_left = self._renewed + self._lease * 0.95 - now
        time_left = self._started + self._task.timeout + KILL_GRACE - now
        faulthandler.dump_traceback_later(max(0.05, min(lease_left, time_left, at_most)), exit=True, file=2)

    # The outcome.

    def _write(self, conclude: Callable[[], object]) -> None:
        """Write the outcome; while MongoDB cannot be reached, try on until the lease is over and the sweeper's turn."""
        while True:
            try:
                conclude()
                return
            except DatabaseError as error:
                if not is_unreachable(error) or time.monotonic() > self._renewed + self._lease:
                    raise
                time.sleep(0.5)

    def _conclude(self, handler: Handler[Any], result: Any, error: BaseException | None) -> None:
        task = self._task
        if error is None:
            self._conclude_success(result)
        elif self._reason is None:
            self._conclude_failure(handler, error)
        elif self._reason is Reason.CANCELLED:
            task.stop("stopped, as asked")
        elif self._reason is Reason.TIMED_OUT:
            task.fail(error_document("TimedOut", f"Ran longer than {task.timeout:g} s"))
        elif self._reason is Reason.STOPPING:
            self._release()
        else:
            logger.warning("Task %s: attempt %d lost its lease, its outcome is dropped", self.task_id, self.attempt)

    def _conclude_success(self, result: Any) -> None:
        try:
            self._task.succeed(result, self._report.get("message", ""))
        except DatabaseError as error:
            if is_unreachable(error):
                raise
            self._task.fail(error_document("InvalidResult", f"MongoDB refuses the handler's result: {error}"))

    def _conclude_failure(self, handler: Handler[Any], error: BaseException) -> None:
        task = self._task
        document = error_document(type(error).__name__, _text_of(error), "".join(traceback.format_exception(error)))
        logger.info("Task %s: attempt %d failed: %s", self.task_id, self.attempt, document["message"])
        if isinstance(error, PermanentError) or not task.attempts_left:
            task.fail(document)
        elif not task.retry(document, delay=handler.retry.delay(task.attempt - task.uncounted)):
            task.stop("cancelled instead of tried again")

    def _release(self) -> None:
        task = self._task
        if task.release("handed back: its worker stops"):
            task.promote()
            ring(task.robot, task.priority)
        else:
            task.stop("stopped, as asked")


def _text_of(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return "(its message cannot be shown)"


class InvalidResult(PermanentError):
    """What a handler returned cannot be a task's result."""


def storable(result: Any) -> Any:
    """Return the result as JSON knows it. Raises InvalidResult when it is none, or larger than MAX_RESULT."""
    try:
        plain = to_jsonable_python(result)
        size = len(json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
        bson.encode({"result": plain})
    except (PydanticSerializationError, bson.errors.BSONError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidResult(f"The handler's result cannot be stored as JSON: {error}") from error
    if size > MAX_RESULT:
        raise InvalidResult(f"The handler's result has {size} bytes of JSON, more than {MAX_RESULT}")
    return plain
