"""What the commands about tasks share: filters, lines, and acts on all tasks that match."""

import uuid
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable
from typing import Any, ClassVar

from django.core.management.base import CommandError

import robots.services
from fmv.cli import BY, MOMENT_HELP, FmvCommand, Table, add_dry_run, add_json, add_yes, clock, moment
from fmv.mongodb.uuid7 import time_of
from robots.errors import UnknownRobot
from robots.models import Robot
from tasks.models import Bulk, Status, Task
from tasks.models.bulk import BulkStatus
from tasks.queue import bulk

SAMPLE = 5  # tasks that a dry run shows
TO_GO_ON = "The same command does the rest."

# --- Filters ---------------------------------------------------------------------------------------------------------

#: what narrows the tasks, in the words of `Task.objects.narrowed`
FILTERS = (
    "status", "robot", "handler", "label", "requested_by", "created_after", "created_before", "finished_after",
    "finished_before", "queued_before", "stuck", "error", "ids",
)  # fmt: skip


def task_id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a task's id") from None


def add_filters(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("filters", f"All that are given must hold. {MOMENT_HELP}")
    add_status(group, Status)
    group.add_argument("--robot", metavar="NAME", help="of this robot")
    group.add_argument("--handler", metavar="NAME", help="that run this")
    group.add_argument("--label", metavar="TEXT", help="with this label")
    group.add_argument("--requested-by", metavar="USER", help="that this user asked for")
    group.add_argument("--created-after", metavar="TIME", type=moment, help="made then or later")
    group.add_argument("--created-before", metavar="TIME", type=moment, help="made before")
    group.add_argument("--finished-after", metavar="TIME", type=moment, help="that finished then or later")
    group.add_argument("--finished-before", metavar="TIME", type=moment, help="that finished before")
    group.add_argument("--queued-before", metavar="TIME", type=moment, help="that wait for their robot since before")
    group.add_argument("--stuck", action="store_true", help="that ought to have moved and did not")
    group.add_argument("--error", metavar="TYPE", help="whose last failed attempt ended so: TimedOut, WorkerLost, …")
    group.add_argument("--id", metavar="ID", dest="ids", action="append", type=task_id, help="this one; repeatable")


def add_status(group: Any, statuses: Iterable[Status]) -> None:
    names = [str(status) for status in statuses]
    text = f"in this status, of {', '.join(names)}; repeatable"
    group.add_argument("--status", metavar="STATUS", action="append", type=str.upper, choices=names, help=text)


def conditions(options: dict[str, Any]) -> dict[str, Any]:
    """Return the filters that are given, as `Task.objects.narrowed` takes them."""
    return {name: options[name] for name in FILTERS if options.get(name)}


def find_robot(name: str) -> Robot:
    try:
        return robots.services.get(name)
    except UnknownRobot:
        raise CommandError(f"There is no robot named {name!r}.") from None


# --- Lines -----------------------------------------------------------------------------------------------------------

TABLE = Table(id=36, status=9, robot=16, handler=10, attempt=7, created=19, finished=19, error=0)
COLUMNS = ("id", "status", "robot", "handler", "attempt", "max_attempts", "finished_at", "error")


def line(task: dict[str, Any]) -> str:
    """Return what the table tells of a task that was read as `.values(*COLUMNS)`."""
    error = f"{task['error']['type']}: {task['error']['message']}"[:200] if task["error"] else ""
    attempt = f"{task['attempt']}/{task['max_attempts']}"
    moments = {"created": clock(time_of(task["id"])), "finished": clock(task["finished_at"])}
    return TABLE.line({**task, **moments, "attempt": attempt, "error": error})


# --- Acts on many tasks ----------------------------------------------------------------------------------------------


class BulkCommand(FmvCommand):
    """Does one act to all tasks that match, as a run of `tasks.queue.bulk`."""

    action: ClassVar[str]
    #: how the act is told: "cancelled"
    done: ClassVar[str]

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_filters(parser)
        parser.add_argument("--all", action="store_true", help="needed where no filter is given")
        parser.add_argument("--background", action="store_true", help="only begin; the maintenance worker does it")
        add_dry_run(parser)
        add_yes(parser)
        add_json(parser)

    def more(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return what else `tasks.queue.bulk.start` is to be told. Raises CommandError."""
        return {}

    def handle(self, *args: object, **options: Any) -> None:
        wanted = conditions(options)
        if not wanted and not options["all"]:
            raise CommandError("This would be all tasks. Give a filter, or say --all.", returncode=2)
        more = self.more(options)
        count, capped = bulk.estimate(wanted, self.action)
        estimate = bulk.how_many(count, capped)
        if options["dry_run"]:
            self._show(wanted, estimate, count, capped)
        elif not count:
            self.answer("No task matches.", bulk=None, found=0, done=0, skipped=0, failures=[])
        else:
            self.confirm(f"{estimate.capitalize()} would be {self.done}. Go on?", yes=options["yes"])
            self._run(bulk.start(self.action, by=BY, conditions=wanted, **more), count, options["background"])

    def _show(self, wanted: dict[str, Any], estimate: str, count: int, capped: bool) -> None:
        possible = Task.objects.narrowed(**wanted).narrowed(status=bulk.APPLIES[self.action])
        sample = list(possible.newest_first().values(*COLUMNS)[:SAMPLE])
        lines = [TABLE.head(), *map(line, sample)] if sample else []
        text = "\n".join([f"{estimate.capitalize()} would be {self.done}.", *lines])
        self.answer(text, dry_run=True, found=count, more=capped, sample=[task["id"] for task in sample])

    def _run(self, run: Bulk, count: int, background: bool) -> None:
        if background:
            self.answer(f"Bulk run {run.pk} has begun. The admin shows how far it is.", bulk=run.pk)
            return
        try:
            with self.progress(total=count, unit="tasks") as bar:
                while bulk.step(run):
                    bar.update(run.found - bar.n)
        except KeyboardInterrupt:
            bulk.stop(run, by=BY)
            self.so_far = f"Stopped after {run.done:,} were {self.done}. {TO_GO_ON}"
            raise
        self._tell(run)

    def _tell(self, run: Bulk) -> None:
        for failure in run.failures:
            self.stderr.write(f"{failure['task']}: {failure['text']}.")
        text = f"{run.done:,} {self.done}" + (f", {run.skipped:,} could not be." if run.skipped else ".")
        counts = {"found": run.found, "done": run.done, "skipped": run.skipped}
        self.answer(text, bulk=run.pk, **counts, failures=run.failures)
        if run.status == BulkStatus.STOPPED:
            raise CommandError(f"Somebody else stopped it. {TO_GO_ON}")
        if run.skipped and not run.done:
            raise CommandError(f"None could be {self.done}.")
