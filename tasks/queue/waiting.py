"""Claims of agents that wait until their robot has a task.

Each waits in a thread of the web server. It registers before it looks for a task, so it misses none. What changes the
queue in this process wakes it at once. For what other processes change, one thread asks MongoDB twice a second which of
the waiting robots have queued tasks, in one query for all of them. It runs while claims wait.
"""

import logging
import threading
import time

from django.db import DatabaseError, connections
from pymongo.errors import PyMongoError

from fmv.http.waiting import WaitingRequest
from fmv.monitoring import metrics
from tasks.models import Task

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.5  # seconds
LONGEST_PAUSE = 4.0  # seconds for which the thread leaves a claim alone that it has woken in vain


class WaitingClaim(WaitingRequest):
    """A claim for a robot that may wait, from its creation until it is closed. Raises TooManyWait."""

    def __init__(self, robot: str) -> None:
        super().__init__()
        self.robot = robot
        self._pause = POLL_INTERVAL
        self._poll_again = 0.0  # by time.monotonic()
        _add(self)

    def wake_by_poll(self, running=frozenset()) -> None:
        """Wake it, unless it was woken a moment ago and found that the queued tasks are none that it may start."""
        now = time.monotonic()
        if now >= self._poll_again:
            self._poll_again = now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            self.wake()

    def close(self) -> None:
        _discard(self)
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
        _claims.setdefault(claim.robot, set()).add(claim)
        metrics.waiting_claims.inc()
        _none_left.clear()
        if _thread is None:
            _thread = threading.Thread(target=_run, name="waiting claims", daemon=True)
            _thread.start()


def _discard(claim: WaitingClaim) -> None:
    with _lock:
        claims = _claims.get(claim.robot, set())
        if claim not in claims:
            return
        claims.discard(claim)
        metrics.waiting_claims.dec()
        if not claims:
            _claims.pop(claim.robot, None)
        if not _claims:
            _none_left.set()


def _run() -> None:
    try:
        while _goes_on():
            poll()
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
    except (DatabaseError, PyMongoError) as error:
        logger.warning("Waiting claims cannot ask MongoDB: %s", error.__cause__ or error)
        return
    with _lock:
        claims = [claim for robot in found for claim in _claims.get(robot, ())]
    for claim in claims:
        claim.wake_by_poll()
