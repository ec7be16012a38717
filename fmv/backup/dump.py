"""Writing a backup: all documents of the collections it includes, as of one moment if MongoDB can do that."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from django.conf import settings
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import OperationFailure

from fmv.backup.format import (
    FORMAT,
    BackupRefused,
    Footer,
    Header,
    Progress,
    Writer,
    applied_migrations,
    as_text,
    database,
    included_models,
)
from fmv.mongodb.server import server_now

READ_BATCH = 1000  # documents in one reply of the server
SNAPSHOT_TOO_OLD = 239  # MongoDB's error code
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


def can_snapshot() -> bool:
    """Return whether MongoDB can read several collections as of one moment: a replica set or sharded cluster can."""
    hello = database().command("hello")
    return "setName" in hello or hello.get("msg") == "isdbgrid"


@contextmanager
def snapshot_session(snapshot: bool) -> Iterator[ClientSession]:
    """Yield a session; if `snapshot`, all its reads are as of the same moment."""
    with database().client.start_session(snapshot=snapshot) as session:
        try:
            yield session
        except OperationFailure as error:
            if error.code != SNAPSHOT_TOO_OLD:
                raise
            raise BackupRefused(
                "MongoDB keeps snapshots for less time than the backup takes. Let it keep them for an hour: "
                "db.adminCommand({setParameter: 1, minSnapshotHistoryWindowInSeconds: 3600})"
            ) from error


def dump(file: IO[bytes], *, snapshot: bool, progress: Progress) -> tuple[Header, Footer]:
    """Write a backup to the file; `progress` is called with 1 for each document."""
    included = included_models()
    with snapshot_session(snapshot) as session:
        header = Header(
            fmv_backup=FORMAT,
            fmv=str(settings.SPECTACULAR_SETTINGS["VERSION"]),
            database=database().name,
            consistent_at=server_now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            snapshot=snapshot,
            collections=[model._meta.db_table for model in included],
            left_out=settings.FMV_BACKUP_LEAVES_OUT,
            migrations=applied_migrations(),
        )
        with Writer(file, header) as writer:
            for name in header.collections:
                collection: Collection[RawBSONDocument] = cast(Any, database()).get_collection(name, codec_options=RAW)
                for document in collection.find({}, session=session, batch_size=READ_BATCH):
                    writer.add(name, as_text(bytes(document.raw)))
                    progress(1)
    return header, writer.footer


def expected_documents() -> int:
    """Return about how many documents a backup would include now."""
    return sum(database()[model._meta.db_table].estimated_document_count() for model in included_models())
