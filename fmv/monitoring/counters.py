"""Counts of rare events anywhere in the fleet (see `Counter`): workers count them, every web server exposes them."""

import logging
import threading
from collections import Counter as Counts

from django.db import DatabaseError
from pymongo.errors import PyMongoError

from fmv.mongodb.counting import increment
from fmv.monitoring.models import Counter

logger = logging.getLogger(__name__)

_pending: Counts[str] = Counts()
_lock = threading.Lock()


def note(name: str, times: int = 1) -> None:
    """Remember an event without a write to MongoDB, which may be down; `store` writes it later."""
    with _lock:
        _pending[name] += times


def count(name: str, times: int = 1) -> None:
    """Count an event in MongoDB now. Never raises: a failed count must not stop the work that is counted."""
    note(name, times)
    store()


def store() -> None:
    """Write the noted events to MongoDB; those that cannot be written stay noted until the process ends."""
    with _lock:
        noted = dict(_pending)
        _pending.clear()
    for name, times in noted.items():
        try:
            increment(Counter, name, "value", times)
        except (PyMongoError, DatabaseError) as error:
            logger.debug("%d of %s are not counted yet: %s", times, name, error)
            with _lock:
                _pending[name] += times


def read() -> dict[str, int]:
    """Return all counts."""
    return dict(Counter.objects.values_list("name", "value"))
