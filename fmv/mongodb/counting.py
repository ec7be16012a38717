"""Counting in MongoDB, right however many processes count at once."""

from typing import Any, cast

from django.db import connection, models
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from fmv.mongodb.base import DatabaseWrapper


def collection(model: type[models.Model]) -> Any:
    """Return the model's collection, for what the ORM has no word for. Its errors are PyMongo's own."""
    return cast(DatabaseWrapper, connection).get_collection(model._meta.db_table)


def increment(model: type[models.Model], key: str, field: str, by: int = 1, **when_new: Any) -> int:
    """Add to a field of the document `key`, made with `when_new` where there is none; return the sum.

    One round trip, but for two at once that both make it. Raises PyMongoError.
    """
    change = {"$inc": {field: by}} | ({"$setOnInsert": when_new} if when_new else {})
    try:
        document = _increment(model, key, change)
    except DuplicateKeyError:  # old servers tell so the slower of the two
        document = _increment(model, key, change)
    return int((document or collection(model).find_one(key))[field])  # SecantusDB has no answer for it, but has counted


def _increment(model: type[models.Model], key: str, change: dict[str, Any]) -> Any:
    after = ReturnDocument.AFTER
    return collection(model).find_one_and_update({"_id": key}, change, upsert=True, return_document=after)
