from typing import Any

from django.core.management.base import BaseCommand

from tasks.queue import periodic


class Command(BaseCommand):
    help = "Wake robots that have work and a free lane, in case a wake-up was lost. Beat does this too."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{periodic.ring_waiting()} robots woken")
