from argparse import ArgumentParser
from operator import itemgetter
from typing import Any

from fmv.cli import FmvCommand, add_json, as_json, parse_positive
from fmv.mongodb.streaming import by_key
from tasks.api.rendering import render_object
from tasks.cli.filters import COLUMNS, TABLE, add_filters, conditions, line
from tasks.models import Task


class Command(FmvCommand):
    help = """List all tasks that match, newest first.

Prints one line a task, with its last error; --json prints one JSON object a line, the Task of the API. Tasks are
printed while they are read, so that their number does not matter."""
    examples = """
        list_tasks --status FAILURE --finished-after 12h
        list_tasks --stuck
        list_tasks --robot Bender --json | jq -r .task_id
    """
    so_far = "Not all tasks were listed."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_filters(parser)
        parser.add_argument("--limit", type=parse_positive, metavar="N", help="list at most N tasks")
        add_json(parser, "print one JSON object a line")

    def handle(self, *args: object, limit: int | None, **options: Any) -> None:
        found = Task.objects.matching(**conditions(options))
        if self.json:
            for task in by_key(found, descending=True, limit=limit):
                self.stdout.write(as_json(render_object(task)))
            return
        self.stdout.write(TABLE.head())
        for row in by_key(found.values(*COLUMNS), descending=True, limit=limit, key=itemgetter("id")):
            self.stdout.write(line(row))
