from typing import Any

from django.core.management.base import BaseCommand

from tasks.queue import periodic


class Command(BaseCommand):
    help = (
        "Revoke the tasks that were to start by their expires_at and did not. Beat does it too; once more does no harm."
    )

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{periodic.expire()} revoked")
