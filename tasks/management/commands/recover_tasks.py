import time
from argparse import ArgumentParser
from typing import Any

from django.conf import settings

from fmv.cli import FmvCommand, add_dry_run, add_json
from fmv.mongodb.server import server_now
from tasks.models import Task
from tasks.queue import periodic

MAX_COUNTED = 10_000  # tasks, in a dry run


class Command(FmvCommand):
    help = """Recover stuck tasks.

Takes tasks away from workers that do not renew their lease, queues tasks whose time has come, and wakes robots that
have work and a free lane. If a lease has expired, the command first watches it for as long as a lease lasts, because
clocks may jump. Beat does all of this every few seconds; repeating it is harmless."""
    examples = """
        list_tasks --stuck
        recover_tasks
    """
    so_far = "Some tasks are recovered. Run the same command again for the rest."

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_dry_run(parser)
        add_json(parser)

    def handle(self, *args: object, dry_run: bool, **options: Any) -> None:
        if dry_run:
            self._print_preview()
            return
        lost = periodic.recover_lost()
        if Task.objects.lost(server_now()).exists():
            time.sleep(settings.ENVIRONMENT.lease_seconds)
        while outcome := periodic.recover_lost():
            lost = {status: lost.get(status, 0) + outcome.get(status, 0) for status in {*lost, *outcome}}
        due, woken = periodic.promote_due(), periodic.ring_waiting()
        recovered = ", ".join(f"{count:,} to {status}" for status, count in sorted(lost.items())) or "none"
        text = f"Recovered from lost workers: {recovered}. Queued because due: {due:,}. Robots woken: {woken:,}."
        self.answer(text, lost=lost, due=due, rung=woken)

    def _print_preview(self) -> None:
        now = server_now()
        lost, due = Task.objects.lost(now).up_to(MAX_COUNTED), Task.objects.due(now).up_to(MAX_COUNTED)
        text = f"Lost: {lost:,}. Due: {due:,}. Robots with work: {len(Task.objects.robots_waiting()):,}."
        self.answer(text, dry_run=True, lost=lost, due=due)
