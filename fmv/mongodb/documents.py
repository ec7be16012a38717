"""Conversion between model objects and MongoDB documents, and reads and inserts without the query compiler."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, TypeVar, cast

from django.db import connection, models
from django_mongodb_backend.query import wrap_database_errors

from fmv.mongodb.base import DatabaseWrapper

M = TypeVar("M", bound=models.Model)
Document = dict[str, Any]


def columns_of(instance: models.Model) -> Document:
    """Return the object's values by column, as they are in Python."""
    values = vars(instance)
    return {column: values[attname] for attname, column, *_ in _fields(type(instance))}


def object_of(model: type[M], document: Document) -> M:
    """Return the model object for a document, as a query would."""
    names, values = [], []
    for attname, column, expression, converters in _fields(model):
        value = document.get(column)
        for convert in converters:
            value = convert(value, expression, connection)
        names.append(attname)
        values.append(value)
    return model.from_db("default", names, values)


@cache
def _fields(model: type[models.Model]) -> list[tuple[str, str, Any, list[Any]]]:
    """Return for each field its name, its column, and the converters for values from MongoDB with their expression."""
    found = []
    for field in model._meta.concrete_fields:
        expression = field.get_col(model._meta.db_table)
        converters = connection.ops.get_db_converters(expression) + expression.get_db_converters(connection)
        found.append((field.attname, str(field.column), expression, converters))
    return found


@wrap_database_errors
def find_document(model: type[models.Model], key: Any) -> Document | None:
    """Return the document with this primary key, None if there is none. Raises DatabaseError."""
    own = cast(DatabaseWrapper, connection)
    field = model._meta.pk
    return own.get_collection(model._meta.db_table).find_one({"_id": field.get_db_prep_value(key, own)})


def documents(
    model: type[models.Model],
    criteria: Document,
    *,
    limit: int,
    batch_size: int,
    descending: bool = False,
    beyond: Any = None,
    columns: Sequence[str] | None = None,
) -> Iterator[Document]:
    """Yield the documents that match, in the order of their primary key: dicts by column, naive dates in UTC.

    `limit`: at most so many. `batch_size`: so many are fetched at a time. `beyond`: only those after this key.
    `columns`: only these columns. An answer rendered from documents costs a quarter of one rendered from objects.
    Raises PyMongoError.
    """
    own = cast(DatabaseWrapper, connection)
    if beyond is not None:
        beyond = {"$lt" if descending else "$gt": model._meta.pk.get_db_prep_value(beyond, own)}
        criteria = {"$and": [criteria, {"_id": beyond}]} if "_id" in criteria else criteria | {"_id": beyond}
    found = own.get_collection(model._meta.db_table).find(
        criteria, columns, sort=[("_id", -1 if descending else 1)], limit=limit, batch_size=batch_size
    )
    with found:  # whose reader may leave early
        yield from found


def stored_form(instance: models.Model) -> Document:
    """Return the document that an insert of this object stores."""
    stored: Document = {}
    for field in instance._meta.concrete_fields:
        value = field.pre_save(instance, add=True)
        # no field converts None, and a third of a new task's values are None
        stored[str(field.column)] = None if value is None else field.get_db_prep_save(value, connection)
    return stored


@wrap_database_errors
def insert(*instances: models.Model) -> None:
    """Insert new objects of one model, like `save(force_insert=True)` but without signals. Raises IntegrityError."""
    if not instances:
        return
    collection = cast(DatabaseWrapper, connection).get_collection(instances[0]._meta.db_table)
    if len(instances) == 1:
        collection.insert_one(stored_form(instances[0]))
    else:
        collection.insert_many(stored_form(instance) for instance in instances)
    for instance in instances:
        instance._state.adding, instance._state.db = False, "default"
