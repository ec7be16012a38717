"""Claims of agents that wait until their robot has a task.

Each waits in a thread of the web server. It registers before it looks for a task, so it misses none. What changes the
queue in this process wakes it at once. For what other processes change, one thread asks MongoDB every POLL_INTERVAL
which of the waiting robots have queued tasks, in one query for all of them. A second query asks what these robots run,
if some of them have queued tasks that their agents could not start. The thread also wakes claims whose client has gone.
It runs while claims wait. A poll that fails delays the next one by nothing but its own time.
"""

import logging
import threading
import time
from collections.abc import Set
from uuid import UUID

from django.db import DatabaseError, connections
from pymongo.errors import PyMongoError

from fmv.http.waiting import TooManyWait, WaitingRequest
from fmv.monitoring import metrics
from tasks.models import Task

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.25  # seconds
LONGEST_PAUSE = 4.0  # seconds for which the thread leaves a claim alone that it has woken in vain, if nothing changes


class WaitingClaim(WaitingRequest):
    """A claim for a robot that may wait, from its creation until it is closed. Raises TooManyWait."""

    def __init__(self, robot: str) -> None:
        super().__init__()
        self.robot = robot
        self._ran: Set[UUID] = frozenset()
        self._pause = POLL_INTERVAL
        self._poll_again = 0.0  # by time.monotonic()
        try:
            _add(self)
        except BaseException:
            self.close()
            raise

    @property
    def was_polled(self) -> bool:
        """Whether the thread has woken it before."""
        return self._poll_again > 0

    def wake_by_poll(self, running: Set[UUID]) -> None:
        """Wake it, unless it was woken a moment ago and found that the queued tasks are none that it may start.

        `running`: the tasks that the robot runs. If they have changed since, a lane may be free, or another task is the
        next.
        """
        now = time.monotonic()
        if running != self._ran:
            self._ran, self._pause, self._poll_again = running, POLL_INTERVAL, now
        if now >= self._poll_again:
            self._poll_again = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self.wake()

    def close(self) -> None:
        try:
            _discard(self)
        finally:
            super().close()


_lock = threading.Lock()
_claims: dict[str, set[WaitingClaim]] = {}
_thread: threading.Thread | None = None
_none_left = threading.Event()


def wake(robot: str) -> None:
    """Let the claims for the robot that wait in this process look again."""
    if robot in _claims:  # mostly not, and then without the lock
        with _lock:
            claims = list(_claims.get(robot, ()))
        for claim in claims:
            claim.wake()


def number_waiting() -> int:
    """Return how many claims wait in this process."""
    with _lock:
        return sum(map(len, _claims.values()))


def _add(claim: WaitingClaim) -> None:
    global _thread  # noqa: PLW0603 - the lock guards it
    with _lock:
        _none_left.clear()
        if _thread is None or not _thread.is_alive():
            thread = threading.Thread(target=_run, name="waiting claims", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system lets this process start no more threads
                logger.warning("Claims cannot wait: %s", error)
                raise TooManyWait from error
            _thread = thread
        _claims.setdefault(claim.robot, set()).add(claim)
        _show_number()


def _discard(claim: WaitingClaim) -> None:
    with _lock:
        claims = _claims.get(claim.robot, set())
        if claim not in claims:
            return
        claims.discard(claim)
        if not claims:
            _claims.pop(claim.robot, None)
        if not _claims:
            _none_left.set()
        _show_number()


def _show_number() -> None:
    metrics.waiting_claims.set(sum(map(len, _claims.values())))  # not counted up and down: a count may fail


def _run() -> None:
    try:
        while _goes_on():
            try:
                WaitingClaim.wake_gone()
                poll()
            except Exception:
                logger.exception("Waiting claims were not woken; FMV tries again")
            _none_left.wait(POLL_INTERVAL)
    finally:
        connections.close_all()


def _goes_on() -> bool:
    """Return whether claims wait; else let the next one start another thread, after a moment without any."""
    global _thread  # noqa: PLW0603 - the lock guards it
    if not _none_left.is_set():
        return True
    time.sleep(POLL_INTERVAL)  # an agent's next claim comes soon
    with _lock:
        if _claims:
            return True
        _thread = None
        return False


def poll() -> None:
    """Wake the claims for robots that have queued tasks."""
    with _lock:
        robots = list(_claims)
    try:
        found = Task.objects.robots_queued(robots) if robots else set()
        with _lock:
            claims = [claim for robot in found for claim in _claims.get(robot, ())]
        again = {claim.robot for claim in claims if claim.was_polled}
        running = Task.objects.running_on(again) if again else {}
    except (DatabaseError, PyMongoError) as error:
        logger.warning("Waiting claims cannot ask MongoDB: %s", error.__cause__ or error)
        return
    for claim in claims:
        claim.wake_by_poll(running.get(claim.robot, frozenset()))
