"""The QuerySet of FMV's models."""

from typing import Any, TypeVar

from django.core.exceptions import EmptyResultSet
from django.db import models
from django.db.models.sql import Query, UpdateQuery
from django_mongodb_backend.queryset import MongoQuerySet

from fmv.mongodb.documents import find_document, object_of

M = TypeVar("M", bound=models.Model, covariant=True)


class ReturningQuery(Query):
    """A query that fetches its first row by updating it with `new_values`."""

    compiler = "SQLReturningCompiler"
    new_values: dict[str, Any]


class QuerySet(MongoQuerySet, models.QuerySet[M]):
    """Adds updates that return the updated document, and cheaper ways to read."""

    def find(self, key: Any) -> M | None:
        """Return the row with this primary key, ignoring the filters of this queryset; None if there is none."""
        document = find_document(self.model, key)
        return None if document is None else object_of(self.model, document)

    def criteria(self) -> dict[str, Any]:
        """Return the query document of this queryset, for `fmv.mongodb.documents` and `updates`."""
        if not self.query.where:
            return {}
        compiler: Any = self.query.chain(UpdateQuery).get_compiler(self.db)
        compiler.pre_sql_setup()
        try:
            criteria: dict[str, Any] = compiler.build_query().match_mql
        except EmptyResultSet:
            return {"_id": {"$in": []}}
        return criteria

    def update_returning(self, **values: Any) -> M | None:
        """Update the first row in this order, in one atomic step, and return it updated; None if no row matches.

        MongoDB's findAndModify: https://www.mongodb.com/docs/manual/reference/command/findAndModify/
        Raises IntegrityError if a unique index refuses the new values; nothing is changed then. Like `update()`
        it does not set `auto_now` fields and does not accept a slice.
        """
        self._not_support_combined_queries("update_returning")
        if self.query.is_sliced:
            raise TypeError("Cannot update a query once a slice has been taken.")
        self._for_write = True
        updating = self._chain()
        updating.query = self.query.chain(ReturningQuery)
        updating.query.new_values = values
        self._result_cache = None  # as update() does, because cached rows may be outdated
        return next(iter(updating), None)
