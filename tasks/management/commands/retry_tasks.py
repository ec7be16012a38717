from argparse import ArgumentParser
from typing import Any

from tasks.cli.filters import BulkCommand


class Command(BulkCommand):
    help = """Run all finished tasks that match again, each as a new task that refers to the old one.

A task that has been retried before, by any user, is skipped, so the command may be repeated. Ctrl-C stops after the
current step; run the same command again for the rest."""
    examples = """
        retry_tasks --status FAILURE --finished-after 12h --dry-run
        retry_tasks --error WorkerLost --robot Bender
    """
    action = "retry"
    done = "retried"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--again", action="store_true", help="also tasks that have been retried before")

    def action_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"again": True} if options["again"] else {}
