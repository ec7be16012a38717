import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from fmv.cli import STANDARD, FmvCommand, new_file, output_path
from fmv.templatetags.display import many
from robots.management.commands.import_robots import format_of
from robots.transfer import WRITERS, export


class Command(FmvCommand):
    help = """Write all robots, ordered by name, as JSON lines or CSV to a file or to standard output.

`import_robots` reads this format. The file appears when it is complete. A file that exists is replaced only with
--force."""
    examples = """
        export_robots fleet.csv
        export_robots | gzip > fleet.jsonl.gz
    """
    so_far = "No file was written."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "file",
            type=output_path,
            nargs="?",
            default=STANDARD,
            help="file, whose suffix sets the format (default: JSON lines to standard output)",
        )
        parser.add_argument("--format", choices=WRITERS, help="format, if the suffix of the file does not set it")
        parser.add_argument("--force", action="store_true", help="replace a file that exists")

    def handle(self, *args: object, file: Path, force: bool, **options: Any) -> None:
        write = WRITERS[format_of(file, options["format"])]
        robots = self.progress(export(), unit="robots")
        if file == STANDARD:
            write(robots, sys.stdout.buffer)
            sys.stdout.buffer.flush()
            return
        with new_file(file, force=force) as stream:
            written = write(robots, stream)
        self.stderr.write(f"Wrote {many(written, 'robot')} to {file}.")
