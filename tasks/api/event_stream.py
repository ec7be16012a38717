"""The streams of the event routes: the events of one task, or those of all tasks and robots."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from queue import Empty, SimpleQueue

import orjson
from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest
from pymongo.errors import PyMongoError

from fmv.http.sse import Stream, comment, message
from tasks.api.event_hub import MAX_BACKLOG, OVERLAP, hub, now, read
from tasks.api.event_log import (
    Event,
    Key,
    RobotEvent,
    before,
    keys_of,
    milliseconds,
    missed,
    position,
    robot_events,
    step_of,
    time_at,
)
from tasks.models import Task
from tasks.queue import services

logger = logging.getLogger(__name__)

StillAllowed = Callable[[], bool]
AnyEvent = Event | RobotEvent

CLOCK_TOLERANCE = 100  # ms by which our estimate of MongoDB's clock may be wrong; a new stream starts this much earlier
MAX_REPLAY = 3600_000  # ms that a stream goes back; for older events it reports a gap
MAX_STREAM_AGE = 3600.0  # seconds; then the stream ends and its client reconnects
MAX_WAITING = 8 * 1024 * 1024  # bytes of events that wait in memory for one client
DOCUMENTS_READ = 20  # at a time, to catch up: each may be large, and a slow client holds them long
PIECE_SIZE = 64 * 1024  # bytes in one send; the last event may exceed it
RETRY_HINT = b"retry: 2000\n"  # ms a client waits before it reconnects


class TaskStream(Stream):
    """Sends events as they come, and regular comments. Ends when the caller is no longer allowed to read.

    Raises TooManyStreams; PyMongoError if MongoDB cannot be reached at the start. Later it waits for MongoDB.
    """

    task: uuid.UUID | None = None  # None: all tasks

    def __init__(self, request: HttpRequest, still_allowed: StillAllowed) -> None:
        self._still_allowed = still_allowed
        self._ends_at = time.monotonic() + MAX_STREAM_AGE
        self._inbox: SimpleQueue[Sequence[AnyEvent] | bytes | None] = SimpleQueue()
        self._handed = self._taken = 0
        super().__init__(request)
        try:
            self._begin(hub.add(self))
        except BaseException:
            self.close()
            raise

    def _begin(self, watermark: int) -> None:
        raise NotImplementedError

    def _first_pieces(self) -> Iterator[bytes]:
        raise NotImplementedError

    def _render(self, events: Sequence[AnyEvent]) -> Iterator[bytes]:
        """Yield the events that this stream sends."""
        raise NotImplementedError

    def _may_send(self, event: AnyEvent) -> bool:
        """Return False for an event that `_render` would leave out. The hub asks this, in its own thread."""
        raise NotImplementedError

    def _comment(self) -> bytes:
        return comment("still here")

    # Called by the hub and the server.

    def hand(self, events: Sequence[AnyEvent]) -> None:
        """Queue these events. If more than MAX_WAITING bytes wait, the stream ends; its client reconnects for them."""
        if not (events := [event for event in events if self._may_send(event)]):
            return
        self._handed += sum(len(event.data) for event in events)
        self._inbox.put(events if self._handed - self._taken <= MAX_WAITING else None)

    def note(self, text: str) -> None:
        self._inbox.put(comment(text))

    def end(self) -> None:
        self._inbox.put(None)

    def close(self) -> None:
        hub.discard(self)
        super().close()

    # Runs in the stream's own thread.

    def pieces(self) -> Iterator[bytes]:
        try:
            yield from self._first_pieces()
        except (DatabaseError, PyMongoError) as error:
            logger.warning("An event stream ends because MongoDB failed: %s", error.__cause__ or error)
            return
        yield from self._live_pieces()

    def _live_pieces(self) -> Iterator[bytes]:
        comment_at = time.monotonic() + settings.ENVIRONMENT.stream_comment_seconds
        while not self._is_over():
            if time.monotonic() >= comment_at:
                yield self._comment()
                if not self._still_allowed():
                    return
                comment_at = time.monotonic() + settings.ENVIRONMENT.stream_comment_seconds
            try:
                item = self._inbox.get(timeout=max(0.0, comment_at - time.monotonic()))
            except Empty:
                continue
            if item is None:
                return
            if isinstance(item, bytes):
                yield item
            else:
                yield from packed(self._render(item))
                self._taken += sum(len(event.data) for event in item)

    def _is_over(self) -> bool:
        return self.server_is_stopping() or time.monotonic() >= self._ends_at


def packed(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Join parts to pieces of about PIECE_SIZE bytes."""
    piece = bytearray()
    for part in parts:
        piece += part
        if len(piece) >= PIECE_SIZE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


class OneTask(TaskStream):
    """A task in its current state, or its events after `after`; then its events until it is finished."""

    def __init__(
        self, request: HttpRequest, task_id: uuid.UUID, after: Key | None, *, still_allowed: StillAllowed
    ) -> None:
        self.task = task_id
        self._last = after
        self._finished = False
        super().__init__(request, still_allowed)

    def _begin(self, watermark: int) -> None:
        self._first = missed(services.get(self.task), self._last)

    def _first_pieces(self) -> Iterator[bytes]:
        yield from packed([RETRY_HINT + b"\n", *self._render(self._first)])

    def _render(self, events: Sequence[AnyEvent]) -> Iterator[bytes]:
        for event in events:
            if isinstance(event, Event) and self._may_send(event):
                self._last, self._finished = event.key, event.task.is_finished
                yield event.render(event.key)

    def _may_send(self, event: AnyEvent) -> bool:
        return self._last is None or step_of(event.key) > step_of(self._last)

    def _is_over(self) -> bool:
        return self._finished or super()._is_over()


class AllTasks(TaskStream):
    """Events of all tasks and robots, or of some robots and their tasks, or of tasks that enter some statuses; from now
    on, or after `after`.
    """

    def __init__(
        self,
        request: HttpRequest,
        after: Key | None,
        robots: Collection[str] = (),
        statuses: Collection[str] = (),
        *,
        still_allowed: StillAllowed,
    ) -> None:
        self._after = after
        self._robots, self._statuses = frozenset(robots), frozenset(statuses)
        self._caught_up: set[Key] = set()
        self._past_robots: dict[Key, RobotEvent] = {}
        super().__init__(request, still_allowed)

    def _begin(self, watermark: int) -> None:
        self._watermark = watermark
        # Another process may be slightly ahead of this one. If it is far ahead, the clock was set back.
        if self._after and self._after.at <= watermark + OVERLAP:
            self._start = self._after
        else:
            self._start = before(now() - CLOCK_TOLERANCE)

    def _render(self, events: Sequence[AnyEvent]) -> Iterator[bytes]:
        return (event.render(event.id) for event in events if self._wants(event))

    def _wants(self, event: AnyEvent) -> bool:
        return self._start < event.key not in self._caught_up

    def _may_send(self, event: AnyEvent) -> bool:
        return self._has_wanted_status(event.status) and (not self._robots or event.robot in self._robots)

    def _has_wanted_status(self, status: str | None) -> bool:
        return not self._statuses or status in self._statuses

    def _comment(self) -> bytes:
        handed_out = before(hub.watermark + 1)  # read first: what is not sent yet is later than this, or in the inbox
        text = super()._comment()
        return position(max(self._start, handed_out), text.removesuffix(b"\n")) if self._inbox.empty() else text

    # Catching up.

    def _first_pieces(self) -> Iterator[bytes]:
        yield position(self._start, RETRY_HINT)
        if self._start.at > self._watermark:
            return
        doubtful = min(hub.watermark, self._watermark) - 2 * OVERLAP  # the hub may hand out later events a second time
        keys, complete_from = self._backlog()
        if complete_from > self._start.at:
            text = time_at(complete_from).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            yield message("gap", orjson.dumps({"before": text}), before(complete_from))
        self._caught_up = {key for key in keys if key.at > doubtful}
        for start in range(0, len(keys), DOCUMENTS_READ):
            if self.server_is_stopping():
                return
            yield from packed(self._past_events(keys[start : start + DOCUMENTS_READ]))

    def _backlog(self) -> tuple[list[Key], int]:
        """Return the keys of the events to catch up with, in order, and the time (ms) from which they are complete."""
        since = max(self._start.at, self._watermark - MAX_REPLAY)
        found = Task.objects.changed_since(time_at(since)).latest_changes_first()
        if self._robots:
            found = found.filter(robot__in=self._robots)
        rows = list(found.values_list("pk", "stored_at", "changed_at", "history")[: MAX_BACKLOG + 1])
        if len(rows) > MAX_BACKLOG:
            since = milliseconds(rows.pop()[2]) + 1
        keys = [
            key
            for row in rows
            for key in keys_of(*row)
            if self._start < key and since <= key.at <= self._watermark
            and (not row[3] or self._has_wanted_status(row[3][key.step // 2]["status"]))
        ]  # fmt: skip
        self._past_robots = {
            event.key: event
            for event in robot_events(since, MAX_BACKLOG)
            if self._start < event.key and event.key.at <= self._watermark and self._may_send(event)
        }
        return sorted([*keys, *self._past_robots]), since

    def _past_events(self, keys: Sequence[Key]) -> Iterator[bytes]:
        ids = {uuid.UUID(key.task) for key in keys if key not in self._past_robots}
        tasks = {task.pk.hex: task for task in read(ids)}
        for key in keys:
            if robot := self._past_robots.get(key):
                yield robot.render(key)
            elif task := tasks.get(key.task):
                yield Event(key, task).render(key)
