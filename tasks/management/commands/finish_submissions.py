from typing import Any

from django.core.management.base import BaseCommand

from tasks.queue import submissions


class Command(BaseCommand):
    help = "Queue the accepted tasks of batches and idempotent requests whose web server has died. Beat does this too."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{submissions.requeue_unfinished()} finished")
