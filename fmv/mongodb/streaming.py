"""Reading any number of rows in small memory."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from operator import attrgetter
from typing import Any

from django.db.models import QuerySet
from pymongo.errors import CursorNotFound

PAGE = 50_000  # rows asked for in one query; they come in batches of 16 MiB at most
CHUNK = 20  # of them turned into objects in one go


def by_key(
    rows: QuerySet[Any], *, descending: bool = False, limit: int | None = None, key: Callable[[Any], Any] | None = None
) -> Iterator[Any]:
    """Yield the rows, at most `limit`, in the order of their primary key; `key` tells it of a row that is a tuple.

    Each page is one query that begins after the last row, so rows may come and go meanwhile, and a reader may be slow:
    where MongoDB has given up a cursor that waited too long, the next page begins early.
    """
    order, beyond = ("-pk", "pk__lt") if descending else ("pk", "pk__gt")
    key = key or attrgetter("pk")
    left = rows
    while limit is None or limit > 0:
        asked = PAGE if limit is None else min(PAGE, limit)
        came, last = 0, None
        with suppress(CursorNotFound):
            for row in left.order_by(order)[:asked].iterator(CHUNK):
                came, last = came + 1, key(row)
                yield row
            if came < asked:
                return
        left = left if last is None else rows.filter(**{beyond: last})
        limit = None if limit is None else limit - came
