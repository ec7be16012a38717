import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandError
from pymongo.errors import OperationFailure

from fmv.backup import dump, restore
from fmv.cli import STANDARD, FmvCommand, add_json, as_json, new_file, target

NO_SNAPSHOT = (
    "A standalone MongoDB has no snapshots: what changes while the backup is made may be in it or not. What refers to "
    "others is read first, so that it holds together."
)


class Command(FmvCommand):
    help = (
        "Write all of FMV's data, as they are at one moment, into one file, from which `restore` puts them back. It "
        "holds password and token digests, so it is made readable by its owner alone. "
        "Ends with 0 when the file is complete, 1 when there is none because it could not be made, "
        "2 for wrong arguments."
    )
    examples = """
        backup /var/backups/fmv-$(date +%F).json.gz
        backup - | ssh vault 'cat > fmv.json.gz'
        backup --require-snapshot --force --json fmv.json.gz
    """
    so_far = "There is no backup."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=target, help="where to; - is standard output")
        parser.add_argument("--force", action="store_true", help="replace a file of that name")
        parser.add_argument(
            "--require-snapshot",
            action="store_true",
            help="refuse a standalone MongoDB: only a replica set or sharded cluster can be read as of one moment",
        )
        add_json(parser, "print the summary as JSON (of -, on standard error)")

    def handle(self, *args: object, file: Path, force: bool, require_snapshot: bool, **options: Any) -> None:
        snapshot = dump.can_snapshot()
        if require_snapshot and not snapshot:
            raise CommandError("This MongoDB is a standalone server, which has no snapshots.")
        if (found := restore.mark()) and found.switching and not found.is_alive:
            raise CommandError(f"{found} Restore again before you back up.")
        if not snapshot:
            self.stderr.write(NO_SNAPSHOT, str)
        output = standard_output() if file == STANDARD else new_file(file, force=force, mode=0o600)
        try:
            with output as stream, self.progress(total=dump.expected_documents(), unit="documents") as bar:
                header, totals = dump.make(stream, snapshot=snapshot, progress=bar.update)
        except OperationFailure as error:
            raise CommandError(f"MongoDB refuses: {error}") from error
        self._tell(file, header, totals)

    def _tell(self, file: Path, header: dump.Header, totals: dump.Totals) -> None:
        kind = "as of" if header.snapshot else "read one after the other from"
        text = f"{file}: {totals.documents} documents, {kind} {header.consistent_at}."
        data = {
            "file": str(file),
            "consistent_at": header.consistent_at,
            "snapshot": header.snapshot,
            "documents": totals.documents,
            "collections": totals.counts,
            "sha256": totals.sha256,
        }
        if file != STANDARD:
            self.answer(text, **data)
        else:
            self.stderr.write(as_json(data) if self.json else text, str)


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    if sys.stdout.isatty():
        raise CommandError("A backup is nothing for a terminal. Send it into a file or a program.")
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()
