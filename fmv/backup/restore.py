"""Putting a backup's documents into the database, all of them or none.

They are loaded into collections of their own beside FMV's, with the indexes that FMV's have. Only when all are there,
and as many as the backup says, each takes its place by a rename, which is one step of the server's. Whatever happens
before leaves FMV's data as they were; a mark tells of a restore that is under way or was interrupted, and lets only one
of two begin.
"""

import datetime as dt
import os
import re
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self, cast

import pymongo
from bson.codec_options import CodecOptions
from django.conf import settings
from django.db import models
from django.utils.module_loading import import_string
from pymongo import IndexModel
from pymongo.errors import BulkWriteError, DuplicateKeyError, PyMongoError
from uuid_utils.compat import uuid7

from fmv.backup.dump import (
    CODEC,
    Backup,
    BackupRefused,
    Progress,
    applied_migrations,
    as_document,
    database,
    kept_models,
)
from fmv.mongodb.plan import planned_indexes
from fmv.mongodb.server import server_now

STAGE = "fmv_restoring."  # how the names of the collections begin that are being loaded
MARK = "fmv_restore"  # the collection that holds the mark
BATCH = 1000  # documents in one insert, and
BATCH_BYTES = 4 * 1024 * 1024  # bytes of their text
SIGN = 10.0  # seconds between two signs of life
SILENCE = 60.0  # seconds without one, after which a restore counts as interrupted
PATIENCE = 24 * 3600.0  # seconds that the server may take for the indexes of a collection
DUPLICATE_KEY = 11000

#: filled by `migrate` itself, so an empty database has them too
MADE_BY_MIGRATE = ("contenttypes.ContentType", "auth.Permission")


class RestoreRefused(BackupRefused):
    """This backup cannot be restored into this database."""


# --- Whose turn it is ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mark:
    """What a restore that has not ended has left."""

    owner: str
    file: str
    host: str
    pid: int
    begun_at: dt.datetime
    seen_at: dt.datetime
    switching: bool

    @property
    def is_alive(self) -> bool:
        """Whether it may still be at work."""
        if self.host == socket.gethostname() and (self.pid == os.getpid() or not _runs(self.pid)):
            return False
        return (server_now() - self.seen_at).total_seconds() < SILENCE

    def __str__(self) -> str:
        who = f"A restore of {self.file} on {self.host}, process {self.pid}, begun at {self.begun_at:%F %T}Z"
        if self.is_alive:
            return f"{who}, is under way."
        if self.switching:
            return f"{who}, was interrupted while it put the collections in place: some are the backup's, some are not."
        return f"{who}, was interrupted. FMV's data are as they were before it."


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def mark() -> Mark | None:
    """Return what a restore that has not ended has left, None without one."""
    marks = database().get_collection(MARK, codec_options=CodecOptions(tz_aware=True))
    found = marks.find_one({"_id": "restore"}, {"_id": 0})
    return Mark(**found) if found else None


def refuse_two_at_once() -> None:
    if (found := mark()) and found.is_alive:
        raise RestoreRefused(f"{found} Wait for it to end, or stop it and try again in a minute.")


class Turn:
    """Our turn to restore: a mark that is ours, by which a thread shows that we live, whatever takes long.

    Who was silent for SILENCE all the same, as a machine that slept, may have lost it to another. It finds out before
    it puts anything in place, and as each loads collections of its own, nothing is mixed.
    """

    def __init__(self, file: str) -> None:
        self.owner = uuid7().hex
        self.stage = f"{STAGE}{self.owner}."
        self._file = file
        self._marks = database()[MARK]  # asked for here: Django has no connection that threads share
        self._switching = False
        self._over = threading.Event()

    def __enter__(self) -> Self:
        self.take()
        threading.Thread(target=self._show_life, name="restore", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if not self._switching:
            with suppress(PyMongoError):  # then the mark tells of it
                self.give_up()

    def take(self) -> None:
        """Put up our mark, and drop what an interrupted restore has loaded. Raises RestoreRefused while one goes on.

        What an earlier one has left half switched is so until one has come to its end.
        """
        refuse_two_at_once()
        found = mark()
        mine = {"file": self._file, "host": socket.gethostname(), "pid": os.getpid(), "begun_at": server_now()}
        mine |= {"owner": self.owner, "switching": bool(found and found.switching)}
        unchanged = {"owner": found.owner, "seen_at": found.seen_at} if found else {"owner": self.owner}
        if not self._write(mine, unchanged, upsert=found is None):
            raise RestoreRefused("Another restore has begun or ended meanwhile. Look what it did, and try again.")
        _drop(STAGE)

    def begin_switching(self) -> None:
        """Tell that from now on some collections are the backup's. Raises RestoreRefused when we have lost our turn."""
        if not self._write({"switching": True}, {"owner": self.owner}):
            raise RestoreRefused("Another restore has taken over, as this one was silent for too long.")
        self._switching = True

    def end(self) -> None:
        self._marks.delete_one({"_id": "restore", "owner": self.owner})

    def give_up(self) -> None:
        _drop(self.stage)
        self._marks.delete_one({"_id": "restore", "owner": self.owner, "switching": False})

    def _show_life(self) -> None:
        while not self._over.wait(SIGN):
            with suppress(PyMongoError):  # who restores meets it too
                self._write({}, {"owner": self.owner})

    def _write(self, values: dict[str, Any], unchanged: dict[str, Any], *, upsert: bool = False) -> bool:
        """Change the mark if it still is this one; tell whether it was."""
        change: dict[str, Any] = {"$currentDate": {"seen_at": True}} | ({"$set": values} if values else {})
        try:
            written = self._marks.update_one({"_id": "restore"} | unchanged, change, upsert=upsert)
        except DuplicateKeyError:  # there is one, of somebody else
            return False
        return bool(written.matched_count or written.upserted_id)


def clear() -> None:
    """Drop what an interrupted restore has left beside FMV's collections. Raises RestoreRefused while one goes on."""
    turn = Turn("nothing")
    turn.take()
    turn.end()


def _drop(prefix: str) -> None:
    for name in database().list_collection_names(filter={"name": {"$regex": f"^{re.escape(prefix)}"}}):
        database()[name].drop()


# --- Whether it may begin --------------------------------------------------------------------------------------------


def refuse_what_does_not_fit(backup: Backup) -> None:
    """Raise RestoreRefused unless this database has exactly the migrations that the backup's had."""
    ours, theirs = set(applied_migrations()), set(backup.header.migrations)
    if not ours:
        raise RestoreRefused("The database is not prepared. Run `python manage.py migrate` first.")
    if missing := sorted(theirs - ours):
        raise RestoreRefused(
            f"The backup is of FMV {backup.header.fmv} with migrations that this database lacks: {', '.join(missing)}. "
            "Run `python manage.py migrate` with that FMV and its FMV_APPS, then restore."
        )
    if extra := sorted(ours - theirs):
        raise RestoreRefused(
            f"This database has migrations that the backup lacks: {', '.join(extra)}. Restore it with FMV "
            f"{backup.header.fmv}, which made it, into an empty database, and migrate that afterwards."
        )


def occupied() -> list[str]:
    """Return the names of FMV's collections that hold documents, but for what `migrate` itself puts there."""
    own = [model for model in kept_models() if model._meta.label not in MADE_BY_MIGRATE]
    return [name for model in own if database()[name := model._meta.db_table].find_one({}, {"_id": 1})]


# --- Doing it --------------------------------------------------------------------------------------------------------


def restore(backup: Backup, *, file: str, progress: Progress) -> int:
    """Put the backup in the place of FMV's data; return how many documents lost a unique value to another.

    That happens only to a backup made without a snapshot: something changed hands while it was read.
    """
    with Turn(file) as turn:
        stage = {model._meta.db_table: Stage(model, turn.stage) for model in kept_models()}
        mended = _load(backup, stage, progress)
        with _undisturbed():
            turn.begin_switching()
            for each in reversed(stage.values()):  # what others refer to comes first
                each.take_place()
            turn.end()
    for path in settings.FMV_AFTER_RESTORE:
        import_string(path)()
    return mended


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Let no Ctrl-C interrupt what takes a moment."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _load(backup: Backup, stage: dict[str, "Stage"], progress: Progress) -> int:
    sha256, mended = backup.totals.sha256, 0
    for name, batch in _batches(backup.documents()):
        mended += stage[name].insert(batch)
        progress(len(batch))
    if backup.totals.sha256 != sha256:
        raise RestoreRefused("The backup's file has changed meanwhile. Nothing is restored.")
    for name, count in backup.totals.counts.items():
        stage[name].finish(count)
    return mended


def _batches(documents: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield documents of one collection at a time, few enough for one insert and for little memory."""
    batch: list[dict[str, Any]] = []
    name, size = "", 0
    for of, text in documents:
        if batch and (of != name or len(batch) == BATCH or size > BATCH_BYTES):
            yield name, batch
            batch, size = [], 0
        name, size = of, size + len(text)
        batch.append(as_document(text))
    if batch:
        yield name, batch


class Stage:
    """A collection that is being loaded, to take the place of a model's."""

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
        """Insert these; return how many had to give up a unique value that another document has."""
        try:
            self._collection.insert_many(documents, ordered=False)
        except BulkWriteError as error:
            taken = [self._without_taken_value(each) for each in cast(dict[str, Any], error.details)["writeErrors"]]
            self._collection.insert_many(taken, ordered=False)
            return len(taken)
        return 0

    def _without_taken_value(self, error: dict[str, Any]) -> dict[str, Any]:
        taken = set(error.get("keyPattern", ())) if error["code"] == DUPLICATE_KEY else set()
        columns = taken & self._nullable  # a unique index leaves out who has none
        if not columns:
            raise RestoreRefused(f"MongoDB does not take a document of {self._name}: {error['errmsg']}")
        return cast(dict[str, Any], error["op"]) | dict.fromkeys(columns)

    def finish(self, expected: int) -> None:
        """Build the other indexes; raise RestoreRefused unless all documents are there."""
        with pymongo.timeout(PATIENCE):
            self._create(self._others)
            found = self._collection.count_documents({})
        if found != expected:
            raise RestoreRefused(f"MongoDB holds {found} of the {expected} documents of {self._name}.")

    def take_place(self) -> None:
        self._collection.rename(self._name, dropTarget=True)


def _index_model(index: dict[str, Any]) -> IndexModel:
    options = {name: value for name, value in index.items() if name != "key"}
    return IndexModel(list(index["key"].items()), **options)
