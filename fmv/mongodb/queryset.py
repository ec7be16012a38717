"""The QuerySet of FMV's models."""

from typing import Any, Self, TypeVar

from django.db import models
from django.db.models.sql import UpdateQuery
from django_mongodb_backend.queryset import MongoQuerySet

M = TypeVar("M", bound=models.Model, covariant=True)


class QuerySet(MongoQuerySet, models.QuerySet[M]):
    """Adds the one thing conditional updates lack: the document that was updated."""

    def update_returning(self, **values: Any) -> M | None:
        """Update the first match in this order, in one atomic step; return it as it now is, or None without a match.

        MongoDB's findAndModify: https://www.mongodb.com/docs/manual/reference/command/findAndModify/
        Raises IntegrityError when a unique index refuses the new values; nothing has changed then.
        """
        raise NotImplementedError
