from typing import Any

from fmv.cli import FmvCommand
from fmv.templatetags.display import many
from tasks.queue import periodic


class Command(FmvCommand):
    help = "Wake robots that have work and a free lane, in case a wake-up was lost. Beat does this too."
    so_far = "Part of it may be done. Run the command again for the rest."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{many(periodic.ring_waiting(), 'robot')} woken")
