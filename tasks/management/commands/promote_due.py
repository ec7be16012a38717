from typing import Any

from django.core.management.base import BaseCommand

from tasks.queue import periodic


class Command(BaseCommand):
    help = "Queue tasks whose time has come and wake their robots. Beat does this too; repeating it is harmless."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{periodic.promote_due()} queued")
