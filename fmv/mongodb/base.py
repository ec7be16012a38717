"""The database engine: `DATABASES["default"]["ENGINE"] = "fmv.mongodb"`."""

from contextlib import ExitStack
from typing import Any

import pymongo
from django_mongodb_backend.base import DatabaseWrapper as MongoDatabaseWrapper
from django_mongodb_backend.operations import DatabaseOperations as MongoDatabaseOperations
from django_mongodb_backend.schema import DatabaseSchemaEditor

LONGEST_MIGRATION = 86_400.0  # seconds


class DatabaseOperations(MongoDatabaseOperations):
    compiler_module = "fmv.mongodb.compiler"


class SchemaEditor(DatabaseSchemaEditor):
    """Waits for what a migration does as long as it takes: an index of millions of documents takes minutes to build."""

    def __enter__(self) -> Any:
        with ExitStack() as patience:
            patience.enter_context(pymongo.timeout(LONGEST_MIGRATION))
            entered = super().__enter__()
            self._patience = patience.pop_all()
        return entered

    def __exit__(self, *error: Any) -> None:
        with self._patience:
            super().__exit__(*error)


class DatabaseWrapper(MongoDatabaseWrapper):
    ops_class = DatabaseOperations
    SchemaEditorClass = SchemaEditor

    def get_collection(self, name: str, **kwargs: Any) -> Any:
        """Make a collection's object once and not for each query: it copies and checks a dozen options each time."""
        if kwargs or self.queries_logged:
            return super().get_collection(name, **kwargs)
        database, made = self.database, self.__dict__.setdefault("_collections", {})
        if name not in made or made[name].database is not database:
            made[name] = super().get_collection(name)
        return made[name]
