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
from fmv.backup import restore
from fmv.backup.format import Backup, database
from fmv.cli import BY, STANDARD, FmvCommand, add_dry_run, add_json, add_yes, input_path
from fmv.mongodb.server import server_now
from tasks.models.worker_process import ALIVE_WITHIN, WorkerProcess
from tasks.queue import periodic


class Command(FmvCommand):
    help = (
        "Replace FMV's data by a file that `backup` has written. Stop web servers and workers first. The whole file is "
        "checked before anything is written. Then its documents are loaded beside FMV's, which needs space for both, "
        "and replace them at the end. Until then FMV's data do not change, so you may interrupt the command at any "
        "time and repeat it. Tasks that were running in the backup are recovered like those of a lost worker; sessions "
        "are not restored. Ends with 0 when done, 1 if refused or failed, 2 for wrong arguments."
    )
    examples = """
        restore --dry-run fmv.json.gz
        restore fmv.json.gz
        restore --replace --yes - < fmv.json.gz
    """
    so_far = "FMV's data have not changed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        source_or_clear = parser.add_mutually_exclusive_group(required=True)
        source_or_clear.add_argument("file", type=input_path, nargs="?", help="a backup; - is standard input")
        source_or_clear.add_argument(
            "--clear", action="store_true", help="only drop what an interrupted restore has loaded beside FMV's data"
        )
        parser.add_argument(
            "--replace", action="store_true", help="replace the data that the database holds; they are lost"
        )
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
        restore.refuse_while_another_runs()
        found = restore.unfinished()
        if found and found.switching:
            raise CommandError(f"{found} Restore again: the loaded collections may be the only copy of some data.")
        if not dry_run:
            restore.clear()
        self.answer(
            f"{found} What it has loaded is dropped." if found else "There is nothing to drop.",
            cleared=found is not None,
        )

    def _restore(self, file: Path, replace: bool, yes: bool, dry_run: bool, **_: Any) -> None:
        with opened(file) as stream:
            with self.progress(unit="documents checked") as bar:
                backup = Backup(stream, bar.update)
            restore.require_same_migrations(backup)
            restore.refuse_while_another_runs()
            if interrupted := restore.unfinished():
                self.stderr.write(str(interrupted), str)
            if not dry_run:
                require_no_workers()
                self._confirm_replacement(replace, yes, backup)
            mended = 0 if dry_run else self._load(backup, file)
        self._print_summary(file, backup, mended, dry_run)

    def _confirm_replacement(self, replace: bool, yes: bool, backup: Backup) -> None:
        occupied = restore.occupied()
        name = database().name
        if occupied and not replace:
            raise CommandError(
                f"The database {name} holds data ({', '.join(occupied)}). Restore into an empty one, or use --replace."
            )
        if occupied:
            documents = f"{backup.footer.documents} documents as of {backup.header.consistent_at}"
            self.confirm(f"Replace all data of the database {name} by {documents}?", yes=yes)

    def _load(self, backup: Backup, file: Path) -> int:
        with self.progress(total=backup.footer.documents, unit="documents restored") as bar:
            mended = restore.restore(backup, file=str(file), progress=bar.update, require_quiet=require_no_workers)
        text = f"Restored {backup.footer.documents} documents as of {backup.header.consistent_at}"
        audit.record("database.restore", by=BY, kind="database", key=database().name, text=text)
        periodic.ring_waiting()
        return mended

    def _print_summary(self, file: Path, backup: Backup, mended: int, dry_run: bool) -> None:
        header, footer, name = backup.header, backup.footer, database().name
        verb = "would be restored" if dry_run else "are restored"
        lines = [f"{footer.documents} documents as of {header.consistent_at} {verb} into {name}."]
        if mended:
            lines.append(
                f"{mended} of them lost a unique value to another document: it changed owner during the backup."
            )
        if dry_run and (occupied := restore.occupied()):
            lines.append(f"This needs --replace: {name} holds data ({', '.join(occupied)}), which would be lost.")
        self.answer(
            "\n".join(lines),
            file=str(file),
            dry_run=dry_run,
            database=name,
            consistent_at=header.consistent_at,
            snapshot=header.snapshot,
            documents=footer.documents,
            collections=footer.counts,
            mended=mended,
        )


def require_no_workers() -> None:
    """Raise CommandError if a worker process is alive: what it writes would be lost, or mixed into the backup."""
    alive = list(WorkerProcess.objects.alive(server_now()))
    if alive:
        raise CommandError(
            f"Worker processes are alive: {', '.join(process.name for process in alive)}. Stop all workers, the "
            f"maintenance worker and all web servers first. A killed one counts as alive for {ALIVE_WITHIN.seconds} s."
        )


@contextmanager
def opened(file: Path) -> Iterator[IO[bytes]]:
    """Yield the opened file; standard input is first copied to a temporary file that only this process can open."""
    if file != STANDARD:
        with file.open("rb") as stream:
            yield stream
        return
    with tempfile.TemporaryFile() as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)
        yield stream
