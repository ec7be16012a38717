import uuid
from argparse import ArgumentParser
from typing import Any

from fmv.cli import BY, FmvCommand, add_json, add_yes
from tasks.cli.filters import find_task, task_id
from tasks.queue import robots_lost


class Command(FmvCommand):
    help = """End the wait for a robot that is out of contact.

The attempt of the task ends at once, and is tried again or fails. FMV does so itself after the time that the task's
handler allows. The robot may still move: look first."""
    examples = """
        end_wait 01a208b1-f9db-74e6-9b4f-34e0771ec49e
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("task", metavar="ID", type=task_id, help="the task's id")
        add_yes(parser)
        add_json(parser)

    def handle(self, *args: object, task: uuid.UUID, yes: bool, **options: Any) -> None:
        found = find_task(task)
        self.confirm(f"{found.robot} may still move. End its task {found.handler}?", yes=yes)
        status = robots_lost.end_silent(found, by=BY)
        self.answer(f"The attempt is over: the task is {status}.", task=found.pk, status=status)
