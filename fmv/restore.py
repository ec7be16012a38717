"""Putting a backup's documents into the database, all of them or none.

They are loaded into collections of their own beside FMV's, with the indexes that FMV's have. Only when all are there,
and as many as the backup says, each takes its place by a rename, which is one step of the server's. Whatever happens
before leaves FMV's data as they were; a mark tells of a restore that is under way or was interrupted.
"""

import datetime as dt
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, cast

from bson.codec_options import CodecOptions
from django.conf import settings
from django.db import models
from django.utils.module_loading import import_string
from pymongo import IndexModel
from pymongo.errors import BulkWriteError, PyMongoError

from fmv.backup import (
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

STAGE = "fmv_restoring."  # what the collections are called that are being loaded
MARK = "fmv_restore"  # the collection that holds the mark
BATCH = 1000  # documents in one insert, and
BATCH_BYTES = 4 * 1024 * 1024  # bytes of their text
SILENCE = 60.0  # seconds without a sign of life, after which another machine's restore counts as interrupted
DUPLICATE_KEY = 11000

#: filled by `migrate` itself, so an empty database has them too
MADE_BY_MIGRATE = ("contenttypes.ContentType", "auth.Permission")


class RestoreRefused(BackupRefused):
    """This backup cannot be restored into this database."""


@dataclass(frozen=True)
class Mark:
    """What a restore that has not ended has left."""

    file: str
    host: str
    pid: int
    begun_at: dt.datetime
    seen_at: dt.datetime
    switching: bool

    @property
    def is_alive(self) -> bool:
        """Whether it may still be at work."""
        if self.host == socket.gethostname():
            return self.pid != os.getpid() and _runs(self.pid)
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


def refuse_two_at_once() -> None:
    if (found := mark()) and found.is_alive:
        raise RestoreRefused(f"{found} Wait for it to end, or stop it and try again in a minute.")


# --- Doing it --------------------------------------------------------------------------------------------------------


def restore(backup: Backup, *, file: str, progress: Progress) -> int:
    """Put the backup in the place of FMV's data; return how many documents lost a unique value to another.

    That happens only to a backup made without a snapshot: something changed hands while it was read.
    """
    _begin(file)
    try:
        stage = {model._meta.db_table: Stage(model) for model in kept_models()}
        mended = _load(backup, stage, progress)
    except BaseException:
        with suppress(PyMongoError):
            _give_up()
        raise
    with _undisturbed():
        _set_mark({"switching": True})
        for each in reversed(stage.values()):  # what others refer to comes first
            each.take_place()
        database()[MARK].drop()
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
        _set_mark({})
        progress(len(batch))
    if backup.totals.sha256 != sha256:
        raise RestoreRefused("The backup's file has changed meanwhile. Nothing is restored.")
    for name, count in backup.totals.counts.items():
        stage[name].finish(count)
    return mended


def clear() -> None:
    """Drop what an interrupted restore has left beside FMV's collections."""
    _drop_stage()
    database()[MARK].drop()


def _drop_stage() -> None:
    for name in database().list_collection_names(filter={"name": {"$regex": f"^{STAGE.replace('.', '[.]')}"}}):
        database()[name].drop()


def _begin(file: str) -> None:
    """Put up our mark. What an earlier restore has left half switched is so until one has come to its end."""
    refuse_two_at_once()  # another may have begun while the file was checked and the question answered
    switching = bool((found := mark()) and found.switching)
    mine = {"file": file, "host": socket.gethostname(), "pid": os.getpid(), "switching": switching}
    _set_mark(mine | {"begun_at": server_now()}, upsert=True)
    _drop_stage()


def _give_up() -> None:
    _drop_stage()
    if (found := mark()) and not found.switching:
        database()[MARK].drop()


def _set_mark(values: dict[str, Any], *, upsert: bool = False) -> None:
    change: dict[str, Any] = {"$currentDate": {"seen_at": True}} | ({"$set": values} if values else {})
    database()[MARK].update_one({"_id": "restore"}, change, upsert=upsert)


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

    def __init__(self, model: type[models.Model]) -> None:
        self._name = model._meta.db_table
        self._collection = database().create_collection(f"{STAGE}{self._name}", codec_options=CODEC)
        self._nullable = {field.column for field in model._meta.local_fields if field.unique and field.null}
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
        columns = set(error.get("keyPattern", ())) if error["code"] == DUPLICATE_KEY else set()
        if not columns or not columns <= self._nullable:
            raise RestoreRefused(f"MongoDB does not take a document of {self._name}: {error['errmsg']}")
        return cast(dict[str, Any], error["op"]) | dict.fromkeys(columns)

    def finish(self, expected: int) -> None:
        """Build the other indexes; raise RestoreRefused unless all documents are there."""
        self._create(self._others)
        if (found := self._collection.count_documents({})) != expected:
            raise RestoreRefused(f"MongoDB holds {found} of the {expected} documents of {self._name}.")

    def take_place(self) -> None:
        self._collection.rename(self._name, dropTarget=True)


def _index_model(index: dict[str, Any]) -> IndexModel:
    options = {name: value for name, value in index.items() if name != "key"}
    return IndexModel(list(index["key"].items()), **options)
