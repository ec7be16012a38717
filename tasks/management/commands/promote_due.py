from typing import Any

from django.core.management.base import BaseCommand

from tasks.queue import periodic


class Command(BaseCommand):
    help = "Queue the tasks whose time has come and ring for them. Beat does it too; once more does no harm."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{periodic.promote_due()} queued")
