"""The MongoDB server: its clock, its connections, and whether it can be reached."""

import datetime as dt
import time
from typing import Any, cast

from django.db import DatabaseError, connection, connections
from django.utils import timezone
from pymongo.database import Database
from pymongo.errors import ConnectionFailure

from fmv.mongodb.base import DatabaseWrapper

CLOCK_MAX_AGE = 60.0  # seconds for which a measured difference between the clocks is used
CLOCK_TOLERANCE = dt.timedelta(seconds=0.1)  # a smaller difference may be network delay

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


def is_unreachable(error: BaseException | None) -> bool:
    """Return whether the error means that MongoDB could not be reached, not that it refused the operation."""
    return isinstance(error, ConnectionFailure) or (
        isinstance(error, DatabaseError) and isinstance(error.__cause__, ConnectionFailure)
    )
