"""After each test the database is as the migrations left it.

Django's own way asks the server for each collection's options and writes all permissions anew: a quarter of a second,
which was most of what most tests took.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from django.contrib.contenttypes.models import ContentType
from django.db import connection
from django.test import TransactionTestCase


def stored() -> dict[str, list[dict[str, Any]]]:
    """Return the documents of every collection of a model's that holds some."""
    return {name: documents_of(name) for name in filled()}


@contextmanager
def putting_back(kept: dict[str, list[dict[str, Any]]]) -> Iterator[None]:
    """Let Django's test cases, on which pytest-django's fixtures stand, end with these documents and no others."""
    with patch.object(TransactionTestCase, "_fixture_teardown", lambda _: put_back(kept)):
        yield


def put_back(kept: dict[str, list[dict[str, Any]]]) -> None:
    for name in filled().union(kept):
        if name not in kept:
            connection.database[name].delete_many({})
        elif documents_of(name) != kept[name]:
            connection.database[name].delete_many({})
            connection.database[name].insert_many(kept[name])
            ContentType.objects.clear_cache()


def filled() -> set[str]:
    """Return which collections of models hold documents, by one question."""
    names = connection.introspection.django_table_names(only_existing=True, include_views=False)
    if not names:  # pytest-django makes no database for a run in which no test needs one
        return set()
    first, *others = names
    unions = [{"$unionWith": {"coll": name, "pipeline": name_if_filled(name)}} for name in others]
    return {found["name"] for found in connection.database[first].aggregate([*name_if_filled(first), *unions])}


def name_if_filled(name: str) -> list[dict[str, Any]]:
    return [{"$limit": 1}, {"$project": {"_id": 0, "name": {"$literal": name}}}]


def documents_of(name: str) -> list[dict[str, Any]]:
    return [*connection.database[name].find().sort("_id")]
