from typing import Any

from django.core.management.base import BaseCommand

from tasks.queue import periodic


class Command(BaseCommand):
    help = "Ring for robots with work and a free lane, in case a doorbell was lost. Beat does it too."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{periodic.ring_waiting()} robots rung for")
