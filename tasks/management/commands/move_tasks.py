from argparse import ArgumentParser
from typing import Any

from tasks.cli.filters import BulkCommand, find_robot


class Command(BulkCommand):
    help = """Move all tasks that match and wait to another robot's queue.

What runs or is over stays. Ctrl-C stops after the step under way; the same command does the rest."""
    examples = """
        move_tasks --robot Bender --to Wall-E --dry-run
        move_tasks --robot Bender --handler wait --to "Crow T. Robot"
    """
    action = "move"
    done = "moved"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--to", required=True, metavar="NAME", help="the robot that gets them")

    def more(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"to": find_robot(options["to"]).name}
