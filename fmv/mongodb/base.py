"""The database engine: `DATABASES["default"]["ENGINE"] = "fmv.mongodb"`."""

from contextlib import ExitStack
from typing import Any

import pymongo
from django_mongodb_backend.base import DatabaseWrapper as MongoDatabaseWrapper
from django_mongodb_backend.operations import DatabaseOperations as MongoDatabaseOperations
from django_mongodb_backend.schema import DatabaseSchemaEditor

MIGRATION_TIMEOUT = 86_400.0  # seconds


class DatabaseOperations(MongoDatabaseOperations):
    compiler_module = "fmv.mongodb.compiler"


class SchemaEditor(DatabaseSchemaEditor):
    """Lets migrations run without the usual timeout: building an index on millions of documents takes minutes."""

    def __enter__(self) -> Any:
        with ExitStack() as timeout:
            timeout.enter_context(pymongo.timeout(MIGRATION_TIMEOUT))
            entered = super().__enter__()
            self._timeout = timeout.pop_all()
        return entered

    def __exit__(self, *error: Any) -> None:
        with self._timeout:
            super().__exit__(*error)


class DatabaseWrapper(MongoDatabaseWrapper):
    ops_class = DatabaseOperations
    SchemaEditorClass = SchemaEditor

    def get_collection(self, name: str, **kwargs: Any) -> Any:
        """Return a cached collection object, because creating one for each query copies and checks a dozen options."""
        if kwargs or self.queries_logged:
            return super().get_collection(name, **kwargs)
        database, made = self.database, self.__dict__.setdefault("_collections", {})
        if name not in made or made[name].database is not database:
            made[name] = super().get_collection(name)
        return made[name]
