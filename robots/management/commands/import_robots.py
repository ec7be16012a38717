import sys
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from django.core.management.base import CommandError

from fmv.cli import BY, MAX_FAULTS_IN_JSON, STANDARD, FmvCommand, add_dry_run, add_json, input_path
from robots.transfer import READERS, SUFFIXES, Fault, Import


def format_of(path: Path, given: str | None) -> str:
    """Return the format of a file. Raises CommandError if neither `given` nor the suffix sets it."""
    known = given or ("jsonl" if path == STANDARD else SUFFIXES.get(path.suffix.lower()))
    if known is None:
        raise CommandError(
            f"The suffix of {path.name} does not set the format: give --format jsonl or csv.", returncode=2
        )
    return known


class Command(FmvCommand):
    help = """Add robots from a file of JSON lines or CSV, or from standard input.

The whole file is read and checked first, by the rules of the API. Each faulty line is reported on standard error with
its number and field. If there is one, nothing is changed. A name that a robot has already is a fault, unless --existing
says otherwise, and so is a name that occurs twice.

JSON lines: one object per line, with the fields of `POST /robot/`. CSV: UTF-8, separated by commas, with the column
names in the first line. An empty cell means that the field is not given. Labels are separated by `;` or are a JSON
list.

If the command is interrupted, it reports how many robots are stored. The same command with --existing skip or replace
adds the rest."""
    examples = """
        import_robots fleet.csv --dry-run
        import_robots fleet.csv --existing replace
        import_robots - < fleet.jsonl
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "file", type=input_path, help="file, whose suffix sets the format, or - for JSON lines from standard input"
        )
        parser.add_argument("--format", choices=READERS, help="format, if the suffix of the file does not set it")
        parser.add_argument(
            "--existing",
            choices=("refuse", "skip", "replace"),
            default="refuse",
            help="if a robot exists: refuse the file, skip the robot, or replace it (default: refuse)",
        )
        parser.add_argument("--skip-bad", action="store_true", help="skip faulty lines and import the others")
        add_dry_run(parser)
        add_json(parser)

    def handle(self, *args: object, file: Path, **options: Any) -> None:
        read = READERS[format_of(file, options["format"])]
        with closing(Import()) as robots, opened(file) as stream:
            lines = self.progress(robots.read(read(stream)), unit="lines")
            self._import(robots, chain.from_iterable(lines), **options)

    def _import(self, robots: Import, faults: Iterable[Fault], *, existing: str, dry_run: bool, **options: Any) -> None:
        refuse = existing == "refuse"
        bad, shown = self._report(faults)
        hint = ""
        if refuse:
            more, also = self._report(robots.faults())
            bad, shown = bad + more, [*shown, *also][:MAX_FAULTS_IN_JSON]
            hint = " After an interrupted import, --existing skip adds the rest." if more else ""
        if bad and not options["skip_bad"]:
            self._summarize(robots, bad, shown)
            raise CommandError(f"Faulty lines: {bad:,}. Nothing has changed.{hint}")
        if dry_run:
            self._predict(robots, existing)
        else:
            self._store(robots, replace=existing == "replace")
        robots.outcome["skipped"] -= len(robots.taken) if refuse else 0  # they count as faulty lines
        self._summarize(robots, bad, shown, dry_run=dry_run)
        if refuse and robots.outcome["skipped"]:
            raise CommandError("The skipped robots were added by another process meanwhile. They were not changed.")

    def _report(self, faults: Iterable[Fault]) -> tuple[int, list[Fault]]:
        """Print the faults; return the number of faulty lines, and the first few faults."""
        lines, last = 0, 0
        shown: list[Fault] = []
        for fault in faults:
            self.stderr.write(str(fault))
            shown += [fault] if len(shown) < MAX_FAULTS_IN_JSON else []
            lines, last = lines + (fault.line != last), fault.line
        return lines, shown

    def _store(self, robots: Import, *, replace: bool) -> None:
        total, done = len(robots.lines), 0
        with self.progress(total=total, unit="robots") as bar:
            for count in robots.store(by=BY, replace=replace):
                bar.update(count)
                done += count
                self.so_far = (
                    f"{done:,} of {total:,} robots are stored. "
                    f"The same command with --existing {'replace' if replace else 'skip'} stores the rest."
                )

    def _predict(self, robots: Import, existing: str) -> None:
        taken = len(robots.taken)
        robots.outcome["added"] = len(robots.lines) - taken
        robots.outcome["changed" if existing == "replace" else "skipped"] = taken

    def _summarize(self, robots: Import, bad: int, shown: list[Fault], dry_run: bool = False) -> None:
        names = ("added", "changed", "unchanged", "skipped")
        counts = {name: robots.outcome[name] for name in names} | {"bad": bad}
        text = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "No robots"
        faults = [fault._asdict() for fault in shown]
        self.answer(f"{'Would be: ' if dry_run else ''}{text}.", **counts, dry_run=dry_run, faults=faults)


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    if path == STANDARD:
        yield sys.stdin.buffer
        return
    with path.open("rb") as file:
        yield file
