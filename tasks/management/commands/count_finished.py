from typing import Any

from django.core.management.base import BaseCommand

from tasks.reports import tallies


class Command(BaseCommand):
    help = "Roll up the tasks that finished in past minutes, for /stats and /metrics. Beat does this too."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{tallies.roll_up()} minutes rolled up")
