from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from tasks.cli.filters import BulkCommand
from tasks.queue.services import MAX_REASON


class Command(BulkCommand):
    help = """Cancel all tasks that match and have not finished.

A waiting task is revoked at once. A running task is stopped by its worker within seconds, or its robot is asked to stop
it. Ctrl-C stops after the current step; run the same command again for the rest."""
    examples = """
        cancel_tasks --robot Bender --dry-run
        cancel_tasks --status QUEUED --label night
        cancel_tasks --robot Bender --reason "The hall is being cleaned"
        cancel_tasks --all --yes
    """
    action = "cancel"
    done = "cancelled"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--reason", metavar="TEXT", default="", help="why, for the history of each task")

    def action_options(self, options: dict[str, Any]) -> dict[str, Any]:
        reason = options["reason"].strip()
        if len(reason) > MAX_REASON:
            raise CommandError(f"A reason has at most {MAX_REASON} characters.", returncode=2)
        return {"reason": reason}
