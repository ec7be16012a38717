from typing import Any

from django.core.management.base import BaseCommand

from tasks.queue import submissions


class Command(BaseCommand):
    help = "Queue what batches and repeatable requests had accepted before their server died. Beat does it too."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{submissions.requeue_unfinished()} finished")
