import uuid
from argparse import ArgumentParser
from typing import Any

from fmv.cli import BY, FmvCommand, add_json, add_yes
from tasks.cli.filters import find_task, task_id
from tasks.queue import robots_lost


class Command(FmvCommand):
    help = """Free the lane that a task has kept after its end, because its robot has not confirmed that it stopped.

FMV does so itself when the robot's agent reports the end of the attempt, or is started again."""
    examples = """
        free_lane 01a208b1-f9db-74e6-9b4f-34e0771ec49e
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("task", metavar="ID", type=task_id, help="the id of the task that keeps the lane")
        add_yes(parser)
        add_json(parser)

    def handle(self, *args: object, task: uuid.UUID, yes: bool, **options: Any) -> None:
        found = find_task(task)
        self.confirm(f"Another task may start on the lane. Does {found.robot} stand still?", yes=yes)
        robots_lost.free_lane(found, by=BY)
        self.answer(f"Lane {found.lane} is free.", task=found.pk, lane=found.lane)
