"""Conditional reads and updates without Django's query compiler.

They serve operations that run several times for each task: with Django's compiler they take five times as long.
`criteria` is a query document, `stage` maps columns to expressions (see fmv.mongodb.expressions). All raise
DatabaseError, and IntegrityError when a unique index refuses.
"""

from collections.abc import Sequence
from typing import Any

from django.db import models
from django_mongodb_backend.query import wrap_database_errors

from fmv.mongodb.counting import collection
from fmv.mongodb.documents import Document
from fmv.mongodb.expressions import Mql

Criteria = dict[str, Any]
SetStage = dict[str, Mql]


def names_one(criteria: Criteria) -> bool:
    """Return whether the criteria name one document by its key, so that no second one can match.

    PyMongo repeats an update or delete of one document by itself after a failover, and never one of many:
    https://www.mongodb.com/docs/manual/core/retryable-writes/
    """
    if isinstance(key := criteria.get("_id"), dict):
        among = key.get("$in")
        return "$eq" in key or (isinstance(among, list | tuple) and len(among) == 1)
    return key is not None or any(names_one(part) for part in criteria.get("$and", ()))


@wrap_database_errors
def update(model: type[models.Model], criteria: Criteria, stage: SetStage) -> int:
    """Update all documents that match; return their number."""
    documents = collection(model)
    send = documents.update_one if names_one(criteria) else documents.update_many
    return int(send(criteria, [{"$set": stage}]).matched_count)


@wrap_database_errors
def update_by_key(model: type[models.Model], key: str, condition: Mql, stage: SetStage) -> bool:
    """Update the document with this key if the condition, an expression, holds for it; return whether it did.

    The query names the key alone, so every server goes straight to the document; for a query of several columns it
    would weigh their indexes against each other first, which costs the embedded server as much as the write. MongoDB
    reports whether the document has changed, so the stage must change it for certain.
    """
    change = {"$cond": [condition, {"$mergeObjects": ["$$ROOT", stage]}, "$$ROOT"]}
    return bool(collection(model).update_one({"_id": key}, [{"$replaceWith": change}]).modified_count)


@wrap_database_errors
def aggregate(model: type[models.Model], pipeline: list[dict[str, Any]], *, by: str | None = None) -> list[Document]:
    """Return the documents that the pipeline makes of the model's collection.

    `by`: the name of the index to use. If it has a condition, the first $match must contain that, word for word.
    """
    options: dict[str, Any] = {"hint": by} if by else {}
    return collection(model).aggregate(pipeline, **options).to_list()


@wrap_database_errors
def find_by_key(model: type[models.Model], key: str, columns: Sequence[str]) -> Document | None:
    """Return these columns of the document with this key, None if there is none."""
    found: Document | None = collection(model).find_one({"_id": key}, list(columns))
    return found


@wrap_database_errors
def find_values(model: type[models.Model], criteria: Criteria, column: str) -> list[Any]:
    """Return the values of a column in all documents that match."""
    return [document[column] for document in collection(model).find(criteria, {column: 1})]


@wrap_database_errors
def exists(model: type[models.Model], criteria: Criteria) -> bool:
    return collection(model).find_one(criteria, {"_id": 1}) is not None
