"""The lease of a running task: a thread renews it, and ends the attempt if that fails.

Three clocks guard an attempt. The lease renewer, a thread, renews the lease. It interrupts the handler when the task is
cancelled, has run too long, or has been taken from this process; the interrupt is a signal, so it also ends a blocking
call. The watchdog is the last resort, for a process that is stuck where no Python code runs or a handler that swallows
the interrupt: every renewal arms it anew, and it ends the process before the lease runs out. So an attempt has ended
for certain before another process can start the next one, unless the machine sleeps or the process is frozen: nothing
can run then that would end it. When the machine wakes up, an attempt whose lease has run out is ended within about a
second, by the renewer.
"""

import contextlib
import contextvars
import enum
import faulthandler
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.db import DatabaseError

from fmv.clock import uptime
from fmv.monitoring import counters
from tasks.models import Task

logger = logging.getLogger(__name__)

INTERRUPT = signal.SIGUSR2
KILL_GRACE = 3.0  # seconds from an interrupt that is ignored to the end of the process
LEASE_GRACE = 6.0  # seconds that a lease may outlive the timeout of the task: its process has ended by then


class Reason(enum.Enum):
    """Why an attempt is interrupted."""

    CANCELLED = "cancelled"
    TIMED_OUT = "timed out"
    LOST = "lease lost"
    STOPPING = "worker stops"


class Lease:
    """The lease that this process has on a task, from its claim until the handler returns.

    `since`: a time before the claim, by `uptime()`. All is reckoned from before a write to MongoDB, not from
    after it, so this process never believes in a lease that has run out.
    """

    def __init__(self, task: Task, since: float) -> None:
        #: why the attempt is to end; None: it may go on
        self.reason: Reason | None = None
        #: what the handler reported last; stored with the next renewal
        self.report: dict[str, Any] = {}
        self._stored_report: dict[str, Any] = {}
        self._task = task
        self._seconds = settings.ENVIRONMENT.lease_seconds
        self._started = self._renewed = since
        self._renewing = threading.Lock()
        self._over = threading.Event()

    @property
    def age(self) -> float:
        """Seconds since the lease was taken or renewed last."""
        return uptime() - self._renewed

    @property
    def has_run_out(self) -> bool:
        return self.age > self._seconds

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Renew the lease in a thread meanwhile, and interrupt the main thread when the attempt is to end."""
        run = contextvars.copy_context().run  # log lines of the thread have the request id, too
        name = f"lease of {self._task.pk}"
        renewer = threading.Thread(target=run, args=(self._renew_in_time,), name=name, daemon=True)
        self._arm_watchdog()
        renewer.start()
        try:
            yield
        finally:
            self._over.set()
            renewer.join()
            faulthandler.cancel_dump_traceback_later()

    def _renew_in_time(self) -> None:
        next_interrupt = self._started + self._task.timeout
        while not self._over.wait(min(1.0, max(0.01, next_interrupt - uptime()))):
            if self.reason is None and uptime() >= next_interrupt:
                self._give_up(Reason.TIMED_OUT)
            elif self.reason is None and self.has_run_out:  # while the machine slept
                counters.note("renewal_failures")
                self._give_up(Reason.LOST)
            elif self.reason is None and self.age >= settings.ENVIRONMENT.renew_seconds:
                self.renew()
                if self.age > self._seconds * 5 / 6:
                    self._give_up(Reason.LOST)
            if self.reason:
                next_interrupt = uptime() + 1  # interrupt again each second, in case the handler has swallowed it
                signal.pthread_kill(threading.main_thread().ident or 0, INTERRUPT)

    def renew(self) -> None:
        """Renew the lease and store the report, in one write. If that is refused, the attempt is to end."""
        if self.reason or not self._renewing.acquire(blocking=False):
            return
        try:
            before = uptime()
            report = self.report
            news = {} if report == self._stored_report else report
            if self._task.renew(lease=self._seconds, grace=LEASE_GRACE, **news):
                self._renewed, self._stored_report = before, report
                self._arm_watchdog()
            else:
                self._give_up(self._why_refused())
        except DatabaseError as error:  # the thread tries again until the lease has nearly run out
            logger.warning("Task %s: its lease could not be renewed: %r", self._task.pk, error.__cause__)
            counters.note("renewal_failures")
        finally:
            self._renewing.release()

    def _why_refused(self) -> Reason:
        if self._task.is_being_cancelled():
            return Reason.CANCELLED
        counters.note("renewal_failures")
        return Reason.LOST

    def _give_up(self, reason: Reason) -> None:
        self.reason = reason
        self._arm_watchdog(KILL_GRACE)

    def _arm_watchdog(self, at_most: float = float("inf")) -> None:
        """End this process, with a traceback, unless armed anew before the lease or the grace of the timeout is over.

        A C thread does it, whichever thread holds the GIL: https://docs.python.org/3/library/faulthandler.html
        """
        lease_left = self._seconds * 0.95 - self.age
        time_left = self._started + self._task.timeout + KILL_GRACE - uptime()
        faulthandler.dump_traceback_later(max(0.05, min(lease_left, time_left, at_most)), exit=True, file=2)
