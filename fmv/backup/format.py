"""The format of a backup: one file with the documents of all collections that a backup includes.

The file is gzipped text. The first line, the header, is a JSON object about the backup. Each line after it is one
document as `["collection", {…}]` in MongoDB's canonical Extended JSON, which preserves every BSON type. (A document
with a key that begins with `$`, which Extended JSON uses itself, is written as a string: its BSON in base64.) The last
line, the footer, is `{"end": …}` with the counts and the SHA-256 of all lines before it, so that a truncated or changed
file is recognised before anything is restored from it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import InitVar, asdict, dataclass, field
from typing import IO, Any, cast

import bson
import orjson
from bson import json_util
from bson.codec_options import CodecOptions, DatetimeConversion, UuidRepresentation
from django.apps import apps
from django.conf import settings
from django.db import connection, models
from django.db.migrations.recorder import MigrationRecorder
from django_mongodb_backend.models import EmbeddedModel
from pymongo.database import Database

from fmv.errors import FmvError
from fmv.mongodb.base import DatabaseWrapper

FORMAT = 1
MAX_LINE = 128 * 1024 * 1024  # bytes; the line of a document of 16 MiB, MongoDB's limit, is much shorter
BUFFER = 256 * 1024  # bytes that are passed to gzip at once

#: with dates as milliseconds, because the range of MongoDB's dates exceeds Python's
CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD, datetime_conversion=DatetimeConversion.DATETIME_MS
)
DOLLAR_KEY = re.compile(rb"[\x01-\x13\x7f\xff]\$")  # in BSON the type of a value precedes its key
JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_MS,
    document_class=dict,
)

Progress = Callable[[int], object]  # called with the number of documents processed since the last call


class BackupRefused(FmvError):
    """The backup cannot be made, or this file cannot be restored."""


@dataclass(frozen=True)
class Header:
    """The first line: the properties of the backup."""

    fmv_backup: int  # FORMAT
    fmv: str
    database: str
    consistent_at: str  # RFC 3339, by MongoDB's clock
    snapshot: bool
    collections: list[str]  # in the order of the file
    left_out: dict[str, str]  # model: reason
    migrations: list[str]


@dataclass
class Footer:
    """The last line; both commands print it as their summary."""

    counts: dict[str, int]
    sha256: str = ""

    @property
    def documents(self) -> int:
        return sum(self.counts.values())


# --- Contents --------------------------------------------------------------------------------------------------------


def included_models() -> list[type[models.Model]]:
    """Return the models whose documents a backup includes, in the order in which they are read.

    A model is read before those it refers to: apps and models are declared after those that they refer to, and
    FMV_BACKUP_FIRST lists the exceptions. So a document that another one names existed before that one was read, and is
    read after it, unless it is deleted meanwhile.
    """
    first = [apps.get_model(label) for label in settings.FMV_BACKUP_FIRST]
    others = reversed([*apps.get_models(include_auto_created=True)])
    found: dict[str, type[models.Model]] = {}
    for model in (*first, *others):
        if model._meta.managed and not issubclass(model, EmbeddedModel) and not is_excluded(model):
            found.setdefault(model._meta.db_table, model)
    return [*found.values()]


def is_excluded(model: type[models.Model]) -> bool:
    return model._meta.label in settings.FMV_BACKUP_LEAVES_OUT


def applied_migrations() -> list[str]:
    return sorted(f"{app}.{name}" for app, name in MigrationRecorder(connection).applied_migrations())


def database() -> Database[dict[str, Any]]:
    """Return the database, with a codec that preserves each document exactly as it is stored."""
    return cast(DatabaseWrapper, connection).database.with_options(codec_options=CODEC)


# --- The file --------------------------------------------------------------------------------------------------------


class Writer:
    """Writes the lines of a backup; the footer too, if the `with` ends without an error."""

    def __init__(self, file: IO[bytes], header: Header) -> None:
        self.footer = Footer(dict.fromkeys(header.collections, 0))
        self._digest = hashlib.sha256()
        packed: Any = gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
        self._lines = io.BufferedWriter(packed, BUFFER)
        self._write(orjson.dumps(asdict(header)))

    def add(self, name: str, text: bytes) -> None:
        """Write a document that `as_text` has encoded."""
        self._write(b'["%s",%s]' % (name.encode(), text))
        self.footer.counts[name] += 1

    def _write(self, line: bytes) -> None:
        self._digest.update(line + b"\n")
        self._lines.write(line + b"\n")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.footer.sha256 = self._digest.hexdigest()
            self._lines.write(orjson.dumps({"end": asdict(self.footer)}) + b"\n")
            self._lines.close()


@dataclass
class Backup:
    """The file of a backup that was read to its end and is complete."""

    file: IO[bytes]
    progress: InitVar[Progress]
    header: Header = field(init=False)
    footer: Footer = field(init=False)

    def __post_init__(self, progress: Progress) -> None:
        """Raise BackupRefused unless the file is a complete backup in this format."""
        for _ in self.documents():
            progress(1)

    def documents(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name of the collection and the encoded document, for each; `as_document` decodes it.

        Raises BackupRefused unless the file is a complete backup in this format.
        """
        self.file.seek(0)
        try:
            with gzip.GzipFile(fileobj=self.file, mode="rb") as packed:
                yield from self._read(Lines(packed))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            if not hasattr(self, "header"):
                raise BackupRefused("This is not a backup of FMV.") from error
            raise BackupRefused("The backup is damaged: it was truncated or changed.") from error

    def _read(self, lines: Lines) -> Iterator[tuple[str, bytes]]:
        self.header = read_header(lines.next())
        seen = Footer(dict.fromkeys(self.header.collections, 0))
        while found := DOCUMENT.fullmatch(line := lines.next()):
            name = found["name"].decode()
            if name not in seen.counts:
                raise BackupRefused(f"The backup is damaged: its header does not list the collection {name}.")
            seen.counts[name] += 1
            yield name, found["text"]
        seen.sha256 = lines.digest
        if read_footer(line) != asdict(seen):
            raise BackupRefused("The backup is damaged: its last line does not match the lines before it.")
        if lines.next():
            raise BackupRefused("The backup is damaged: there is more after its last line.")
        self.footer = seen


DOCUMENT = re.compile(rb'\["(?P<name>[^"]+)",(?P<text>\{.*\}|"[^"]*")\]\n', re.DOTALL)


def as_text(raw: bytes) -> bytes:
    """Return the encoding of a BSON document in the file."""
    if DOLLAR_KEY.search(raw):
        return b'"%s"' % base64.b64encode(raw)
    text = json_util.dumps(bson.decode(raw, CODEC), json_options=JSON, separators=(",", ":"), ensure_ascii=False)
    return text.encode()


def as_document(text: bytes) -> dict[str, Any]:
    """Return the document that `as_text` has encoded."""
    if text.startswith(b'"'):
        return bson.decode(base64.b64decode(text[1:-1]), CODEC)
    document: dict[str, Any] = json_util.loads(text, json_options=JSON)
    return document


class Lines:
    """Reads the lines of a file, b"" after the last, and computes the SHA-256 of all lines before the last one read."""

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


def read_header(line: bytes) -> Header:
    """Decode the first line. Raises BackupRefused unless this FMV can read the format."""
    values = _object(line)
    if "fmv_backup" not in values:
        raise BackupRefused("This is not a backup of FMV.")
    if values["fmv_backup"] != FORMAT:
        raise BackupRefused(
            f"The backup has format {values['fmv_backup']}, written by FMV {values.get('fmv')}; "
            f"this FMV reads format {FORMAT}. Restore it with the FMV that wrote it."
        )
    try:
        return Header(**values)
    except TypeError:
        raise BackupRefused("The backup is damaged: its first line is incomplete.") from None


def read_footer(line: bytes) -> Any:
    return _object(line).get("end")


def _object(line: bytes) -> dict[str, Any]:
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return values if isinstance(values, dict) else {}
