"""The database engine: `DATABASES["default"]["ENGINE"] = "fmv.mongodb"`."""

import datetime as dt

from django.db import DatabaseError
from django_mongodb_backend.base import DatabaseWrapper as MongoDatabaseWrapper
from django_mongodb_backend.operations import DatabaseOperations as MongoDatabaseOperations
from pymongo.errors import ConnectionFailure


class DatabaseOperations(MongoDatabaseOperations):
    compiler_module = "fmv.mongodb.compiler"


class DatabaseWrapper(MongoDatabaseWrapper):
    ops_class = DatabaseOperations

    def server_now(self) -> dt.datetime:
        """Return the server's clock, in UTC: one round trip. Raises PyMongoError when the server does not answer."""
        now: dt.datetime = self.get_database().command("hello")["localTime"]
        return now.replace(tzinfo=dt.UTC)


def is_unreachable(error: BaseException | None) -> bool:
    """Tell whether the error says that MongoDB could not be reached, rather than that it refused."""
    return isinstance(error, ConnectionFailure) or (
        isinstance(error, DatabaseError) and isinstance(error.__cause__, ConnectionFailure)
    )
