"""Whether the database has the shape that this code expects: its migrations, and the lock under which they run."""

import _thread
import datetime as dt
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import pymongo
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError, PyMongoError
from uuid_utils.compat import uuid7

from fmv.mongodb.expressions import NOW, later
from fmv.mongodb.server import database, forget_clients

logger = logging.getLogger(__name__)

LOCK_COLLECTION = "fmv_migrate"
LOCK_SECONDS = 15.0  # for which a lock counts that nobody renews
LOCK_INTERVAL = 3.0  # seconds between two renewals
LOOK_TIMEOUT = 1.0  # seconds that MongoDB has to answer when a request asks
CHECK_INTERVAL = 1.0  # seconds between two looks at a database that is not migrated
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


# --- The state -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MigrationState:
    """How the migrations that are applied to the database compare with those of this code."""

    known: int  # migrations of this code
    missing: list[str]  # not applied
    unknown: list[str]  # applied, but not of this code

    @property
    def problem(self) -> str:
        """Why this code cannot work with the database, on one line; "" if it can."""
        if not self.missing:
            return ""
        return f"The database lacks migrations: {_shortened(self.missing)}. Run `python manage.py migrate`."

    @property
    def warning(self) -> str:
        """What is odd about the database, on one line; "" if nothing is."""
        if not self.unknown:
            return ""
        return (
            f"The database has migrations that this code does not know: {_shortened(self.unknown)}. "
            "A newer FMV, or one with other FMV_APPS, has changed it."
        )


def _shortened(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def migration_state() -> MigrationState:
    """Compare the database with this code. Raises DatabaseError or PyMongoError."""
    executor = MigrationExecutor(connection)
    known = executor.loader.disk_migrations
    missing = [
        f"{each.app_label}.{each.name}" for each, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())
    ]
    unknown = sorted(f"{app}.{name}" for app, name in executor.loader.applied_migrations.keys() - known.keys())
    return MigrationState(len(known), missing, unknown)


_look_again = 0.0  # by time.monotonic(); infinity once the migrations were seen applied
_problem_seen = ""


def why_not_ready() -> str:
    """Return why requests cannot be served yet, on one line; "" if they can.

    Looks at most once in CHECK_INTERVAL, and no more once all migrations are applied. While MongoDB does not answer it
    returns "", because whatever needs MongoDB then fails with a reason of its own.
    """
    global _look_again, _problem_seen  # noqa: PLW0603 - a cache; it is harmless if two threads fill it at once
    if time.monotonic() >= _look_again:
        _look_again = time.monotonic() + CHECK_INTERVAL
        try:
            with pymongo.timeout(LOOK_TIMEOUT):
                state = migration_state()
        except (DatabaseError, PyMongoError):
            return ""
        if (text := state.problem or state.warning) and text != _problem_seen:
            logger.warning("%s", text)
        _problem_seen = state.problem
        if not state.problem:
            _look_again = float("inf")
    return _problem_seen


# --- Waiting ---------------------------------------------------------------------------------------------------------


def wait_for_migrations() -> None:
    """Return once all migrations are applied; log meanwhile what is missing, or that MongoDB does not answer.

    For a process that will fork: it leaves no connection open.
    """
    said = ""
    try:
        while problem := _problem():
            if problem != said:
                logger.warning("Waiting: %s", problem)
            said = problem
            time.sleep(CHECK_INTERVAL)
    finally:
        forget_clients()
    if said:
        logger.info("The database is ready.")


def _problem() -> str:
    try:
        state = migration_state()
    except (DatabaseError, PyMongoError) as error:
        return f"MongoDB does not answer: {type(error.__cause__ or error).__name__}."
    if state.warning and not state.problem:
        logger.warning("%s", state.warning)
    return state.problem


# --- The lock --------------------------------------------------------------------------------------------------------


@contextmanager
def migration_lock(waiting: Callable[[str], object]) -> Iterator[None]:
    """Hold the lock of `migrate`, so that two never run at once; `waiting` is called with a text if another holds it.

    A thread renews the lock. That of a process that was killed ends LOCK_SECONDS later.
    """
    locks = database()[LOCK_COLLECTION]  # read here, because Django's connections belong to one thread
    owner = {"owner": uuid7().hex, "host": socket.gethostname(), "pid": os.getpid()}
    said = False
    while not _take(locks, owner):
        if not said and (other := locks.find_one({"_id": "migrate", "owner": {"$exists": True}})):
            waiting(f"Waiting for another migrate, process {other['pid']} on {other['host']}.")
            said = True
        time.sleep(0.5)
    over = threading.Event()
    threading.Thread(target=_renew, args=(locks, owner, over), name="migrate", daemon=True).start()
    try:
        yield
    finally:
        over.set()
        with suppress(PyMongoError):  # then it ends by itself
            locks.delete_one({"_id": "migrate", "owner": owner["owner"]})


def _take(locks: Collection[dict[str, Any]], owner: dict[str, Any]) -> bool:
    """Take the lock, or renew it; return False if another process holds it."""
    with suppress(DuplicateKeyError):  # two create it at once
        locks.update_one({"_id": "migrate"}, {"$setOnInsert": {"until": EPOCH}}, upsert=True)
    free = {"$or": [{"owner": owner["owner"]}, {"$expr": {"$lt": ["$until", NOW]}}]}
    until = later(NOW, LOCK_SECONDS)
    return bool(locks.update_one({"_id": "migrate", **free}, [{"$set": {**owner, "until": until}}]).matched_count)


def _renew(locks: Collection[dict[str, Any]], owner: dict[str, Any], over: threading.Event) -> None:
    while not over.wait(LOCK_INTERVAL):
        with suppress(PyMongoError):  # the migration gets the same error
            if not _take(locks, owner) and not over.is_set():
                logger.error("Another migrate has taken over, because this one stalled for too long.")
                _thread.interrupt_main()
                return
