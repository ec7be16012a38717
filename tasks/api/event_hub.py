"""Finds the changes of tasks and robots and hands them to the event streams of this process.

No events are stored: the documents of tasks and of robots' states are the log (see `tasks.api.event_log`). `changed_at`
grows with every change, by MongoDB's clock. One thread in each web server process, the hub, asks twice a second which
have changed and hands their events to the process's streams. The thread runs while there are streams.

All events of all tasks have one order, their Key, which is the `id:` on the wire. A stream of all tasks gets them in
that order, once they are older than VISIBILITY_DELAY, because a write becomes visible a moment after the time it
carries. So a client that reconnects with the last id it received, to any process, gets exactly the events after it.
"""

from __future__ import annotations

import datetime as dt
import logging
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from django.db import DatabaseError
from pymongo.errors import PyMongoError

from fmv.mongodb.server import stored_now
from tasks.api.event_log import (
    Event,
    Key,
    RobotEvent,
    before,
    events_of,
    milliseconds,
    robot_events,
    step_of,
    time_at,
)
from tasks.models import Task

if TYPE_CHECKING:
    from tasks.api.event_stream import TaskStream

logger = logging.getLogger(__name__)

POLL_INTERVAL = 0.5  # seconds
VISIBILITY_DELAY = 500  # ms until a write is assumed to be visible to reads
OVERLAP = 5000  # ms that each poll reaches back for slower writes; their events are sent late and out of order
MAX_BACKLOG = 20_000  # changed tasks that a stream or the hub catches up with; of more, the latest
SEND_TIMEOUT = 30.0  # seconds a client may take to receive a piece; then it is disconnected
READ_CHUNK = 200  # documents read by one query


def now() -> int:
    """Return the time of MongoDB's clock in ms. Raises PyMongoError."""
    return milliseconds(stored_now())


def read(ids: Iterable[uuid.UUID]) -> Iterator[Task]:
    """Yield those of the tasks that still exist, in any order."""
    ids = list(ids)
    for start in range(0, len(ids), READ_CHUNK):
        yield from Task.objects.filter(pk__in=ids[start : start + READ_CHUNK]).order_by()


class Hub:
    """Polls MongoDB for changed tasks on behalf of all streams of this process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: set[TaskStream] = set()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        #: all events up to this time (ms) have been handed to the streams
        self.watermark = 0
        self._next_watermark = 0  # the watermark after the current poll
        self._versions: dict[uuid.UUID, dt.datetime] = {}
        self._published: dict[uuid.UUID, Key] = {}
        self._published_robots: set[Key] = set()
        self._last = before(0)

    def add(self, stream: TaskStream) -> int:
        """Register the stream for the events after the returned watermark; it reads the earlier ones itself."""
        with self._lock:
            if self._thread is None:
                self._reset(now() - VISIBILITY_DELAY)
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
            self._streams.add(stream)
            return self._next_watermark

    def _reset(self, watermark: int) -> None:
        self.watermark = self._next_watermark = watermark
        self._versions, self._published, self._last = {}, {}, before(watermark + 1)
        self._published_robots = set()

    def _begin_again(self, watermark: int) -> None:
        """End all streams, because MongoDB's clock was put back; their clients reconnect and get what changes now."""
        with self._lock:
            self._reset(watermark)
            for stream in self._streams:
                stream.end()

    def discard(self, stream: TaskStream) -> None:
        with self._lock:
            self._streams.discard(stream)
            if not self._streams:
                self._wake.set()

    def join(self) -> None:
        """Wait for the end of the thread, which comes when there are no streams."""
        if thread := self._thread:
            thread.join()

    def _run(self) -> None:
        try:
            while self._goes_on():
                self._try_to_poll()
                self._wake.wait(POLL_INTERVAL)
                self._wake.clear()
        except BaseException:
            with self._lock:  # their clients reconnect, and that starts another thread
                self._thread = None
                streams, self._streams = self._streams, set()
            for stream in streams:
                stream.end()
            raise

    def _goes_on(self) -> bool:
        with self._lock:
            if not self._streams:
                self._thread = None
                return False
            streams = list(self._streams)
        for stream in streams:
            stream.cut_if_stuck(1.0 if stream.server_is_stopping() else SEND_TIMEOUT)
        return True

    def _try_to_poll(self) -> None:
        try:
            self.poll()
        except (DatabaseError, PyMongoError) as error:
            logger.warning("Event streams wait for MongoDB: %s", error.__cause__ or error)
            for stream in list(self._streams):
                stream.note("MongoDB cannot be reached; still trying")

    def poll(self) -> None:
        """Hand to each stream the events since the last poll."""
        visible = now() - VISIBILITY_DELAY
        if visible < self.watermark - OVERLAP:
            self._begin_again(visible)
            return
        watermark = max(self.watermark, visible)
        since = self.watermark - OVERLAP
        with self._lock:  # a stream added from here on relies only on events after `watermark`
            self._next_watermark = watermark
            streams = list(self._streams)
        found = Task.objects.changed_since(time_at(since)).order_by().values_list("pk", "changed_at")
        versions = dict(found[: MAX_BACKLOG + 1])
        if len(versions) > MAX_BACKLOG:  # after a long outage: clients reconnect, and their streams catch up
            for stream in streams:
                stream.end()
            versions = {}
        of_all = any(stream.task is None for stream in streams)
        wanted = versions.keys() if of_all else {s.task for s in streams if s.task}
        changed = [pk for pk in versions.keys() & wanted if self._versions.get(pk) != versions[pk]]
        tasks = [(task, events_of(task)) for task in read(changed)]
        robots = self._visible_robots(since, watermark) if of_all else []
        self._hand_out(tasks, robots, since, watermark)
        self._versions = {pk: at for pk, at in self._versions.items() if pk in versions}
        self._published = {pk: key for pk, key in self._published.items() if pk in versions}

    def _visible_robots(self, since: int, watermark: int) -> list[RobotEvent]:
        """Return the events of robots that are new and visible, and record that they were handed out."""
        visible = [event for event in robot_events(since, MAX_BACKLOG) if event.key.at <= watermark]
        before, self._published_robots = self._published_robots, {event.key for event in visible}
        return [event for event in visible if event.key not in before]

    def _hand_out(
        self, changed: Sequence[tuple[Task, list[Event]]], robots: Sequence[RobotEvent], since: int, watermark: int
    ) -> None:
        visible: list[Event | RobotEvent] = [
            event for task, events in changed for event in self._visible(task, events, since, watermark)
        ]
        visible += robots
        visible.sort(key=lambda event: event.key)
        for event in visible:  # ids only grow: a late event gets the id of the one before it
            self._last = event.id = max(self._last, event.key)
        of_task = {task.pk: events for task, events in changed}
        with self._lock:
            for stream in self._streams:
                if events := visible if stream.task is None else of_task.get(stream.task):
                    stream.hand(events)
            self.watermark = watermark

    def _visible(self, task: Task, events: Sequence[Event], since: int, watermark: int) -> list[Event]:
        """Return the task's events that are new and visible, and record that they were handed out."""
        last = self._published.get(task.pk)
        new = [e for e in events if (step_of(e.key) > step_of(last) if last else e.key.at >= since)]
        due = [event for event in new if event.key.at <= watermark]
        if due:
            self._published[task.pk] = due[-1].key
        if len(due) == len(new):
            self._versions[task.pk] = task.changed_at
        return due


hub = Hub()
