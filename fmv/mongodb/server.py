"""What is asked of the MongoDB server itself."""

import datetime as dt
from typing import cast

from django.db import DatabaseError, connection, connections
from pymongo.errors import ConnectionFailure

from fmv.mongodb.base import DatabaseWrapper


def server_now() -> dt.datetime:
    """Return the server's clock, in UTC: one round trip. Raises PyMongoError when the server does not answer."""
    database = cast(DatabaseWrapper, connection).get_database()
    now: dt.datetime = database.command("hello")["localTime"]
    return now.replace(tzinfo=dt.UTC)


def forget_clients() -> None:
    """Leave a parent process's connections behind: a MongoClient must not cross a fork."""
    for each in connections.all(initialized_only=True):
        cast(DatabaseWrapper, each).close_pool()


def is_unreachable(error: BaseException | None) -> bool:
    """Tell whether the error says that MongoDB could not be reached, rather than that it refused."""
    return isinstance(error, ConnectionFailure) or (
        isinstance(error, DatabaseError) and isinstance(error.__cause__, ConnectionFailure)
    )
