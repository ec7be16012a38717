from typing import Any

from django.core.management.base import BaseCommand

from tasks.queue import periodic


class Command(BaseCommand):
    help = "Revoke tasks that have not started by their expires_at. Beat does this too; repeating it is harmless."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{periodic.expire()} revoked")
