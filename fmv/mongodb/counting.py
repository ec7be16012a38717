"""Counters in MongoDB that stay exact when many processes count at the same time."""

from typing import Any, cast

from django.db import connection, models
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from fmv.mongodb.base import DatabaseWrapper


def collection(model: type[models.Model]) -> Any:
    """Return the model's PyMongo collection, for operations that the ORM lacks. It raises PyMongo's errors."""
    return cast(DatabaseWrapper, connection).get_collection(model._meta.db_table)


def increment(model: type[models.Model], key: str, field: str, by: int = 1, **when_new: Any) -> int:
    """Add `by` to a field of the document `key` and return the sum. A new document is created with `when_new` too.

    One round trip, or two if another process creates the document at the same time. Raises PyMongoError.
    """
    change = {"$inc": {field: by}} | ({"$setOnInsert": when_new} if when_new else {})
    try:
        document = _increment(model, key, change)
    except DuplicateKeyError:  # older servers raise it if two create the document at once
        document = _increment(model, key, change)
    return int((document or collection(model).find_one(key))[field])  # SecantusDB counts, but returns no document


def _increment(model: type[models.Model], key: str, change: dict[str, Any]) -> Any:
    after = ReturnDocument.AFTER
    return collection(model).find_one_and_update({"_id": key}, change, upsert=True, return_document=after)
