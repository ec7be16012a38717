"""What happened to a task, as its document tells: one event for each line of its history and each report.

All events of all tasks have an order, their Key, which is the `id:` of an event on the wire.
"""

import copy
import datetime as dt
import re
import uuid
from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from fmv.http.sse import message
from tasks.api.rendering import render_object
from tasks.models import Task

ID = re.compile(r"([0-9]{1,15})-([0-9a-f]{32})-([0-9]{1,9})", re.ASCII)


class Key(NamedTuple):
    """Where an event stands among all others: time in ms, its task's id in hex, and its step in that task's life.

    Step 2n is the n-th line of history, from 0; step 2n + 1 is a report after it, of which there may be several.
    """

    at: int
    task: str
    step: int

    def __str__(self) -> str:
        return f"{self.at}-{self.task}-{self.step}"


def parse_id(text: str) -> Key:
    """Return the Key whose text this is. Raises ValueError."""
    match = ID.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return Key(int(match[1]), match[2], int(match[3]))


def before(moment: int) -> Key:
    """Return the Key that comes before all of this millisecond."""
    return Key(moment, "0" * 32, 0)


def position(key: Key, line: bytes) -> bytes:
    """Return what lets a client remember that it has seen all up to `key`, without an event; `line` goes with it."""
    return b"%sid: %s\n\n" % (line, str(key).encode())


def milliseconds(moment: dt.datetime) -> int:
    return round(moment.timestamp() * 1000)


def moment_of(ms: int) -> dt.datetime:
    return dt.datetime.fromtimestamp(ms / 1000, dt.UTC)


def keys_of(id: uuid.UUID, stored_at: dt.datetime, changed_at: dt.datetime, history: Sequence[Any]) -> list[Key]:
    """Return the keys of all events that a task's document tells of. The last is the task as it is now."""
    times = [stored_at, *(line["at"] for line in history[1:])]
    keys = [Key(milliseconds(at), id.hex, 2 * number) for number, at in enumerate(times)]
    if len(history) > 1 and changed_at > times[-1]:
        keys.append(Key(milliseconds(changed_at), id.hex, 2 * len(history) - 1))
    return keys


def as_of(task: Task, step: int) -> Task:
    """Return the task as it was at that step, as far as its document still tells; the rest is empty."""
    lines = task.history[: step // 2 + 1]
    if len(lines) == len(task.history):
        return task
    past = copy.copy(task)
    past.history = lines
    past.status, past.attempt = lines[-1]["status"], lines[-1]["attempt"]
    past.progress, past.message, past.result, past.error = None, "", None, None
    past.run_at = past.finished_at = None
    if past.attempt != task.attempt or not past.attempt:
        past.worker, past.started_at = "", None
    return past


class Event:
    """A step of a task's life; it is rendered once, by the first stream that sends it."""

    def __init__(self, key: Key, task: Task) -> None:
        self.key = key
        self.id = key  # under which a stream of many tasks sends it
        self.task = as_of(task, key.step)

    @cached_property
    def data(self) -> bytes:
        return orjson.dumps(render_object(self.task))

    def render(self, id: Key) -> bytes:
        return message("task", self.data, id)


def events_of(task: Task) -> list[Event]:
    keys = keys_of(task.pk, task.stored_at, task.changed_at, task.history)
    return [Event(key, task) for key in keys]


def missed(task: Task, after: Key | None) -> list[Event]:
    """Return the task's events after that one; without one the last event, which is the task as it is now."""
    events = events_of(task)
    return events[-1:] if after is None else [event for event in events if step_of(event.key) > step_of(after)]


def step_of(key: Key) -> tuple[int, int]:
    """What orders the events of one task, whatever the clocks did: only reports share a step."""
    return key.step, key.at if key.step % 2 else 0
