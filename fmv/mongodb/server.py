"""What is asked of the MongoDB server itself."""

import datetime as dt
import time
from typing import Any, cast

from django.db import DatabaseError, connection, connections
from django.utils import timezone
from pymongo.database import Database
from pymongo.errors import ConnectionFailure

from fmv.mongodb.base import DatabaseWrapper

CLOCK_KEPT = 60.0  # seconds for which the difference of the clocks is not asked for again
CLOCK_TOLERANCE = dt.timedelta(seconds=0.1)  # a lesser difference may be the way there and back

_clock = (0.0, dt.timedelta())  # good until, by time.monotonic(); how far the server's clock is ahead of ours


def database() -> Database[dict[str, Any]]:
    """Return PyMongo's database of this thread's connection."""
    return cast(DatabaseWrapper, connection).get_database()


def server_now() -> dt.datetime:
    """Return the server's clock, in UTC: one round trip. Raises PyMongoError when the server does not answer."""
    now: dt.datetime = database().command("hello")["localTime"]
    return now.replace(tzinfo=dt.UTC)


def stored_now() -> dt.datetime:
    """Return the server's clock to within CLOCK_TOLERANCE, to the millisecond, for what an insert stores.

    One round trip a minute. Raises PyMongoError when the server does not answer.
    """
    global _clock  # noqa: PLW0603 - a cache; two threads that fill it at once do no harm
    if time.monotonic() >= _clock[0]:
        ahead = server_now() - timezone.now()
        _clock = (time.monotonic() + CLOCK_KEPT, ahead if abs(ahead) > CLOCK_TOLERANCE else dt.timedelta())
    now = timezone.now() + _clock[1]
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


def forget_clients() -> None:
    """Leave a parent process's connections behind: a MongoClient must not cross a fork."""
    for each in connections.all(initialized_only=True):
        cast(DatabaseWrapper, each).close_pool()


def is_unreachable(error: BaseException | None) -> bool:
    """Tell whether the error says that MongoDB could not be reached, rather than that it refused."""
    return isinstance(error, ConnectionFailure) or (
        isinstance(error, DatabaseError) and isinstance(error.__cause__, ConnectionFailure)
    )
