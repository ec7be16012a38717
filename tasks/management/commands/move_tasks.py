from argparse import ArgumentParser
from typing import Any

from tasks.cli.filters import BulkCommand, find_robot


class Command(BulkCommand):
    help = """Move all waiting tasks that match to another robot's queue.

Running and finished tasks stay. Ctrl-C stops after the current step; run the same command again for the rest."""
    examples = """
        move_tasks --robot Bender --to Wall-E --dry-run
        move_tasks --robot Bender --handler wait --to "Crow T. Robot"
    """
    action = "move"
    done = "moved"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--to", required=True, metavar="NAME", help="the robot that gets the tasks")

    def action_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"to": find_robot(options["to"]).name}
