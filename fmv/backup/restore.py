"""Restoring a backup: either all of its documents or none.

They are loaded into collections beside FMV's, with the same indexes. When all are loaded, and their number matches the
backup's, each of these collections replaces FMV's by a rename, which is atomic. A failure before that leaves FMV's data
unchanged. A document in the database, the lock, records a restore that is under way or was interrupted, and keeps a
second one from starting.
"""

import datetime as dt
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import pymongo
from bson.codec_options import CodecOptions
from django.db import models
from pymongo import IndexModel
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError
from uuid_utils.compat import uuid7

from fmv.backup.format import (
    CODEC,
    Backup,
    BackupRefused,
    Progress,
    applied_migrations,
    as_document,
    database,
    included_models,
)
from fmv.mongodb.plan import planned_indexes
from fmv.mongodb.server import server_now

STAGING_PREFIX = "fmv_restoring."  # of the names of collections that are being loaded
LOCK_COLLECTION = "fmv_restore"
INSERT_BATCH = 1000  # documents in one insert, and
INSERT_BATCH_BYTES = 4 * 1024 * 1024  # bytes of their text
HEARTBEAT_INTERVAL = 10.0  # seconds
HEARTBEAT_TIMEOUT = 60.0  # seconds without a heartbeat after which a restore counts as interrupted
INDEX_TIMEOUT = 24 * 3600.0  # seconds that the server may take for the indexes of a collection
DUPLICATE_KEY = 11000  # MongoDB's error code

#: models that `migrate` fills, so that they have documents in an empty database too
FILLED_BY_MIGRATE = ("contenttypes.ContentType", "auth.Permission")


class RestoreRefused(BackupRefused):
    """This backup cannot be restored into this database."""


# --- The lock --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnfinishedRestore:
    """The record of a restore that is under way or was interrupted."""

    owner: str
    file: str
    host: str
    pid: int
    begun_at: dt.datetime
    seen_at: dt.datetime
    switching: bool
    #: where the pid counts; host and pid alone are for people
    pid_space: str = ""

    @property
    def is_alive(self) -> bool:
        """Whether its process may still be running."""
        here = bool(self.pid_space) and self.pid_space == _pid_space()
        if here and (self.pid == os.getpid() or not _is_running(self.pid)):
            return False
        return (server_now() - self.seen_at).total_seconds() < HEARTBEAT_TIMEOUT

    def __str__(self) -> str:
        restore = f"A restore of {self.file} on {self.host}, process {self.pid}, begun at {self.begun_at:%F %T}Z"
        if self.is_alive:
            return f"{restore}, is under way."
        if self.switching:
            return f"{restore}, was interrupted while it replaced the collections: some are the backup's, some are not."
        return f"{restore}, was interrupted. It has not changed FMV's data."


def _pid_space() -> str:
    """Return what the processes with pids of this process's kind share: containers may have equal host names and pids.

    "" where the system does not say; then only its silence shows that a restore was interrupted.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def unfinished() -> UnfinishedRestore | None:
    """Return the restore that is under way or was interrupted, if any."""
    locks = database().get_collection(LOCK_COLLECTION, codec_options=CodecOptions(tz_aware=True))
    found = locks.find_one({"_id": "restore"}, {"_id": 0})
    return UnfinishedRestore(**found) if found else None


def refuse_while_another_runs() -> None:
    if (found := unfinished()) and found.is_alive:
        raise RestoreRefused(f"{found} Wait for it to end, or stop it and try again in a minute.")


class RestoreLock:
    """The lock that lets one restore run at a time; a thread renews it however long a step takes.

    If this process stalls for longer than HEARTBEAT_TIMEOUT (for example because the machine slept), another restore
    may take over. This one notices before it replaces any collection, and the two cannot mix data because each loads
    collections of its own.
    """

    def __init__(self, file: str) -> None:
        self.owner = uuid7().hex
        self.prefix = f"{STAGING_PREFIX}{self.owner}."
        self._file = file
        self._locks = database()[LOCK_COLLECTION]  # read here, because Django's connections belong to one thread
        self._switching = False
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.acquire()
        threading.Thread(target=self._send_heartbeats, name="restore", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if not self._switching:
            with suppress(PyMongoError):  # then the lock remains, as after an interruption
                self.release()

    def acquire(self) -> None:
        """Take the lock and drop what an interrupted restore has loaded. Raises RestoreRefused while another runs.

        `switching`, left by a restore that was interrupted while it replaced collections, stays until one succeeds.
        """
        refuse_while_another_runs()
        found = unfinished()
        values = {"file": self._file, "host": socket.gethostname(), "pid": os.getpid(), "begun_at": server_now()}
        values["pid_space"] = _pid_space()
        values |= {"owner": self.owner, "switching": bool(found and found.switching)}
        unchanged = {"owner": found.owner, "seen_at": found.seen_at} if found else {"owner": self.owner}
        if not self._write(values, unchanged, upsert=found is None):
            raise RestoreRefused("Another restore has begun or ended meanwhile. Check its result, then try again.")
        _drop(STAGING_PREFIX)

    def begin_switching(self) -> None:
        """Record that collections are being replaced from now on. Raises RestoreRefused if another has taken over."""
        if not self._write({"switching": True}, {"owner": self.owner}):
            raise RestoreRefused("Another restore has taken over, because this one stalled for too long.")
        self._switching = True

    def finish(self) -> None:
        self._locks.delete_one({"_id": "restore", "owner": self.owner})

    def release(self) -> None:
        _drop(self.prefix)
        self._locks.delete_one({"_id": "restore", "owner": self.owner, "switching": False})

    def _send_heartbeats(self) -> None:
        while not self._over.wait(HEARTBEAT_INTERVAL):
            with suppress(PyMongoError):  # the restoring thread gets the same error
                self._write({}, {"owner": self.owner})

    def _write(self, values: dict[str, Any], unchanged: dict[str, Any], *, upsert: bool = False) -> bool:
        """Change the lock if it still has the values `unchanged`; return whether it had."""
        change: dict[str, Any] = {"$currentDate": {"seen_at": True}} | ({"$set": values} if values else {})
        try:
            written = self._locks.update_one({"_id": "restore"} | unchanged, change, upsert=upsert)
        except DuplicateKeyError:  # another restore holds the lock
            return False
        return bool(written.matched_count or written.upserted_id)


def clear() -> None:
    """Drop what an interrupted restore has loaded beside FMV's collections. Raises RestoreRefused while one runs."""
    lock = RestoreLock("nothing")
    lock.acquire()
    lock.finish()


def _drop(prefix: str) -> None:
    for name in database().list_collection_names(filter={"name": {"$regex": f"^{re.escape(prefix)}"}}):
        database()[name].drop()


# --- Conditions ------------------------------------------------------------------------------------------------------


def require_same_migrations(backup: Backup) -> None:
    """Raise RestoreRefused unless this database has the same migrations as the backup."""
    ours, theirs = set(applied_migrations()), set(backup.header.migrations)
    if not ours:
        raise RestoreRefused("The database is not prepared. Run `python manage.py migrate` first.")
    if missing := sorted(theirs - ours):
        raise RestoreRefused(
            f"The backup of FMV {backup.header.fmv} has migrations that this database lacks: {', '.join(missing)}. "
            "Run `python manage.py migrate` with that FMV and its FMV_APPS, then restore."
        )
    if extra := sorted(ours - theirs):
        raise RestoreRefused(
            f"This database has migrations that the backup lacks: {', '.join(extra)}. Restore it with FMV "
            f"{backup.header.fmv}, which wrote it, into an empty database, then migrate that."
        )


def occupied() -> list[str]:
    """Return the names of FMV's collections that hold documents, except those that `migrate` fills."""
    own = [model for model in included_models() if model._meta.label not in FILLED_BY_MIGRATE]
    return [name for model in own if database()[name := model._meta.db_table].find_one({}, {"_id": 1})]


# --- Restoring -------------------------------------------------------------------------------------------------------


def restore(backup: Backup, *, file: str, progress: Progress, require_quiet: Callable[[], object]) -> int:
    """Replace FMV's data by the backup's; return how many documents had to give up a unique value.

    `require_quiet` is called before anything is replaced; it raises if others use the data.

    That happens only if the backup was written without a snapshot: a value such as a lane moved from one document to
    another while they were read.
    """
    with RestoreLock(file) as lock:
        staged = {model._meta.db_table: StagedCollection(model, lock.prefix) for model in included_models()}
        mended = _load(backup, staged, progress)
        require_quiet()
        with _without_ctrl_c():
            lock.begin_switching()
            for each in reversed(staged.values()):  # a collection before those that refer to it
                each.replace_original()
            lock.finish()
    return mended


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Ignore Ctrl-C for a moment."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _load(backup: Backup, staged: dict[str, "StagedCollection"], progress: Progress) -> int:
    sha256, mended = backup.footer.sha256, 0
    for name, batch in _batches(backup.documents()):
        mended += staged[name].insert(batch)
        progress(len(batch))
    if backup.footer.sha256 != sha256:
        raise RestoreRefused("The file of the backup has changed meanwhile. Nothing is restored.")
    for name, count in backup.footer.counts.items():
        staged[name].finish(count)
    return mended


def _batches(documents: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the documents of a collection in batches that fit one insert and little memory, with its name."""
    batch: list[dict[str, Any]] = []
    name, size = "", 0
    for collection, text in documents:
        if batch and (collection != name or len(batch) == INSERT_BATCH or size > INSERT_BATCH_BYTES):
            yield name, batch
            batch, size = [], 0
        name, size = collection, size + len(text)
        batch.append(as_document(text))
    if batch:
        yield name, batch


class StagedCollection:
    """A collection that is being loaded and will replace a model's."""

    def __init__(self, model: type[models.Model], prefix: str) -> None:
        self._name = model._meta.db_table
        self._collection = database().create_collection(f"{prefix}{self._name}", codec_options=CODEC)
        self._nullable = {field.column for field in model._meta.local_fields if field.null}
        planned = planned_indexes(model)
        self._unique = [index for index in planned if index.get("unique")]
        self._others = [index for index in planned if not index.get("unique")]
        self._create(self._unique)

    def _create(self, indexes: list[dict[str, Any]]) -> None:
        if indexes:
            self._collection.create_indexes([_index_model(index) for index in indexes])

    def insert(self, documents: list[dict[str, Any]]) -> int:
        """Insert the documents; return how many had to give up a unique value that another document has."""
        try:
            self._collection.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            taken = [self._without_taken_value(each) for each in cast(dict[str, Any], error.details)["writeErrors"]]
            self._collection.insert_many(taken, ordered=False)
            return len(taken)
        return 0

    def _without_taken_value(self, error: dict[str, Any]) -> dict[str, Any]:
        taken = set(error.get("keyPattern", ())) if error["code"] == DUPLICATE_KEY else set()
        columns = taken & self._nullable  # a unique index skips documents without the value
        if not columns:
            raise RestoreRefused(f"MongoDB refuses a document of {self._name}: {error['errmsg']}")
        return cast(dict[str, Any], error["op"]) | dict.fromkeys(columns)

    def finish(self, expected: int) -> None:
        """Build the other indexes. Raises RestoreRefused unless the collection has that number of documents."""
        with pymongo.timeout(INDEX_TIMEOUT):
            self._create(self._others)
            found = self._collection.count_documents({})
        if found != expected:
            raise RestoreRefused(f"MongoDB holds {found} of the {expected} documents of {self._name}.")

    def replace_original(self) -> None:
        self._collection.rename(self._name, dropTarget=True)


def _index_model(index: dict[str, Any]) -> IndexModel:
    options = {name: value for name, value in index.items() if name != "key"}
    return IndexModel(list(index["key"].items()), **options)
