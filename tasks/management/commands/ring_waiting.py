from typing import Any

from django.core.management.base import BaseCommand

from tasks import maintenance


class Command(BaseCommand):
    help = "Ring for robots in service that have queued tasks and a free lane, in case a doorbell was lost. Beat does it too; once more does no harm."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{maintenance.ring_waiting()} robots rung for")
