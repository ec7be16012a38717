"""One attempt of a task: call the handler, be its context, and write the outcome."""

import contextlib
import json
import logging
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import bson
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
from tasks.queue.doorbell import ring
from tasks.registry import Handler, PermanentError
from tasks.worker.lease import INTERRUPT, Lease, Reason

logger = logging.getLogger(__name__)

MAX_RESULT = 1024 * 1024  # bytes of JSON
MAX_LOG_LINES = 10_000  # an attempt
REPORT_EVERY = 1.0  # seconds between two writes of a handler's progress


class Interrupted(BaseException):
    """Raised in the handler, wherever it is, to end the attempt."""


class Attempt:
    """One attempt of one task in this process. The handler gets it as its `registry.Context`.

    `since`: a time before the claim, by `time.monotonic()`. It runs in the main thread of the process only.
    """

    def __init__(self, task: Task, robot: Robot, since: float) -> None:
        self.task_id = str(task.pk)
        self.attempt = task.attempt
        self.robot = robot
        self.params: Any = None
        self._task = task
        self._lease = Lease(task, since)
        self._log_lines = 0
        self._interruptible = False

    # For the handler.

    def progress(self, percent: float, message: str = "") -> None:
        self._lease.report = {
            "progress": min(100.0, max(0.0, float(percent))),
            "message": encodable(str(message))[:500],
        }
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
        except DatabaseError as error:  # no reason to fail the task
            logger.warning("Task %s: a line of its log was lost: %r", self.task_id, error.__cause__)

    def check(self) -> None:
        with self._shielded():
            if self._lease.age >= REPORT_EVERY:
                self._lease.renew()

    @contextlib.contextmanager
    def _shielded(self) -> Iterator[None]:
        """Hold an interrupt back while this class talks to MongoDB, and raise it afterwards."""
        shielded_before, self._interruptible = self._interruptible, False
        try:
            yield
        finally:
            self._interruptible = shielded_before
        if self._lease.reason and self._interruptible:
            raise Interrupted

    # The run.

    @property
    def interrupted(self) -> bool:
        return self._lease.reason is not None

    def run(self) -> None:
        """Call the handler while the lease is renewed, and write the outcome."""
        token = request_id.current.set(self._task.request_id)
        try:
            self._run()
        finally:
            request_id.current.reset(token)

    def _run(self) -> None:
        try:
            handler = registry.get(self._task.handler)
            self.params = handler.read_params(self._task.params)
        except FmvError as error:  # the submit accepted it, so this worker runs another version of the code
            cannot = error_document("CannotRun", f"{self._task.handler}: {error}")
            self._write(lambda: self._task.fail(cannot))
            return
        about = {"task_id": self.task_id, "handler": handler.name, "robot": self.robot.name, "attempt": self.attempt}
        logger.info("Task %(task_id)s (%(handler)s) of robot %(robot)r: attempt %(attempt)d", about, extra=about)
        with self._taking_interrupts(), self._lease.held():
            outcome = self._call(handler)
        self._write(lambda: self._conclude(handler, *outcome))
        counters.store()

    @contextlib.contextmanager
    def _taking_interrupts(self) -> Iterator[None]:
        before = signal.signal(INTERRUPT, self._on_interrupt)
        try:
            yield
        finally:
            signal.signal(INTERRUPT, before)

    def _on_interrupt(self, *_: object) -> None:
        # The lease renewer gives its reason first, so a signal without a reason is that of a stopping worker.
        self._lease.reason = self._lease.reason or Reason.STOPPING
        if self._interruptible:
            raise Interrupted

    def _call(self, handler: Handler[Any]) -> tuple[Any, BaseException | None]:
        try:
            self._interruptible = True
            result = storable(handler.run(self))
            self._interruptible = False
        except BaseException as error:
            self._interruptible = False
            return None, error
        return result, None

    # The outcome.

    def _write(self, conclude: Callable[[], object]) -> None:
        """Write the outcome. While MongoDB is unreachable, try again until the lease has run out."""
        while True:
            try:
                conclude()
                return
            except DatabaseError as error:
                if not is_unreachable(error) or self._lease.has_run_out:
                    raise
                time.sleep(0.5)

    def _conclude(self, handler: Handler[Any], result: Any, error: BaseException | None) -> None:
        task = self._task
        if error is None:
            self._conclude_success(result)
        elif self._lease.reason is None:
            self._conclude_failure(handler, error)
        elif self._lease.reason is Reason.CANCELLED:
            task.stop("stopped, as asked")
        elif self._lease.reason is Reason.TIMED_OUT:
            task.fail(error_document("TimedOut", f"Ran longer than {task.timeout:g} s"))
        elif self._lease.reason is Reason.STOPPING:
            self._release()
        else:
            logger.warning("Task %s: attempt %d lost its lease; its outcome is dropped", self.task_id, self.attempt)

    def _conclude_success(self, result: Any) -> None:
        try:
            self._task.succeed(result, self._lease.report.get("message", ""))
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
    """The value that a handler returned cannot be stored as a result."""


def storable(result: Any) -> Any:
    """Return the result as plain JSON values. Raises InvalidResult if it is not JSON, or larger than MAX_RESULT."""
    try:
        plain = to_jsonable_python(result)
        size = len(json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
        bson.encode({"result": plain})
    except (PydanticSerializationError, bson.errors.BSONError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidResult(f"The handler's result cannot be stored as JSON: {error}") from error
    if size > MAX_RESULT:
        raise InvalidResult(f"The handler's result has {size} bytes of JSON, more than {MAX_RESULT}")
    return plain
