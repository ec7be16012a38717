import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandError
from pymongo.errors import OperationFailure

from fmv.backup import dump, restore
from fmv.backup.format import Footer, Header
from fmv.cli import STANDARD, FmvCommand, add_json, as_json, new_file, output_path

NO_SNAPSHOT = (
    "A standalone MongoDB has no snapshots: a change that is made during the backup may be in it or not. Documents are "
    "read before those that they refer to, so that every reference can be followed."
)


class Command(FmvCommand):
    help = (
        "Write all of FMV's data, as of one moment, to a file from which `restore` can restore them. The file contains "
        "password and token digests, so only its owner can read it. "
        "Ends with 0 if the file is complete, 1 if no file could be written, 2 for wrong arguments."
    )
    examples = """
        backup /var/backups/fmv-$(date +%F).json.gz
        backup - | ssh vault 'cat > fmv.json.gz'
        backup --require-snapshot --force --json fmv.json.gz
    """
    so_far = "No backup was written."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file", type=output_path, help="the file to write; - is standard output")
        parser.add_argument("--force", action="store_true", help="replace the file if it exists")
        parser.add_argument(
            "--require-snapshot",
            action="store_true",
            help="refuse a standalone MongoDB: only a replica set or sharded cluster can be read as of one moment",
        )
        add_json(parser, "print the summary as JSON (for -, on standard error)")

    def handle(self, *args: object, file: Path, force: bool, require_snapshot: bool, **options: Any) -> None:
        snapshot = dump.can_snapshot()
        if require_snapshot and not snapshot:
            raise CommandError("MongoDB is a standalone server, which has no snapshots.")
        if (found := restore.unfinished()) and found.switching and not found.is_alive:
            raise CommandError(f"{found} Restore again before you write a backup.")
        if not snapshot:
            self.stderr.write(NO_SNAPSHOT, str)
        output = standard_output() if file == STANDARD else new_file(file, force=force, mode=0o600)
        try:
            with output as stream, self.progress(total=dump.expected_documents(), unit="documents") as bar:
                header, footer = dump.dump(stream, snapshot=snapshot, progress=bar.update)
        except OperationFailure as error:
            raise CommandError(f"MongoDB refuses: {error}") from error
        self._print_summary(file, header, footer)

    def _print_summary(self, file: Path, header: Header, footer: Footer) -> None:
        kind = "as of" if header.snapshot else "read one after the other since"
        text = f"{file}: {footer.documents} documents, {kind} {header.consistent_at}."
        data = {
            "file": str(file),
            "consistent_at": header.consistent_at,
            "snapshot": header.snapshot,
            "documents": footer.documents,
            "collections": footer.counts,
            "sha256": footer.sha256,
        }
        if file != STANDARD:
            self.answer(text, **data)
        else:
            self.stderr.write(as_json(data) if self.json else text, str)


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    if sys.stdout.isatty():
        raise CommandError("A backup is binary. Redirect it to a file or a program.")
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()
