from argparse import ArgumentParser
from typing import Any

from fmv.cli import FmvCommand, add_dry_run, add_json
from fmv.mongodb.server import server_now
from tasks.models import Task
from tasks.queue import periodic

CAP = 10_000  # tasks that a dry run counts


class Command(FmvCommand):
    help = """Set going again what stands still.

Takes tasks away from workers that let their lease run out, queues tasks whose time has come, and rings for robots with
work and a free lane. Beat does all of it every few seconds; once more does no harm."""
    examples = """
        list_tasks --stuck
        recover_tasks
    """
    so_far = "What was recovered is; the same command does the rest."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_dry_run(parser)
        add_json(parser)

    def handle(self, *args: object, dry_run: bool, **options: Any) -> None:
        if dry_run:
            self._foresee()
            return
        lost: dict[str, int] = {}
        while outcome := periodic.recover_lost():
            lost = {status: lost.get(status, 0) + outcome.get(status, 0) for status in {*lost, *outcome}}
        due, rung = periodic.promote_due(), periodic.ring_waiting()
        told = ", ".join(f"{count:,} to {status}" for status, count in sorted(lost.items())) or "none"
        text = f"Taken from lost workers: {told}. Queued because due: {due:,}. Robots rung for: {rung:,}."
        self.answer(text, lost=lost, due=due, rung=rung)

    def _foresee(self) -> None:
        now = server_now()
        lost, due = Task.objects.lost(now).up_to(CAP), Task.objects.due(now).up_to(CAP)
        text = f"Lost: {lost:,}. Due: {due:,}. Robots with work: {len(Task.objects.robots_waiting()):,}."
        self.answer(text, dry_run=True, lost=lost, due=due)
