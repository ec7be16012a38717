"""A backup: all that FMV keeps, in one file, as it was at one moment.

The file is gzip'd text. Its first line is a JSON object about the backup; each line after it is one document as
`["collection", {…}]`, in MongoDB's canonical Extended JSON, from which every BSON type comes back as it was. (Where a
document's own keys begin with `$`, Extended JSON would take them for its marks: that document is written as a string,
its BSON in base64.) The last line is `{"end": …}` with the counts and the SHA-256 of all lines before it, so a file
that was cut off or changed is found out before anything is restored from it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import InitVar, asdict, dataclass, field
from typing import IO, Any, cast

import bson
import orjson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion, UuidRepresentation
from bson.raw_bson import RawBSONDocument
from django.apps import apps
from django.conf import settings
from django.db import connection, models
from django.db.migrations.recorder import MigrationRecorder
from django_mongodb_backend.models import EmbeddedModel
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import OperationFailure

from fmv.errors import FmvError
from fmv.mongodb.base import DatabaseWrapper
from fmv.mongodb.server import server_now

FORMAT = 1
BATCH = 1000  # documents in one answer of the server
MAX_LINE = 128 * 1024 * 1024  # bytes; a document's 16 MiB of BSON stay well under it
BUFFER = 256 * 1024  # bytes handed to gzip in one go
SNAPSHOT_TOO_OLD = 239

#: dates as milliseconds: MongoDB's reach further than Python's
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD, datetime_conversion=DatetimeConversion.DATETIME_MS
)
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)
DOLLAR_KEY = re.compile(rb"[\x01-\x13\x7f\xff]\$")  # in BSON a key stands after its value's type
JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    document_class=dict,
)

Progress = Callable[[int], object]


class BackupRefused(FmvError):
    """The backup cannot be made, or this file cannot be restored."""


@dataclass(frozen=True)
class Header:
    """The first line: what there is to know before the documents are looked at."""

    fmv_backup: int  # FORMAT
    fmv: str
    database: str
    consistent_at: str  # RFC 3339, by MongoDB's clock
    snapshot: bool
    collections: list[str]  # in the file's order
    left_out: dict[str, str]  # model: why
    migrations: list[str]


@dataclass
class Totals:
    """The last line, and what both commands report."""

    counts: dict[str, int]
    sha256: str = ""

    @property
    def documents(self) -> int:
        return sum(self.counts.values())


# --- What is kept ----------------------------------------------------------------------------------------------------


def kept_models() -> list[type[models.Model]]:
    """Return the models whose documents a backup holds, in the order in which they are read.

    What refers to others is read before them: apps and models are declared after those that they refer to, and
    FMV_BACKUP_FIRST names what that leaves open. So whatever a document names was there before it was read, and is
    read after it, unless it is deleted meanwhile.
    """
    first = [apps.get_model(label) for label in settings.FMV_BACKUP_FIRST]
    others = reversed([*apps.get_models(include_auto_created=True)])
    found: dict[str, type[models.Model]] = {}
    for model in (*first, *others):
        if model._meta.managed and not issubclass(model, EmbeddedModel) and not is_left_out(model):
            found.setdefault(model._meta.db_table, model)
    return [*found.values()]


def is_left_out(model: type[models.Model]) -> bool:
    return model._meta.label in settings.FMV_BACKUP_LEAVES_OUT


def applied_migrations() -> list[str]:
    return sorted(f"{app}.{name}" for app, name in MigrationRecorder(connection).applied_migrations())


def database() -> Database[dict[str, Any]]:
    """Return the database, with documents as they are stored."""
    return cast(DatabaseWrapper, connection).database.with_options(codec_options=CODEC)


# --- Reading the database --------------------------------------------------------------------------------------------


def can_snapshot() -> bool:
    """Tell whether this MongoDB can read several collections as of one moment: a replica set or sharded cluster."""
    hello = database().command("hello")
    return "setName" in hello or hello.get("msg") == "isdbgrid"


@contextmanager
def one_moment(snapshot: bool) -> Iterator[ClientSession]:
    """Yields a session in which all reads see the same moment, if `snapshot`."""
    with database().client.start_session(snapshot=snapshot) as session:
        try:
            yield session
        except OperationFailure as error:
            if error.code != SNAPSHOT_TOO_OLD:
                raise
            raise BackupRefused(
                "MongoDB keeps the past for a shorter time than the backup takes. Let it keep more: "
                "db.adminCommand({setParameter: 1, minSnapshotHistoryWindowInSeconds: 3600})"
            ) from error


def make(file: IO[bytes], *, snapshot: bool, progress: Progress) -> tuple[Header, Totals]:
    """Write a backup to the file; `progress` is told of each documents' number read."""
    kept = kept_models()
    with one_moment(snapshot) as session:
        header = Header(
            fmv_backup=FORMAT,
            fmv=str(settings.SPECTACULAR_SETTINGS["VERSION"]),
            database=database().name,
            consistent_at=server_now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            snapshot=snapshot,
            collections=[model._meta.db_table for model in kept],
            left_out=settings.FMV_BACKUP_LEAVES_OUT,
            migrations=applied_migrations(),
        )
        with Writer(file, header) as writer:
            for name in header.collections:
                collection: Collection[RawBSONDocument] = cast(Any, database()).get_collection(name, codec_options=RAW)
                for document in collection.find({}, session=session, batch_size=BATCH):
                    writer.add(name, as_text(bytes(document.raw)))
                    progress(1)
    return header, writer.totals


def expected_documents() -> int:
    """Return about how many documents a backup would hold now."""
    return sum(database()[model._meta.db_table].estimated_document_count() for model in kept_models())


# --- The file --------------------------------------------------------------------------------------------------------


class Writer:
    """Writes a backup's lines; without an error inside the `with`, the last one too."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self.totals = Totals(dict.fromkeys(header.collections, 0))
        self._digest = hashlib.sha256()
        packed: Any = gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
        self._lines = io.BufferedWriter(packed, BUFFER)
        self._write(orjson.dumps(asdict(header)))

    def add(self, name: str, text: bytes) -> None:
        """Add a document as `as_text` gives it."""
        self._write(b'["%s",%s]' % (name.encode(), text))
        self.totals.counts[name] += 1

    def _write(self, line: bytes) -> None:
        self._digest.update(line + b"\n")
        self._lines.write(line + b"\n")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.totals.sha256 = self._digest.hexdigest()
            self._lines.write(orjson.dumps({"end": asdict(self.totals)}) + b"\n")
            self._lines.close()


@dataclass
class Backup:
    """A backup's file that was read to its end and found whole."""

    file: IO[bytes]
    progress: InitVar[Progress]
    header: Header = field(init=False)
    totals: Totals = field(init=False)

    def __post_init__(self, progress: Progress) -> None:
        """Raise BackupRefused unless the file is a whole backup of this format."""
        for _ in self.documents():
            progress(1)

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """Yield each document with its collection's name, as `as_document` reads it. Raises BackupRefused as above."""
        self.file.seek(0)
        try:
            with gzip.GzipFile(fileobj=self.file, mode="rb") as packed:
                yield from self._read(Lines(packed))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            if not hasattr(self, "header"):
                raise BackupRefused("This is not a backup of FMV.") from error
            raise BackupRefused("The backup is damaged: it was cut off or changed.") from error

    def _read(self, lines: Lines) -> Iterator[tuple[str, bytes]]:
        self.header = header_of(lines.next())
        seen = Totals(dict.fromkeys(self.header.collections, 0))
        while found := DOCUMENT.fullmatch(line := lines.next()):
            name = found["name"].decode()
            if name not in seen.counts:
                raise BackupRefused(f"The backup is damaged: it does not list the collection {name}.")
            seen.counts[name] += 1
            yield name, found["text"]
        seen.sha256 = lines.digest
        if end_of(line) != asdict(seen):
            raise BackupRefused("The backup is damaged: its last line does not fit what stands before it.")
        if lines.next():
            raise BackupRefused("The backup is damaged: it goes on after its last line.")
        self.totals = seen


DOCUMENT = re.compile(rb'\["(?P<name>[^"]+)",(?P<text>\{.*\}|"[^"]*")\]\n', re.DOTALL)


def as_text(raw: bytes) -> bytes:
    """Return BSON as it stands in the file."""
    if DOLLAR_KEY.search(raw):
        return b'"%s"' % base64.b64encode(raw)
    text = json_util.dumps(bson.decode(raw, CODEC), json_options=JSON, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def as_document(text: bytes) -> dict[str, Any]:
    """Return the document that `as_text` made this of."""
    if text.startswith(b'"'):
        return bson.decode(base64.b64decode(text[1:-1]), CODEC)
    document: dict[str, Any] = json_util.loads(text, json_options=JSON)
    return document


class Lines:
    """The lines of a file one by one, b"" after the last, and the SHA-256 of all before the one that came last."""

    def __init__(self, file: gzip.GzipFile) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self._last = b""

    def next(self) -> bytes:
        self._digest.update(self._last)
        self._last = self._file.readline(MAX_LINE)
        return self._last

    @property
    def digest(self) -> str:
        return self._digest.hexdigest()


def header_of(line: bytes) -> Header:
    """Read the first line. Raises BackupRefused unless it is one that this FMV understands."""
    values = _object(line)
    if "fmv_backup" not in values:
        raise BackupRefused("This is not a backup of FMV.")
    if values["fmv_backup"] != FORMAT:
        raise BackupRefused(
            f"The backup has the format {values['fmv_backup']}, made by FMV {values.get('fmv')}; "
            f"this FMV reads the format {FORMAT}. Restore it with the FMV that made it."
        )
    try:
        return Header(**values)
    except TypeError:
        raise BackupRefused("The backup is damaged: its first line lacks something.") from None


def end_of(line: bytes) -> Any:
    return _object(line).get("end")


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return values if isinstance(values, dict) else {}
