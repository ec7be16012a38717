from typing import Any

from django.core.management.base import BaseCommand

from tasks import maintenance


class Command(BaseCommand):
    help = "Take tasks away from workers that let their lease run out. Beat does it too; once more does no harm."

    def handle(self, *args: object, **options: Any) -> None:
        outcome = maintenance.recover_lost()
        self.stdout.write(", ".join(f"{count} to {status}" for status, count in outcome.items()) or "none lost")
