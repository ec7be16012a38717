"""The MongoDB server: its clock, its connections, and whether it can be reached."""

import datetime as dt
import logging
import re
import threading
import time
from typing import Any, cast

from django.db import DatabaseError, connection, connections
from pymongo.database import Database
from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure, PyMongoError

from fmv.clock import uptime
from fmv.mongodb.base import DatabaseWrapper

logger = logging.getLogger(__name__)

RETRYABLE = ("RetryableWriteError", "TransientTransactionError")  # labels that servers and PyMongo give to errors

OUT_OF_DISK_SPACE = 14031
NO_SPACE = re.compile(r"no space left|out of disk space|disk full|over (your|the) space quota", re.IGNORECASE)
FAILED = {1, 8}  # InternalError, UnknownError: what a server answers whose storage has failed

READING_LIFETIME = 60.0  # seconds for which a reading of the server's clock is continued
RECENT_LIFETIME = 5.0  # the same for what does no harm when it acts by the clock of some seconds ago
SAME_CLOCK = 0.1  # seconds: a smaller difference between the server's clock and ours may be network delay
JUMP = 1.0  # seconds: a larger difference from the reading before is a jump
DRIFT = 0.001  # that two clocks may differ by while each runs evenly, as a part of the time between two readings


def database() -> Database[dict[str, Any]]:
    """Return PyMongo's database of this thread's connection."""
    return cast(DatabaseWrapper, connection).get_database()


class ServerClock:
    """The server's clock, read now and then and continued by `uptime`, whatever the wall clock of this machine does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read_at = float("-inf")  # by uptime
        self._ahead = 0.0  # seconds by which the server's clock, as a Unix time, is ahead of uptime
        #: since when this process has seen the server's clock run evenly, by uptime
        self._even_since = float("-inf")
        self._jumps = 0

    def read(self) -> dt.datetime:
        """Return the server's clock: in one round trip. Raises PyMongoError if the server does not answer."""
        before = uptime()
        answer: dt.datetime = database().command("hello")["localTime"]
        now = answer.replace(tzinfo=dt.UTC)
        self._compare(now, before, uptime())
        return now

    def _compare(self, now: dt.datetime, before: float, after: float) -> None:
        ahead = now.timestamp() - (before + after) / 2
        own = time.time() - uptime()
        if abs(ahead - own) < SAME_CLOCK:  # so that the processes of this machine agree to the millisecond
            ahead = own
        with self._lock:
            if self._read_at == float("-inf"):
                self._even_since = after
            elif abs(gain := ahead - self._ahead) > JUMP + (after - before) + DRIFT * abs(after - self._read_at):
                self._even_since = after
                self._jumps += 1
                logger.warning("MongoDB's clock has jumped by %+.1f s", gain, extra={"seconds": gain})
            self._ahead, self._read_at = ahead, after

    def now(self, lifetime: float = READING_LIFETIME) -> dt.datetime:
        """Return the server's clock, exact to SAME_CLOCK, in one round trip for each `lifetime` (seconds).

        A jump of the server's clock is noticed with the next reading. Raises PyMongoError if the server has never
        answered. While it does not answer, the last reading is continued.
        """
        if uptime() >= self._read_at + lifetime:
            try:
                self.read()
            except (PyMongoError, DatabaseError):
                if self._read_at == float("-inf"):
                    raise
        return dt.datetime.fromtimestamp(self._ahead + uptime(), dt.UTC)

    def even_for(self) -> float:
        """Return the seconds for which this process has seen the server's clock run evenly. Reads it."""
        self.read()
        return uptime() - self._even_since

    def take_jumps(self) -> int:
        """Return how often the server's clock has jumped since the last call."""
        with self._lock:
            jumps, self._jumps = self._jumps, 0
        return jumps


clock = ServerClock()


def server_now() -> dt.datetime:
    """Return the server's clock, in UTC: in one round trip. Raises PyMongoError if the server does not answer."""
    return clock.read()


def recent_now() -> dt.datetime:
    """Return `clock.now()` by a reading of the last RECENT_LIFETIME seconds."""
    return clock.now(RECENT_LIFETIME)


def stored_now() -> dt.datetime:
    """Return `clock.now()`, cut to milliseconds, for a time that an insert stores."""
    now = clock.now()
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def forget_clients() -> None:
    """Drop the parent process's connections after a fork, which a MongoClient must not cross."""
    for each in connections.all(initialized_only=True):
        cast(DatabaseWrapper, each).close_pool()


#: MongoDB's error codes by which a server says that it cannot do this now: a router cannot reach a shard, the primary
#: steps down, or no majority confirms. PyMongo keeps such a list private and raises ConnectionFailure for some of them.
NOT_NOW = frozenset({6, 7, 64, 89, 91, 133, 134, 189, 262, 9001, 10058, 10107, 11600, 11602, 13435, 13436})
#: MongoDB's error codes for a document that it does not store: too large, too deep, an invalid key, a value taken
UNSTORABLE = frozenset({2, 14, 15, 22, 52, 56, 57, 121, 10334, 11000, 17419, 17420})


def is_unreachable(error: BaseException | None) -> bool:
    """Return whether the error means that MongoDB could not do it at this time, not that it refused the operation.

    Trying again may help. The operation may have been carried out nevertheless.
    """
    cause = _cause(error)
    if not isinstance(cause, OperationFailure):
        return isinstance(cause, ConnectionFailure)
    return _code(cause) in NOT_NOW or cause.timeout or any(map(cause.has_error_label, RETRYABLE))


def is_unstorable(error: BaseException) -> bool:
    """Return whether MongoDB refused the operation because of the document that it was to store."""
    cause = _cause(error)
    return isinstance(cause, OperationFailure) and _code(cause) in UNSTORABLE


def _cause(error: BaseException | None) -> BaseException | None:
    """Return PyMongo's error, also if it is wrapped in Django's."""
    return error.__cause__ if isinstance(error, DatabaseError) else error


def _code(error: OperationFailure) -> int | None:
    """Return the server's error code; of a write of several documents that of the first refusal."""
    if not isinstance(error, BulkWriteError):
        return error.code
    refusals = [*error.details.get("writeErrors", ()), *error.details.get("writeConcernErrors", ())]
    return refusals[0].get("code") if refusals else None


def trouble(error: BaseException | None) -> str:
    """Return in a sentence why MongoDB did not do its work, "" if nothing is wrong with MongoDB."""
    if is_unreachable(error):
        return "The database cannot be reached."
    cause = _cause(error)
    if not isinstance(cause, OperationFailure):
        return ""
    if _code(cause) == OUT_OF_DISK_SPACE or NO_SPACE.search(str(cause)):
        return "The database's disk is full, so nothing can be stored."
    return "The database has failed; its log says why." if _code(cause) in FAILED else ""
