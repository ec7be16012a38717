"""The MongoDB server: its clock, its connections, and whether it can be reached."""

import datetime as dt
import time
from typing import Any, cast

from django.db import DatabaseError, connection, connections
from django.utils import timezone
from pymongo.database import Database
from pymongo.errors import BulkWriteError, ConnectionFailure, OperationFailure

from fmv.mongodb.base import DatabaseWrapper

CLOCK_MAX_AGE = 60.0  # seconds for which a measured difference between the clocks is used
CLOCK_TOLERANCE = dt.timedelta(seconds=0.1)  # a smaller difference may be network delay
RETRYABLE = ("RetryableWriteError", "TransientTransactionError")  # labels that servers and PyMongo give to errors

_clock = (0.0, dt.timedelta())  # expiry by time.monotonic(), and how far the server's clock is ahead of ours


def database() -> Database[dict[str, Any]]:
    """Return PyMongo's database of this thread's connection."""
    return cast(DatabaseWrapper, connection).get_database()


def server_now() -> dt.datetime:
    """Return the server's clock, in UTC: in one round trip. Raises PyMongoError if the server does not answer."""
    now: dt.datetime = database().command("hello")["localTime"]
    return now.replace(tzinfo=dt.UTC)


def stored_now() -> dt.datetime:
    """Return the server's clock, cut to milliseconds and exact to CLOCK_TOLERANCE, for a time that an insert stores.

    One round trip a minute. Raises PyMongoError if the server does not answer.
    """
    global _clock  # noqa: PLW0603 - a cache; it is harmless if two threads fill it at once
    if time.monotonic() >= _clock[0]:
        ahead = server_now() - timezone.now()
        _clock = (time.monotonic() + CLOCK_MAX_AGE, ahead if abs(ahead) > CLOCK_TOLERANCE else dt.timedelta())
    now = timezone.now() + _clock[1]
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
