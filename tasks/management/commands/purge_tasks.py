import datetime as dt
from argparse import ArgumentParser
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from django.conf import settings

from fmv import audit
from fmv.cli import BY, FmvCommand, add_dry_run, add_json, add_yes, output_path, parse_age
from fmv.http import request_id
from fmv.mongodb.server import server_now
from fmv.templatetags.display import many
from tasks.cli.archive import Archive, purge
from tasks.cli.filters import add_status
from tasks.models import FINISHED, Task
from tasks.models.querysets import TaskQuerySet
from tasks.queue import bulk

MAX_COUNTED = 100_000  # tasks, before the purge


class Command(FmvCommand):
    help = """Delete tasks that finished long ago, with their logs.

Beat does this every hour with tasks older than FMV_RETENTION_DAYS, and archives nothing. To archive everything, set
that to 0 and run this command from time to time.

--archive appends each task as in the API, with its `log`, to a file: one JSON object a line, gzipped if its name ends
in .gz. Tasks are deleted once they are in the file on the disk. After Ctrl-C or a crash, the same command with the
same file continues. After a crash up to 1,000 tasks may be in the file twice, with the same task_id; none is
missing."""
    examples = """
        purge_tasks --older-than 30d --dry-run
        purge_tasks --older-than 7d --status SUCCESS --archive /backup/tasks.jsonl.gz --yes
        purge_tasks --older-than 1h --robot Bender
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        retention = settings.ENVIRONMENT.retention_days
        parser.add_argument(
            "--older-than",
            type=parse_age,
            metavar="AGE",
            default=dt.timedelta(days=retention) if retention else None,
            required=not retention,
            help="tasks that finished at least that long ago: 12h, 30d, 4w (default: FMV_RETENTION_DAYS)",
        )
        add_status(parser, FINISHED)
        parser.add_argument("--robot", metavar="NAME", help="tasks of this robot")
        parser.add_argument("--handler", metavar="NAME", help="tasks that ran this handler")
        parser.add_argument("--archive", type=output_path, metavar="FILE", help="append the tasks to this file first")
        add_dry_run(parser)
        add_yes(parser)
        add_json(parser)

    def handle(self, *args: object, older_than: dt.timedelta, archive: Path | None, **options: Any) -> None:
        limit = server_now() - older_than
        given = {name: options[name] for name in ("status", "robot", "handler") if options[name]}
        tasks = Task.objects.finished().without_lane().matching(finished_before=limit, created_before=limit, **given)
        count = tasks.up_to(MAX_COUNTED + 1)
        many = bulk.how_many(min(count, MAX_COUNTED), count > MAX_COUNTED)
        if options["dry_run"]:
            self.answer(
                f"{many.capitalize()} would be deleted.",
                dry_run=True,
                found=min(count, MAX_COUNTED),
                more=count > MAX_COUNTED,
            )
            return
        if count:
            where = f"archived in {archive} and " if archive else ""
            self.confirm(f"{many.capitalize()} would be {where}deleted. Continue?", yes=options["yes"])
        self._purge(tasks, count, archive)

    def _purge(self, tasks: TaskQuerySet, count: int, path: Path | None) -> None:
        deleted, into = 0, f" They are in {path}." if path else ""
        try:
            with (
                closing(Archive(path)) if path else nullcontext() as archive,
                self.progress(total=count if count <= MAX_COUNTED else None, unit="tasks") as bar,
            ):
                for step in purge(tasks, archive):
                    bar.update(step)
                    deleted += step
                    self.so_far = f"{many(deleted, 'task')} deleted.{into} Run the same command again for the rest."
        finally:
            if deleted:
                text = f"{many(deleted, 'task')} deleted.{into}"
                audit.record("task.purge", by=BY, kind="tasks", key=request_id.current.get(), text=text)
        self.answer(f"{deleted:,} deleted.{into if deleted else ''}", deleted=deleted, archive=path and str(path))
