from typing import Any

from fmv.cli import FmvCommand
from tasks.queue import periodic


class Command(FmvCommand):
    help = "Queue tasks whose time has come and wake their robots. Beat does this too; repeating it is harmless."
    so_far = "Part of it may be done. Run the command again for the rest."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{periodic.promote_due()} queued")
