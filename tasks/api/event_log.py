"""The events of a task, derived from its document: one for each line of its history and for each report; and those of
a robot, derived from its state: one when what people should know of it has changed.

All events of all tasks and robots have one order, their Key, which is an event's `id:` on the wire.
"""

import copy
import datetime as dt
import hashlib
import re
import uuid
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from fmv.http.sse import message
from fmv.mongodb.counting import collection
from fmv.mongodb.documents import Document
from robots import rendering
from robots.models import RobotState
from tasks.api.rendering import render_object
from tasks.models import Task

ID = re.compile(r"([0-9]{1,15})-([0-9a-f]{32})-([0-9]{1,9})", re.ASCII)


class Key(NamedTuple):
    """The place of an event among all others: time in ms, the task's id in hex, and the step in the task's life.

    Step 2n is the n-th line of the history, from 0. Step 2n + 1 is a report after that line; there may be several.
    Of a robot's event `task` is a digest of its name, and the step is 1.
    """

    at: int
    task: str
    step: int

    def __str__(self) -> str:
        return f"{self.at}-{self.task}-{self.step}"


def parse_id(text: str) -> Key:
    """Parse the text of a Key. Raises ValueError."""
    match = ID.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return Key(int(match[1]), match[2], int(match[3]))


def before(ms: int) -> Key:
    """Return a Key that precedes all events of this millisecond."""
    return Key(ms, "0" * 32, 0)


def position(key: Key, line: bytes) -> bytes:
    """Return a message without an event that advances the client's last id to `key`; `line` is sent with it."""
    return b"%sid: %s\n\n" % (line, str(key).encode())


def milliseconds(time: dt.datetime) -> int:
    return round(time.timestamp() * 1000)


def time_at(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)


def keys_of(id: uuid.UUID, stored_at: dt.datetime, changed_at: dt.datetime, history: Sequence[Any]) -> list[Key]:
    """Return the keys of all events in a task's document. The last is the task's current state."""
    times = [stored_at, *(line["at"] for line in history[1:])]
    keys = [Key(milliseconds(at), id.hex, 2 * number) for number, at in enumerate(times)]
    if len(history) > 1 and changed_at > times[-1]:
        keys.append(Key(milliseconds(changed_at), id.hex, 2 * len(history) - 1))
    return keys


def as_of(task: Task, step: int) -> Task:
    """Return the task as it was at that step; values that its document no longer holds are empty."""
    lines = task.history[: step // 2 + 1]
    if len(lines) == len(task.history):
        return task
    past = copy.copy(task)
    past.history = lines
    past.status, past.attempt = lines[-1]["status"], lines[-1]["attempt"]
    past.progress, past.message, past.result, past.error = None, "", None, None
    past.run_at = past.finished_at = past.out_of_contact_since = None
    if past.attempt != task.attempt or not past.attempt:
        past.worker, past.started_at = "", None
    return past


class Event:
    """A step of a task's life. Its data is rendered once, by the first stream that sends it."""

    def __init__(self, key: Key, task: Task) -> None:
        self.key = key
        self.id = key  # the id under which a stream of all tasks sends it
        self.task = as_of(task, key.step)
        self.robot: str = task.robot
        self.status: str | None = self.task.status

    @cached_property
    def data(self) -> bytes:
        return orjson.dumps(render_object(self.task))

    def render(self, id: Key) -> bytes:
        return message("task", self.data, id)


class RobotEvent:
    """A change of a robot's state. Its data is the state as it is when it is read."""

    status = None

    def __init__(self, state: Document) -> None:
        self.robot: str = state["_id"]
        digest = hashlib.blake2b(self.robot.encode(), digest_size=16).hexdigest()
        self.key = self.id = Key(milliseconds(state["changed_at"].replace(tzinfo=dt.UTC)), digest, 1)
        self._state = state

    @cached_property
    def data(self) -> bytes:
        return orjson.dumps({"name": self.robot, "state": rendering.state(self._state)})

    def render(self, id: Key) -> bytes:
        return message("robot", self.data, id)


def robot_events(since: int, at_most: int) -> Iterator[RobotEvent]:
    """Yield the events of the robots whose state has changed since then (ms)."""
    criteria = RobotState.objects.changed_since(time_at(since)).criteria()
    return map(RobotEvent, collection(RobotState).find(criteria, limit=at_most))


def events_of(task: Task) -> list[Event]:
    keys = keys_of(task.pk, task.stored_at, task.changed_at, task.history)
    return [Event(key, task) for key in keys]


def missed(task: Task, after: Key | None) -> list[Event]:
    """Return the task's events after `after`; with None only the last event, the task's current state."""
    events = events_of(task)
    return events[-1:] if after is None else [event for event in events if step_of(event.key) > step_of(after)]


def step_of(key: Key) -> tuple[int, int]:
    """Return a sort key for the events of one task that does not depend on clocks, except among reports of one step."""
    return key.step, key.at if key.step % 2 else 0
