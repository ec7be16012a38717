"""Reading any number of rows in little memory."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import attrgetter
from typing import Any

from django.db.models import QuerySet
from pymongo.errors import CursorNotFound

QUERY_ROWS = 50_000  # rows per query; they arrive in batches of 16 MiB at most
OBJECTS = 20  # rows that are converted to objects at a time


def by_key(
    rows: QuerySet[Any], *, descending: bool = False, limit: int | None = None, key: Callable[[Any], Any] | None = None
) -> Iterator[Any]:
    """Yield the rows, at most `limit`, in the order of their primary key; `key` returns it for rows that are tuples.

    Each query begins after the last row of the one before, so rows may be added and deleted meanwhile. The reader may
    be slow: if MongoDB closes a cursor that waited too long, the next query begins early.
    """
    order, beyond = ("-pk", "pk__lt") if descending else ("pk", "pk__gt")
    key = key or attrgetter("pk")
    left = rows
    while limit is None or limit > 0:
        asked = QUERY_ROWS if limit is None else min(QUERY_ROWS, limit)
        came, last = 0, None
        with suppress(CursorNotFound):
            for row in left.order_by(order)[:asked].iterator(OBJECTS):
                came, last = came + 1, key(row)
                yield row
            if came < asked:
                return
        left = left if last is None else rows.filter(**{beyond: last})
        limit = None if limit is None else limit - came
