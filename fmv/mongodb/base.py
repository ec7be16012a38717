"""The database engine: `DATABASES["default"]["ENGINE"] = "fmv.mongodb"`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pymongo
from django_mongodb_backend.base import DatabaseWrapper as MongoDatabaseWrapper
from django_mongodb_backend.operations import DatabaseOperations as MongoDatabaseOperations
from django_mongodb_backend.query import wrap_database_errors
from django_mongodb_backend.schema import DatabaseSchemaEditor, ignore_embedded_models
from pymongo.errors import CollectionInvalid, OperationFailure

from fmv.mongodb.conditions import OPERATORS

MIGRATION_TIMEOUT = 86_400.0  # seconds
NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND, NAMESPACE_EXISTS = 26, 27, 48  # MongoDB's error codes


class DatabaseOperations(MongoDatabaseOperations):
    compiler_module = "fmv.mongodb.compiler"


@contextmanager
def _done_before() -> Iterator[None]:
    """Let a step pass that an interrupted migration has taken already."""
    try:
        yield
    except CollectionInvalid:  # PyMongo's own error for a collection that exists
        pass
    except OperationFailure as error:
        if error.code not in (NAMESPACE_NOT_FOUND, INDEX_NOT_FOUND, NAMESPACE_EXISTS):
            raise
    except ValueError as error:  # the stock editor looks for the one index to drop
        if "wrong number (0)" not in str(error):
            raise


class SchemaEditor(DatabaseSchemaEditor):
    """Lets migrations be repeated, and run without the usual timeout.

    MongoDB has no transaction around a migration, so one that was interrupted is half done; and any write, such as that
    of a program that came too early, creates its collection. Each step therefore passes if it was taken already.
    Building an index on millions of documents takes minutes.
    """

    def __enter__(self) -> Any:
        with ExitStack() as timeout:
            timeout.enter_context(pymongo.timeout(MIGRATION_TIMEOUT))
            entered = super().__enter__()
            self._timeout = timeout.pop_all()
        return entered

    def __exit__(self, *error: Any) -> None:
        with self._timeout:
            super().__exit__(*error)

    @wrap_database_errors
    @ignore_embedded_models
    def create_model(self, model: Any) -> None:
        with _done_before():
            self.get_database().create_collection(model._meta.db_table)
        self._create_model_indexes(model)  # MongoDB itself lets an index pass that exists
        for field in model._meta.local_many_to_many:
            if field.remote_field.through._meta.auto_created:
                self.create_model(field.remote_field.through)

    def remove_index(self, *args: Any) -> None:
        with _done_before():
            super().remove_index(*args)

    def _remove_composed_index(self, *args: Any, **options: Any) -> None:
        with _done_before():
            super()._remove_composed_index(*args, **options)

    def _remove_field_index(self, *args: Any, **options: Any) -> None:
        with _done_before():
            super()._remove_field_index(*args, **options)

    def _remove_field_unique(self, *args: Any, **options: Any) -> None:
        with _done_before():
            super()._remove_field_unique(*args, **options)

    @ignore_embedded_models
    def alter_db_table(self, model: Any, old_db_table: str, new_db_table: str) -> None:
        names = self.connection.introspection.table_names()
        if old_db_table in names or new_db_table not in names:  # else it is renamed already
            super().alter_db_table(model, old_db_table, new_db_table)


class DatabaseWrapper(MongoDatabaseWrapper):
    ops_class = DatabaseOperations
    SchemaEditorClass = SchemaEditor
    mongo_operators = OPERATORS

    def get_collection(self, name: str, **kwargs: Any) -> Any:
        """Return a cached collection object, because creating one for each query copies and checks a dozen options."""
        if kwargs or self.queries_logged:
            return super().get_collection(name, **kwargs)
        database, made = self.database, self.__dict__.setdefault("_collections", {})
        if name not in made or made[name].database is not database:
            made[name] = super().get_collection(name)
        return made[name]
