import shutil
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandError
from pymongo.errors import OperationFailure

from fmv import audit
from fmv.backup import dump, restore
from fmv.cli import BY, STANDARD, FmvCommand, add_dry_run, add_json, add_yes, source


class Command(FmvCommand):
    help = (
        "Put what `backup` has written in the place of FMV's data. Stop web servers and workers first. "
        "The whole file is checked before anything is written. Then its documents are loaded beside FMV's, which needs "
        "room for both, and at the end take their place: until then FMV's data are as they were, so it may be "
        "interrupted at any time, and repeated. What ran when the backup was made is recovered as that of a lost "
        "worker is; sessions are not restored. Ends with 0 when done, 1 when refused or failed, 2 for wrong arguments."
    )
    examples = """
        restore --dry-run fmv.json.gz
        restore fmv.json.gz
        restore --replace --yes - < fmv.json.gz
    """
    so_far = "FMV's data are as they were."

    def add_arguments(self, parser: ArgumentParser) -> None:
        what = parser.add_mutually_exclusive_group(required=True)
        what.add_argument("file", type=source, nargs="?", help="a backup; - is standard input")
        what.add_argument(
            "--clear", action="store_true", help="only drop what an interrupted restore has left beside FMV's data"
        )
        parser.add_argument("--replace", action="store_true", help="even if the database holds data: they are lost")
        add_yes(parser)
        add_dry_run(parser)
        add_json(parser, "print the summary as JSON")

    def handle(self, *args: object, **options: Any) -> None:
        try:
            if options["clear"]:
                self._clear(options["dry_run"])
            else:
                self._restore(**options)
        except OperationFailure as error:
            raise CommandError(f"MongoDB refuses: {error} {self.so_far}") from error

    def _clear(self, dry_run: bool) -> None:
        restore.refuse_two_at_once()
        found = restore.mark()
        if found and found.switching:
            raise CommandError(f"{found} Restore again: what would be dropped may be the only copy of some data.")
        if not dry_run:
            restore.clear()
        self.answer(f"{found} It is dropped." if found else "There is nothing to drop.", cleared=found is not None)

    def _restore(self, file: Path, replace: bool, yes: bool, dry_run: bool, **_: Any) -> None:
        with opened(file) as stream:
            with self.progress(unit="documents checked") as bar:
                found = dump.Backup(stream, bar.update)
            restore.refuse_what_does_not_fit(found)
            restore.refuse_two_at_once()
            if left := restore.mark():
                self.stderr.write(str(left), str)
            if not dry_run:
                self._may_replace(replace, yes, found)
            mended = 0 if dry_run else self._load(found, file)
        self._tell(file, found, mended, dry_run)

    def _may_replace(self, replace: bool, yes: bool, found: dump.Backup) -> None:
        occupied = restore.occupied()
        name = dump.database().name
        if occupied and not replace:
            raise CommandError(
                f"The database {name} holds data ({', '.join(occupied)}). Restore into an empty one, or --replace them."
            )
        if occupied:
            what = f"{found.totals.documents} documents as of {found.header.consistent_at}"
            self.confirm(f"Replace all data of the database {name} by {what}?", yes=yes)

    def _load(self, found: dump.Backup, file: Path) -> int:
        with self.progress(total=found.totals.documents, unit="documents restored") as bar:
            mended = restore.restore(found, file=str(file), progress=bar.update)
        text = f"Restored {found.totals.documents} documents as of {found.header.consistent_at}"
        audit.record("database.restore", by=BY, kind="database", key=dump.database().name, text=text)
        return mended

    def _tell(self, file: Path, found: dump.Backup, mended: int, dry_run: bool) -> None:
        header, totals, name = found.header, found.totals, dump.database().name
        verb = "would be restored" if dry_run else "are restored"
        lines = [f"{totals.documents} documents as of {header.consistent_at} {verb} into {name}."]
        if mended:
            lines.append(
                f"{mended} of them gave up a value that another one has: it changed hands while they were read."
            )
        if dry_run and (occupied := restore.occupied()):
            lines.append(f"That needs --replace: {name} holds data ({', '.join(occupied)}), which would be lost.")
        self.answer(
            "\n".join(lines),
            file=str(file),
            dry_run=dry_run,
            database=name,
            consistent_at=header.consistent_at,
            snapshot=header.snapshot,
            documents=totals.documents,
            collections=totals.counts,
            mended=mended,
        )


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """Yields the file; what comes from standard input is first stored in one that nobody else can open."""
    if file != STANDARD:
        with file.open("rb") as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)
        yield stream
