"""The database engine: `DATABASES["default"]["ENGINE"] = "fmv.mongodb"`."""

from typing import Any

from django_mongodb_backend.base import DatabaseWrapper as MongoDatabaseWrapper
from django_mongodb_backend.operations import DatabaseOperations as MongoDatabaseOperations


class DatabaseOperations(MongoDatabaseOperations):
    compiler_module = "fmv.mongodb.compiler"


class DatabaseWrapper(MongoDatabaseWrapper):
    ops_class = DatabaseOperations

    def get_collection(self, name: str, **kwargs: Any) -> Any:
        """Make a collection's object once and not for each query: it copies and checks a dozen options each time."""
        if kwargs or self.queries_logged:
            return super().get_collection(name, **kwargs)
        database, made = self.database, self.__dict__.setdefault("_collections", {})
        if name not in made or made[name].database is not database:
            made[name] = super().get_collection(name)
        return made[name]
