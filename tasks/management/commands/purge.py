from argparse import ArgumentParser, ArgumentTypeError
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from tasks import maintenance


def days(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= 36_500:
        raise ArgumentTypeError(f"{text!r} is not a number of days from 0 to 36,500")
    return value


class Command(BaseCommand):
    help = "Delete tasks that finished long ago, with their logs. Beat does it too; it may be interrupted and repeated."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--days", type=days, default=settings.FMV_RETENTION_DAYS, help="Age in days; default FMV_RETENTION_DAYS."
        )

    def handle(self, *args: object, days: float, **options: Any) -> None:
        self.stdout.write(f"{maintenance.purge(days)} deleted")
