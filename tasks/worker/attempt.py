"""One attempt of a task: call the handler, be its context, and write the outcome."""

import contextlib
import contextvars
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from django.db import DatabaseError
from pymongo.errors import PyMongoError

from fmv.errors import FmvError
from fmv.http import request_id
from fmv.mongodb.server import is_unreachable, is_unstorable
from fmv.mongodb.uuid7 import new_id
from fmv.monitoring import counters
from robots.models import Robot
from tasks import registry
from tasks.models import LogLine, Task
from tasks.models.error_document import encodable, error_document
from tasks.queue.result import storable
from tasks.registry import Handler, PermanentError
from tasks.worker import isolation, process_end
from tasks.worker.error_report import report_of
from tasks.worker.lease import INTERRUPT, Lease, Reason

logger = logging.getLogger(__name__)

MAX_LOG_LINES = 10_000  # an attempt
MAX_HANDED_BACK = 10  # attempts of a task that do not count because FMV's own code, or a worker, ended them
REPORT_EVERY = 1.0  # seconds between two writes of a handler's progress


class Interrupted(BaseException):
    """Raised in the handler, wherever it is, to end the attempt."""


@dataclass(frozen=True)
class Outcome:
    """How a handler ended: with its `result`, or with the document of its `error`."""

    result: Any = None
    error: dict[str, str] | None = None
    #: another attempt cannot help
    permanent: bool = False


class Attempt:
    """One attempt of one task in this process. The handler gets it as its `registry.Context`.

    `since`: a time before the claim, by `fmv.clock.uptime()`. It runs in the main thread of the process only; threads
    of the handler may call the methods of the context, until the handler has ended.
    """

    def __init__(self, task: Task, robot: Robot, since: float) -> None:
        self.task_id = str(task.pk)
        self.attempt = task.attempt
        self.robot = robot
        self.params: Any = None
        self._task = task
        self._lease = Lease(task, since)
        self._log_lines = 0
        self._interruptible = False  # only the main thread changes it
        self._ended = False
        self._lock = threading.RLock()  # held while the context acts
        self._thread, self._pid = threading.get_ident(), os.getpid()
        self._handler_was_called = False

    # For the handler.

    def progress(self, percent: float, message: str = "") -> None:
        report = {"progress": min(100.0, max(0.0, float(percent))), "message": encodable(str(message)[:500])}
        with self._acting():
            self._lease.report = report
            self._renew_if_due()

    def log(self, text: str) -> None:
        text = encodable(str(text)[:4000])
        with self._acting():
            self._log_lines += 1
            if self._log_lines < MAX_LOG_LINES:
                self._store_line(text)
            elif self._log_lines == MAX_LOG_LINES:
                self._store_line("(further lines of this attempt are not kept)")

    def _store_line(self, text: str) -> None:
        try:
            LogLine.objects.create(id=new_id(), task=self._task.pk, attempt=self.attempt, text=text)
        except (DatabaseError, PyMongoError) as error:  # no reason to fail the task
            logger.warning("Task %s: a line of its log was lost: %r", self.task_id, error.__cause__ or error)

    def check(self) -> None:
        with self._acting():
            self._renew_if_due()

    def _renew_if_due(self) -> None:
        if self._lease.age >= REPORT_EVERY:
            self._lease.renew()

    @contextlib.contextmanager
    def _acting(self) -> Iterator[None]:
        """Let one thread at a time act for the attempt. An interrupt is held back meanwhile, and raised afterwards.

        Raises RuntimeError when the handler has ended: the process may have gone on to another task.
        """
        in_main_thread, interruptible = threading.get_ident() == self._thread, self._interruptible
        if os.getpid() != self._pid:
            raise RuntimeError(f"The context of task {self.task_id} can be used in the process of its handler only.")
        if in_main_thread:
            self._interruptible = False
        try:
            with self._lock:
                if self._ended:
                    raise RuntimeError(
                        f"Attempt {self.attempt} of task {self.task_id} has ended: its context can no longer be used."
                    )
                yield
        finally:
            if in_main_thread:
                self._interruptible = interruptible
        if self._lease.reason and (interruptible or not in_main_thread):
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
            if handler.runs_on == "robot":
                raise registry.UnknownHandler
            self.params = handler.read_params(self._task.params)
        except FmvError as error:  # the submit accepted it, so this worker runs another version of the code
            cannot = error_document("CannotRun", f"{self._task.handler}: {error}")
            self._write(lambda: self._task.fail(cannot))
            return
        about = {"task_id": self.task_id, "handler": handler.name, "robot": self.robot.name, "attempt": self.attempt}
        logger.info("Task %(task_id)s (%(handler)s) of robot %(robot)r: attempt %(attempt)d", about, extra=about)
        with self._taking_interrupts(), self._lease.held():
            outcome = self._call(handler)
            with self._lock:
                self._ended = True
        self._write(lambda: self._conclude(handler, outcome))
        counters.store()

    @contextlib.contextmanager
    def _taking_interrupts(self) -> Iterator[None]:
        before = signal.signal(INTERRUPT, self._on_interrupt)
        if process_end.is_orphaned():  # and the interrupt for it came between claim and now
            self._on_interrupt()
        try:
            yield
        finally:
            signal.signal(INTERRUPT, before)

    def _on_interrupt(self, *_: object) -> None:
        # The lease renewer gives its reason first, so a signal without a reason is that of a stopping worker.
        self._lease.reason = self._lease.reason or Reason.STOPPING
        if self._interruptible:
            raise Interrupted

    def _call(self, handler: Handler[Any]) -> Outcome:
        contained = isolation.Contained(self.task_id)
        try:
            with contained:
                return self._outcome_of(handler)
        except BaseException as error:
            return Outcome(error=error_document(type(error).__name__, "while the handler's error was read"))
        finally:
            if handler.fresh_process:
                process_end.end_soon(f"a task of {handler.name!r} has run, which asks for a process of its own")

    def _outcome_of(self, handler: Handler[Any]) -> Outcome:
        try:
            self._handler_was_called = self._interruptible = True
            run = contextvars.copy_context().run  # the handler's context variables, such as decimal's, are its own
            return Outcome(storable(run(cast("Callable[[Any], Any]", handler.run), self)))
        except BaseException as error:
            return Outcome(error=report_of(error), permanent=issubclass(type(error), PermanentError))
        finally:
            self._interruptible = False

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

    def _conclude(self, handler: Handler[Any], outcome: Outcome) -> None:
        task = self._task
        if outcome.error is None:
            self._conclude_success(outcome.result)
        elif self._lease.reason is None:
            self._conclude_failure(handler, outcome.error, outcome.permanent)
        elif self._lease.reason is Reason.CANCELLED:
            task.stop("stopped, as asked", **self._lease.report)
        elif self._lease.reason is Reason.TIMED_OUT:
            task.fail(error_document("TimedOut", f"Ran longer than {task.timeout:g} s"), **self._lease.report)
        elif self._lease.reason is Reason.STOPPING:
            self._release()
        else:
            logger.warning("Task %s: attempt %d lost its lease; its outcome is dropped", self.task_id, self.attempt)

    def _conclude_success(self, result: Any) -> None:
        try:
            self._task.succeed(result, self._lease.report.get("message", ""))
        except DatabaseError as error:
            if not is_unstorable(error):  # the result is not at fault
                raise
            self._task.fail(error_document("InvalidResult", f"MongoDB refuses the handler's result: {error}"))

    def _conclude_failure(self, handler: Handler[Any], error: dict[str, str], permanent: bool) -> None:
        task, report = self._task, self._lease.report
        logger.info("Task %s: attempt %d failed: %s", self.task_id, self.attempt, error["message"])
        if permanent or not task.attempts_left:
            task.fail(error, **report)
        elif not task.retry(error, delay=handler.retry.delay(task.attempt - task.uncounted), **report):
            task.stop("cancelled instead of tried again", **report)

    def _release(self) -> None:
        task = self._task
        if task.release("handed back: its worker stops", **self._lease.report):
            task.promote()  # and the turn at its robot ends with a ring
        else:
            task.stop("stopped, as asked", **self._lease.report)

    def hand_back(self, error: BaseException) -> None:
        """Give the task back at once, because FMV's own code has failed. The attempt counts if the handler was called.

        If MongoDB refuses this too, or cannot be reached, the recovery finds the task when its lease has run out.
        """
        logger.error("Task %s: FMV's own code failed in attempt %d", self.task_id, self.attempt, exc_info=error)
        with contextlib.suppress(DatabaseError):
            task, failed = self._task, error_document("InternalError", f"FMV's own code failed: {error!r:.500}")
            if not self._handler_was_called and task.uncounted < MAX_HANDED_BACK:
                done = task.release(f"handed back: {failed['message']}")
            elif task.attempts_left:
                done = task.retry(failed, delay=1)
            else:
                done = task.fail(failed)
            if not done:
                task.stop("stopped, as asked")
