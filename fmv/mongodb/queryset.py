"""The QuerySet of FMV's models."""

from typing import Any, TypeVar

from django.db import models
from django.db.models.sql import Query
from django_mongodb_backend.queryset import MongoQuerySet

M = TypeVar("M", bound=models.Model, covariant=True)


class ReturningQuery(Query):
    """A query that fetches its first row by updating it with `new_values`."""

    compiler = "SQLReturningCompiler"
    new_values: dict[str, Any]


class QuerySet(MongoQuerySet, models.QuerySet[M]):
    """Adds the one thing conditional updates lack: the document that was updated."""

    def update_returning(self, **values: Any) -> M | None:
        """Update the first match in this order, in one atomic step; return it as it now is, or None without a match.

        MongoDB's findAndModify: https://www.mongodb.com/docs/manual/reference/command/findAndModify/
        Raises IntegrityError when a unique index refuses the new values; nothing has changed then. Like `update()`
        it leaves `auto_now` fields alone and takes no slice.
        """
        self._not_support_combined_queries("update_returning")
        if self.query.is_sliced:
            raise TypeError("Cannot update a query once a slice has been taken.")
        self._for_write = True
        updating = self._chain()
        updating.query = self.query.chain(ReturningQuery)
        updating.query.new_values = values
        self._result_cache = None  # as update() does: what it held may be of the past
        return next(iter(updating), None)
