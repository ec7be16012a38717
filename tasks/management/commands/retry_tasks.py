from argparse import ArgumentParser
from typing import Any

from tasks.cli.filters import BulkCommand


class Command(BulkCommand):
    help = """Run all tasks that match and are over again, each as a new task that names the old one.

A task that was tried again before, by anybody, is left out, so the command may be repeated. Ctrl-C stops after the
step under way; the same command does the rest."""
    examples = """
        retry_tasks --status FAILURE --finished-after 12h --dry-run
        retry_tasks --error WorkerLost --robot Bender
    """
    action = "retry"
    done = "tried again"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--again", action="store_true", help="also those that were tried again before")

    def more(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"again": True} if options["again"] else {}
