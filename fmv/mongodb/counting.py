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

    One round trip, but for two that make the same document. Raises PyMongoError.
    """
    change = {"$inc": {field: by}} | ({"$setOnInsert": when_new} if when_new else {})
    for last_try in (False, True):
        try:
            document = collection(model).find_one_and_update(
                {"_id": key}, change, upsert=True, return_document=ReturnDocument.AFTER
            )
            return int(document[field])
        except DuplicateKeyError:
            if last_try:
                raise
    raise AssertionError
