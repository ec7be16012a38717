"""Live changes of tasks, for server-sent events: one for each of `tasks.api.event_log`.

Nothing is kept for them: the tasks' documents are the log. `changed_at` grows with every change, by MongoDB's clock, so
one thread in each web server process (the Hub) asks twice a second for what has changed, and hands it to the process's
streams. It runs while there are any.

All events of all tasks have an order, their Key, which is the `id:` on the wire. A stream of the whole fleet is sent
events in that order, once they are SETTLE old: a write becomes visible a moment after the time it carries. So a client
that comes back with the last id it has seen, to whichever process, gets exactly what came after it.
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
from tasks.api.event_log import Event, Key, before, events_of, milliseconds, moment_of, step_of
from tasks.models import Task

if TYPE_CHECKING:
    from tasks.api.event_stream import TaskStream

logger = logging.getLogger(__name__)

POLL = 0.5  # seconds between two looks
SETTLE = 500  # ms after which a write is taken to be visible
OVERLAP = 5000  # ms that each look goes back, for writes that took longer; these come late, and out of order
BACKLOG = 20_000  # tasks that a stream, or the hub, catches up with; of more, the latest
STUCK = 30.0  # seconds a client may take to receive a piece
CHUNK = 200  # documents read in one go


def now() -> int:
    """Return MongoDB's clock in ms. Raises PyMongoError."""
    return milliseconds(stored_now())


def read(ids: Iterable[uuid.UUID]) -> Iterator[Task]:
    """Yield the tasks that there still are, in no order."""
    ids = list(ids)
    for start in range(0, len(ids), CHUNK):
        yield from Task.objects.filter(pk__in=ids[start : start + CHUNK]).order_by()


class Hub:
    """Watches the tasks for all streams of this process, in a thread that runs while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: set[TaskStream] = set()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        #: all events up to this time (ms) have been handed to the streams
        self.frontier = 0
        self._coming = 0  # what the frontier will be once the look under way is over
        self._versions: dict[uuid.UUID, dt.datetime] = {}
        self._published: dict[uuid.UUID, Key] = {}
        self._last = before(0)

    def add(self, stream: TaskStream) -> int:
        """Hand the stream what comes after the frontier that this returns; up to it, it catches up by itself."""
        with self._lock:
            if self._thread is None:
                self.frontier = self._coming = now() - SETTLE
                self._versions, self._published, self._last = {}, {}, before(self.frontier + 1)
                self._thread = threading.Thread(target=self._run, name="events", daemon=True)
                self._thread.start()
            self._streams.add(stream)
            return self._coming

    def discard(self, stream: TaskStream) -> None:
        with self._lock:
            self._streams.discard(stream)
            if not self._streams:
                self._wake.set()

    def join(self) -> None:
        """Wait until the thread has ended, once there are no streams."""
        if thread := self._thread:
            thread.join()

    def _run(self) -> None:
        try:
            while self._goes_on():
                self._look()
                self._wake.wait(POLL)
                self._wake.clear()
        except BaseException:
            with self._lock:  # their clients come back, and with them another thread
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
            stream.cut_if_stuck(1.0 if stream.server_stops() else STUCK)
        return True

    def _look(self) -> None:
        try:
            self.poll()
        except (DatabaseError, PyMongoError) as error:
            logger.warning("Event streams wait for MongoDB: %s", error.__cause__ or error)
            for stream in list(self._streams):
                stream.note("MongoDB cannot be reached; still trying")

    def poll(self) -> None:
        """Hand to each stream what has changed since the last look."""
        frontier = max(self.frontier, now() - SETTLE)
        since = self.frontier - OVERLAP
        with self._lock:  # a stream that is added from here on counts on no more than what is after `frontier`
            self._coming = frontier
            streams = list(self._streams)
        found = Task.objects.changed_since(moment_of(since)).order_by().values_list("pk", "changed_at")
        versions = dict(found[: BACKLOG + 1])
        if len(versions) > BACKLOG:  # after a long outage: the streams catch up by themselves
            for stream in streams:
                stream.end()
            versions = {}
        wanted = versions.keys() if any(s.task is None for s in streams) else {s.task for s in streams if s.task}
        changed = [pk for pk in versions.keys() & wanted if self._versions.get(pk) != versions[pk]]
        self._hand_out([(task, events_of(task)) for task in read(changed)], since, frontier)
        self._versions = {pk: at for pk, at in self._versions.items() if pk in versions}
        self._published = {pk: key for pk, key in self._published.items() if pk in versions}

    def _hand_out(self, changed: Sequence[tuple[Task, list[Event]]], since: int, frontier: int) -> None:
        settled = [event for task, events in changed for event in self._settled(task, events, since, frontier)]
        settled.sort(key=lambda event: event.key)
        for event in settled:  # one that comes late is sent under the id of the one before, as ids only grow
            self._last = event.id = max(self._last, event.key)
        of_task = {task.pk: events for task, events in changed}
        with self._lock:
            for stream in self._streams:
                if events := settled if stream.task is None else of_task.get(stream.task):
                    stream.hand(events)
            self.frontier = frontier

    def _settled(self, task: Task, events: Sequence[Event], since: int, frontier: int) -> list[Event]:
        """Return those of the task's events that are now to be handed out, and note that they were."""
        last = self._published.get(task.pk)
        new = [e for e in events if (step_of(e.key) > step_of(last) if last else e.key.at >= since)]
        ripe = [event for event in new if event.key.at <= frontier]
        if ripe:
            self._published[task.pk] = ripe[-1].key
        if len(ripe) == len(new):
            self._versions[task.pk] = task.changed_at
        return ripe


hub = Hub()
