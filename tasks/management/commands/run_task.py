from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Iterator
from time import monotonic, sleep
from typing import Any
from uuid import UUID

from django.core.management.base import CommandError
from rest_framework.exceptions import ValidationError

from fmv.cli import (
    BY,
    FmvCommand,
    add_json,
    as_json,
    format_time,
    in_words,
    parse_future_time,
    parse_positive,
    parse_seconds,
)
from fmv.errors import InvalidInput
from fmv.escaping import visible
from fmv.http.errors import flatten
from fmv.http.fields import read_body
from fmv.http.json import check_json, parse
from tasks import registry
from tasks.api.rendering import render_object
from tasks.api.serializers import SubmitSerializer
from tasks.cli.filters import find_robot
from tasks.models import Status, Task
from tasks.models.status import DEFAULT_PRIORITY, MAX_PRIORITY
from tasks.queue import services

POLL_INTERVAL = 0.2  # seconds


def json_object(text: str) -> dict[str, Any]:
    try:
        value = parse(text, ("", "params"))
    except InvalidInput as error:
        raise ArgumentTypeError(in_words(error)) from None
    if not isinstance(value, dict):
        raise ArgumentTypeError("This is not a JSON object")
    return value


def pair(text: str) -> tuple[str, Any]:
    """Parse `name=value`; a value that is not JSON is a string."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, parse(value, ("", "params", name))
    except InvalidInput as error:
        if error.problems[0].type != "json_invalid" and value not in ("NaN", "Infinity", "-Infinity"):
            raise ArgumentTypeError(in_words(error)) from None
        return name, value


class Command(FmvCommand):
    help = """Submit a task for a robot, and print its id.

With --wait the command ends when the task does, with 0 if it ended as SUCCESS, else 1. Ctrl-C ends the waiting, not the
task. A time is 2027-01-31T08:00:00Z, 2027-01-31 (UTC), or a time from now: 90s, 30m, 12h, 7d."""
    examples = """
        run_task Bender
        run_task Bender wait --param seconds=5 --follow
        run_task Wall-E http --params '{"method": "GET", "path": "/status"}' --run-at 30m --label night
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("robot", help="the robot's name")
        parser.add_argument("handler", nargs="?", default=registry.DEFAULT, help="what to run (default: %(default)s)")
        parser.add_argument(
            "--params", type=json_object, default={}, metavar="JSON", help="the parameters, a JSON object"
        )
        parser.add_argument(
            "--param",
            type=pair,
            action="append",
            default=[],
            metavar="NAME=VALUE",
            help="one parameter; a VALUE that is not JSON is a string; repeatable",
        )
        parser.add_argument(
            "--priority",
            type=int,
            default=DEFAULT_PRIORITY,
            help=f"0-{MAX_PRIORITY}; a task with a greater one starts first (default: %(default)s)",
        )
        parser.add_argument("--run-at", type=parse_future_time, metavar="TIME", help="do not start it before")
        parser.add_argument(
            "--expires-at", type=parse_future_time, metavar="TIME", help="revoke it if it has not started by then"
        )
        parser.add_argument(
            "--timeout", type=parse_seconds, metavar="SECONDS", help="the most that an attempt may take"
        )
        parser.add_argument("--max-attempts", type=parse_positive, metavar="N")
        parser.add_argument("--label", action="append", default=[], dest="labels", metavar="TEXT", help="repeatable")
        parser.add_argument("--queue-anyway", action="store_true", help="even if the robot is out of service")
        parser.add_argument(
            "--wait",
            type=parse_seconds,
            nargs="?",
            const=float("inf"),
            metavar="SECONDS",
            help="wait until the task has finished, at most so long",
        )
        parser.add_argument("--follow", action="store_true", help="wait, and print its reports and its log")
        add_json(parser, "print the task as JSON; with --follow, reports and log go to standard error")

    def handle(self, *args: object, **options: Any) -> None:
        follow: bool = options["follow"]
        wait: float = options["wait"] or (float("inf") if follow else 0)
        task = services.submit({"robot": find_robot(options["robot"]).name, **read_options(options)}, by=BY)
        self.so_far = f"Task {task.pk} continues; `cancel_tasks --id {task.pk}` cancels it."
        if not self.json:
            self.stdout.write(str(task.pk))
            self.stdout.flush()
        if wait:
            task = self._await(task, wait, follow)
        self._print_result(task, waited=bool(wait))

    def _await(self, task: Task, wait: float, follow: bool) -> Task:
        """Return the task once it has finished. Raises CommandError if it has not after `wait` seconds."""
        end, reports = monotonic() + wait, Reports()
        while True:
            task = services.get(task.pk)
            for text in reports.of(task) if follow else ():
                (self.stderr if self.json else self.stdout).write(text)
                self.stdout.flush()
            if task.is_finished:
                return task
            if monotonic() > end:
                raise CommandError(f"After {wait:g} s it is {task.status}. {self.so_far}")
            sleep(POLL_INTERVAL)

    def _print_result(self, task: Task, *, waited: bool) -> None:
        if self.json:
            self.stdout.write(as_json(render_object(task)))
        elif task.status == Status.SUCCESS:
            self.stdout.write(f"{task.status}: {as_json(task.result)}")
        if waited and task.status != Status.SUCCESS:
            raise CommandError(f"{task.status}: {task.history[-1]['note']}")


class Reports:
    """The new log lines and reports of a task."""

    def __init__(self) -> None:
        self.state: object = None
        self.line = UUID(int=0)

    def of(self, task: Task) -> Iterator[str]:
        for line in task.log_lines().filter(id__gt=self.line):
            self.line = line.pk
            yield f"{format_time(line.at)}  {visible(line.text)}"
        if (state := (task.status, task.attempt, task.progress, task.message)) != self.state:
            self.state = state
            percent = "" if task.progress is None else f"  {task.progress:.0f} %"
            yield f"{format_time(task.changed_at)}  {task.status}{percent}  {visible(task.message)}".rstrip()


def read_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of `services.submit`, checked by the API's rules. Raises InvalidInput."""
    names = ("handler", "priority", "timeout", "max_attempts", "labels", "queue_anyway")
    times = {name: options[name] and options[name].isoformat() for name in ("run_at", "expires_at")}
    body = {name: options[name] for name in names} | times
    body["params"] = {**options["params"], **dict(options["param"])}
    check_json(body, ("body",))
    try:
        return read_body(SubmitSerializer, body)
    except ValidationError as error:
        raise InvalidInput(list(flatten(error.detail, ("body",)))) from None
