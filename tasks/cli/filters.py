"""The common part of commands about tasks: filters, table lines, and actions on all tasks that match."""

import uuid
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterable
from typing import Any, ClassVar

from django.core.management.base import CommandError

import robots.services
from fmv.cli import BY, TIME_HELP, FmvCommand, Table, add_dry_run, add_json, add_yes, format_time, parse_time
from fmv.mongodb.uuid7 import time_of
from robots.errors import UnknownRobot
from robots.models import Robot
from tasks.models import Bulk, Status, Task
from tasks.models.bulk import BulkStatus
from tasks.queue import bulk

SAMPLE_SIZE = 5  # tasks that a dry run prints
TO_CONTINUE = "Run the same command again for the rest."

# --- Filters ---------------------------------------------------------------------------------------------------------

#: options that select tasks, with the argument names of `Task.objects.matching`
FILTERS = (
    "status", "robot", "handler", "label", "requested_by", "created_after", "created_before", "finished_after",
    "finished_before", "queued_before", "stuck", "error", "ids",
)  # fmt: skip


def task_id(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a task id") from None


def add_filters(parser: ArgumentParser) -> None:
    group = parser.add_argument_group("filters", f"A task must match all filters that are given. {TIME_HELP}")
    add_status(group, Status)
    group.add_argument("--robot", metavar="NAME", help="tasks of this robot")
    group.add_argument("--handler", metavar="NAME", help="tasks that run this handler")
    group.add_argument("--label", metavar="TEXT", help="tasks with this label")
    group.add_argument("--requested-by", metavar="USER", help="tasks that this user has submitted")
    group.add_argument("--created-after", metavar="TIME", type=parse_time, help="tasks created then or later")
    group.add_argument("--created-before", metavar="TIME", type=parse_time, help="tasks created before")
    group.add_argument("--finished-after", metavar="TIME", type=parse_time, help="tasks that finished then or later")
    group.add_argument("--finished-before", metavar="TIME", type=parse_time, help="tasks that finished before")
    group.add_argument(
        "--queued-before", metavar="TIME", type=parse_time, help="queued tasks that have waited since before that time"
    )
    group.add_argument("--stuck", action="store_true", help="tasks whose time has come and that have not moved")
    group.add_argument(
        "--error", metavar="TYPE", help="tasks whose last failed attempt had this error: TimedOut, WorkerLost, …"
    )
    group.add_argument(
        "--id", metavar="ID", dest="ids", action="append", type=task_id, help="the task with this id; repeatable"
    )


def add_status(group: Any, statuses: Iterable[Status]) -> None:
    names = [str(status) for status in statuses]
    text = f"tasks in this status, one of {', '.join(names)}; repeatable"
    group.add_argument("--status", metavar="STATUS", action="append", type=str.upper, choices=names, help=text)


def conditions(options: dict[str, Any]) -> dict[str, Any]:
    """Return the filters that are given, as `Task.objects.matching` takes them."""
    return {name: options[name] for name in FILTERS if options.get(name)}


def find_task(id: uuid.UUID) -> Task:
    task = Task.objects.find(id)
    if task is None:
        raise CommandError(f"There is no task {id}.")
    return task


def find_robot(name: str) -> Robot:
    try:
        return robots.services.get(name)
    except UnknownRobot:
        raise CommandError(f"There is no robot named {name!r}.") from None


# --- Lines -----------------------------------------------------------------------------------------------------------

TABLE = Table(id=36, status=9, robot=16, handler=10, attempt=7, created=19, finished=19, error=0)
COLUMNS = ("id", "status", "robot", "handler", "attempt", "max_attempts", "finished_at", "error")


def line(task: dict[str, Any]) -> str:
    """Return the table line of a task that was read by `.values(*COLUMNS)`."""
    error = f"{task['error']['type']}: {task['error']['message']}"[:200] if task["error"] else ""
    attempt = f"{task['attempt']}/{task['max_attempts']}"
    times = {"created": format_time(time_of(task["id"])), "finished": format_time(task["finished_at"])}
    return TABLE.line({**task, **times, "attempt": attempt, "error": error})


# --- Actions on many tasks -------------------------------------------------------------------------------------------


class BulkCommand(FmvCommand):
    """A command that does one action to all tasks that match, as a run of `tasks.queue.bulk`."""

    action: ClassVar[str]
    #: the participle of the action: "cancelled"
    done: ClassVar[str]

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_filters(parser)
        parser.add_argument("--all", action="store_true", help="all tasks; required without a filter")
        parser.add_argument(
            "--background", action="store_true", help="only start the run; the maintenance worker does it"
        )
        add_dry_run(parser)
        add_yes(parser)
        add_json(parser)

    def action_options(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return further arguments of `tasks.queue.bulk.start`. Raises CommandError."""
        return {}

    def handle(self, *args: object, **options: Any) -> None:
        wanted = conditions(options)
        if not wanted and not options["all"]:
            raise CommandError("This would select all tasks. Give a filter, or use --all.", returncode=2)
        action_options = self.action_options(options)
        count, capped = bulk.estimate(wanted, self.action)
        retried = 0
        if self.action == "retry" and count and not capped and not action_options.get("again"):
            retried = bulk.retried_before(wanted)
        estimate = bulk.how_many(max(0, count - retried), capped)
        if options["dry_run"]:
            self._print_preview(wanted, estimate, count, capped)
        elif not count:
            self.answer("No task matches.", bulk=None, found=0, done=0, skipped=0, failures=[])
        else:
            self.confirm(f"{estimate.capitalize()} would be {self.done}. Continue?", yes=options["yes"])
            self._run(bulk.start(self.action, by=BY, conditions=wanted, **action_options), count, options["background"])

    def _print_preview(self, wanted: dict[str, Any], estimate: str, count: int, capped: bool) -> None:
        possible = Task.objects.matching(**wanted).matching(status=bulk.APPLIES[self.action])
        sample = list(possible.newest_first().values(*COLUMNS)[:SAMPLE_SIZE])
        lines = [TABLE.head(), *map(line, sample)] if sample else []
        text = "\n".join([f"{estimate.capitalize()} would be {self.done}.", *lines])
        self.answer(text, dry_run=True, found=count, more=capped, sample=[task["id"] for task in sample])

    def _run(self, run: Bulk, count: int, background: bool) -> None:
        if background:
            self.answer(f"Bulk run {run.pk} has started. The admin shows its progress.", bulk=run.pk)
            return
        try:
            with self.progress(total=count, unit="tasks") as bar:
                while bulk.step(run):
                    bar.update(run.found - bar.n)
        except KeyboardInterrupt:
            bulk.stop(run, by=BY)
            self.so_far = f"Stopped after {run.done:,} were {self.done}. {TO_CONTINUE}"
            raise
        self._print_summary(run)

    def _print_summary(self, run: Bulk) -> None:
        for failure in run.failures:
            self.stderr.write(f"{failure['task']}: {failure['text']}.")
        text = f"{run.done:,} {self.done}" + (f", {run.skipped:,} could not be." if run.skipped else ".")
        counts = {"found": run.found, "done": run.done, "skipped": run.skipped}
        self.answer(text, bulk=run.pk, **counts, failures=run.failures)
        if run.status == BulkStatus.STOPPED:
            raise CommandError(f"Another user has stopped it. {TO_CONTINUE}")
        if run.skipped and not run.done:
            raise CommandError(f"No task could be {self.done}.")
