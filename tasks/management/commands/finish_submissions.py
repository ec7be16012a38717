from typing import Any

from fmv.cli import FmvCommand
from tasks.queue import submissions


class Command(FmvCommand):
    help = "Queue the accepted tasks of batches and idempotent requests whose web server has died. Beat does this too."
    so_far = "Part of it may be done. Run the command again for the rest."

    def handle(self, *args: object, **options: Any) -> None:
        self.stdout.write(f"{submissions.requeue_unfinished()} finished")
