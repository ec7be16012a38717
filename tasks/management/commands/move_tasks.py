from argparse import ArgumentParser
from typing import Any

from tasks.cli.filters import BulkCommand, find_robot


class Command(BulkCommand):
    help = """Move all waiting tasks that match to another robot's queue, or to robots with a label.

With --to-label each task goes to the robot that has the shortest queue then. A task that runs on the robot moves only
to one whose agent knows its handler. Running and finished tasks stay. Ctrl-C stops after the current step; run the same
command again for the rest."""
    examples = """
        move_tasks --robot Bender --to Wall-E --dry-run
        move_tasks --robot Bender --handler wait --to "Crow T. Robot"
        move_tasks --robot Bender --to-label forklift
    """
    action = "move"
    done = "moved"

    def add_arguments(self, parser: ArgumentParser) -> None:
        super().add_arguments(parser)
        where = parser.add_mutually_exclusive_group(required=True)
        where.add_argument("--to", metavar="NAME", help="the robot that gets the tasks")
        where.add_argument("--to-label", metavar="LABEL", help="the label of the robots that get the tasks")

    def action_options(self, options: dict[str, Any]) -> dict[str, Any]:
        return {"label": options["to_label"]} if options["to_label"] else {"to": find_robot(options["to"]).name}
