from typing import Any

from fmv.cli import FmvCommand
from tasks.reports import tallies


class Command(FmvCommand):
    help = "Roll up the tasks that finished in past minutes, for /stats and /metrics. Beat does this too."
    so_far = "Part of it may be done. Run the command again for the rest."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{tallies.roll_up()} minutes rolled up")
