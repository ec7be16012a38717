"""What tests of the queue look at it with: doorbells that rang, commands that went to MongoDB, races in threads."""

import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import kombu.pools
from django.db import connection
from kombu.exceptions import ChannelError
from kombu.transport.memory import Channel, Transport
from pymongo.monitoring import CommandListener, CommandStartedEvent, CommandSucceededEvent

from fmv.celery import app
from fmv.mongodb.server import server_now
from fmv.publisher import publisher
from robots.models import Robot
from tasks.models import Status, Task
from tasks.queue import periodic
from tasks.worker.claim import Turn
from tasks.worker.lease import LEASE_GRACE
from tests.support.factories import make_task

PAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
FUTURE = dt.datetime(2120, 1, 1, tzinfo=dt.UTC)
LEASE = 30.0


# --- Tasks -----------------------------------------------------------------------------------------------------------

STARTED = {
    "attempt": 1,
    "worker": "host/1",
    "message_id": "message",
    "started_at": PAST,
    "lease_expires_at": FUTURE,
    "progress": 10.0,
    "message": "under way",
}
#: how a task in each status looks
FIELDS: dict[str, dict[str, Any]] = {
    Status.SCHEDULED: {"run_at": PAST},
    Status.QUEUED: {},
    Status.STARTED: STARTED,
    Status.RETRY: {"attempt": 1, "run_at": PAST, "error": {"type": "E", "message": "m", "traceback": ""}},
    Status.SUCCESS: {"attempt": 1, "finished_at": PAST, "result": 1},
    Status.FAILURE: {"attempt": 1, "finished_at": PAST, "error": {"type": "E", "message": "m", "traceback": ""}},
    Status.REVOKED: {"finished_at": PAST},
}


def make_task_in(status: str, **fields: Any) -> Task:
    """Store a task as it looks in this status, with two lines of history."""
    robot = fields.pop("robot", None) or f"robot of {status}"
    lane = f"{robot}/0" if status == Status.STARTED else None
    history = [line("QUEUED", 0), line(status, FIELDS[status].get("attempt", 0))]
    return make_task(
        **{"robot": robot, "status": status, "lane": lane, "history": history, "max_attempts": 3}
        | FIELDS[status]
        | fields
    )


def line(status: str, attempt: int, note: str = "") -> dict[str, Any]:
    return {"at": PAST, "status": str(status), "attempt": attempt, "note": note}


def fields_of(task: Task) -> dict[str, Any]:
    """All of the task's fields, as they are stored now."""
    stored = Task.objects.get(pk=task.pk)
    return {field.attname: getattr(stored, field.attname) for field in Task._meta.fields}


def changes(task: Task, act: Callable[[], object]) -> dict[str, Any]:
    """What `act` changed of the stored task: the new values."""
    before = fields_of(task)
    act()
    return {name: value for name, value in fields_of(task).items() if value != before[name]}


def claim(robot: str, *, lane: int = 0, worker: str = "host/1", message_id: str = "message") -> Task | None:
    """Start the robot's next task on this lane, as a worker does that nobody outruns."""
    task = next(iter(Task.look(robot)[1]), None)
    owner = {"lane": f"{robot}/{lane}", "worker": worker, "message_id": message_id}
    return task if task and task.start(**owner, lease=LEASE, grace=LEASE_GRACE) else None


def take(robot: Robot, message_id: str = "message") -> Task | None:
    """Start the robot's next task as a worker's process does that gets a message."""
    return Turn(robot.name, message_id).claim()


def started(**fields: Any) -> Task:
    """Store a task and start it as a worker does."""
    task = make_task(**{"max_attempts": 3} | fields)
    claimed = claim(task.robot)
    assert claimed is not None
    assert claimed.pk == task.pk
    return claimed


def statuses(task: Task) -> list[str]:
    """The task's way, by its history."""
    return [entry["status"] for entry in Task.objects.get(pk=task.pk).history]


@contextmanager
def a_lease_later(seconds: float = LEASE + 1) -> Iterator[None]:
    """Let the sweeper see the leases of all started tasks; meanwhile its own clock is that much ahead."""
    periodic._sights.clear()
    assert periodic.recover_lost() == {}
    ahead = SimpleNamespace(monotonic=lambda: time.monotonic() + seconds)
    with patch.object(periodic, "time", ahead):
        yield


def pid_in(worker: str) -> int:
    """The pid in the name of a worker's process."""
    return int(worker.rpartition("/")[2].partition("-")[0])


# --- Doorbells -------------------------------------------------------------------------------------------------------


@contextmanager
def recorded_bells() -> Iterator[Callable[[], list[tuple[str, str, int]]]]:
    """Send messages to a broker in this process; yields what takes them out: (task, argument, priority) of each."""

    def taken() -> list[tuple[str, str, int]]:
        messages = []
        publisher.flush()
        with app.connection_for_read() as broker:
            for queue in ("work", "maintenance"):
                try:
                    while message := broker.default_channel.basic_get(queue, no_ack=True):
                        args = message.decode()[0]
                        messages.append(
                            (message.headers["task"], args[0] if args else "", message.properties["priority"])
                        )
                except ChannelError:
                    continue  # nobody has rung yet
        return messages

    with using_broker("memory://localhost"):
        try:
            yield taken
        finally:
            publisher.flush()
            Channel.queues.clear()
            Transport.global_state.clear()


@contextmanager
def using_broker(url: str) -> Iterator[str]:
    """Let this process send its messages to another broker."""
    before = app.conf.broker_url
    _set_broker(url)
    try:
        yield url
    finally:
        _set_broker(before)


def _set_broker(url: str) -> None:
    publisher.disconnect()
    kombu.pools.reset()
    app.amqp._producer_pool = app._pool = None
    app.conf.broker_url = url


# --- MongoDB's side --------------------------------------------------------------------------------------------------


class Commands(CommandListener):
    """Commands in order: "update tasks_task". Readings of the server's clock are counted apart."""

    def __init__(self, react: Callable[[str], object] = lambda command: None) -> None:
        self.sent: list[str] = []
        self.clock_readings = 0
        self.bodies: list[Any] = []
        self.answers: list[Any] = []
        self._react = react

    def started(self, event: CommandStartedEvent) -> None:
        self.clock_readings += event.command_name == "hello"
        if event.command and event.command_name not in ("hello", "endSessions", "killCursors"):  # empty: a sign-in
            self.sent.append(f"{event.command_name} {event.command[event.command_name]}")
            self.bodies.append(event.command)
            self._react(self.sent[-1])

    def succeeded(self, event: CommandSucceededEvent) -> None:
        self.answers.append(event.reply)

    def failed(self, event: object) -> None:
        pass


@contextmanager
def listening(react: Callable[[str], object] = lambda command: None) -> Iterator[Commands]:
    """Yield the commands that this process sends to MongoDB meanwhile; `react` is called before each is sent."""
    commands, options = Commands(react), connection.settings_dict["OPTIONS"]
    connection.close_pool()
    connection.settings_dict["OPTIONS"] = options | {"event_listeners": [commands]}
    try:
        connection.ensure_connection()
        server_now()
        commands.clock_readings = 0
        yield commands
    finally:
        connection.close_pool()
        connection.settings_dict["OPTIONS"] = options


def before_nth(number: int, command: str, act: Callable[[], object]) -> Callable[[str], None]:
    """Return what calls `act` before a command is sent for the nth time: `listening(before_nth(2, "update x", act))`.

    PyMongo lets only a BaseException that is no Exception out of it.
    """
    countdown = iter(range(number - 1, -1, -1))

    def react(sent: str) -> None:
        if sent.startswith(command) and next(countdown, None) == 0:
            act()

    return react


# --- Races -----------------------------------------------------------------------------------------------------------


def at_once(*functions: Callable[[], Any]) -> list[Any]:
    """Call each in a thread of its own, all at the same moment; return what they return, in order."""
    gate = threading.Barrier(len(functions))
    results: list[Any] = [None] * len(functions)
    errors: list[BaseException] = []

    def call(number: int, function: Callable[[], Any]) -> None:
        try:
            gate.wait(10)
            results[number] = function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results
