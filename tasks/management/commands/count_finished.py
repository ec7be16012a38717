from typing import Any

from django.core.management.base import BaseCommand

from tasks.reports import tallies


class Command(BaseCommand):
    help = "Add up the tasks that finished in past minutes, for /stats and /metrics. Beat does it too."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{tallies.roll_up()} minutes added up")
