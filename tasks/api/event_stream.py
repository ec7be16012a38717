"""What one client of the event routes is sent: a task's events, or those of all tasks."""

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
from tasks.api.event_hub import BACKLOG, CHUNK, OVERLAP, hub, now, read
from tasks.api.event_log import Event, Key, before, keys_of, milliseconds, missed, moment_of, position, step_of
from tasks.models import Task
from tasks.queue import services

logger = logging.getLogger(__name__)

IsLetIn = Callable[[], bool]

NOW = 100  # ms that "now" reaches back, as our idea of MongoDB's clock may be wrong by as much
BACK = 3600_000  # ms that an id may be old; of what was before, a stream says that it is missing
LIFE = 3600.0  # seconds until a stream ends and its client comes back
WAITING = 20_000  # events that may wait for a client
PIECE = 64 * 1024  # bytes sent in one go, and at most one event more
RETRY_HINT = b"retry: 2000\n"  # ms a client waits before it comes back


class TaskStream(Stream):
    """Sends events as they come, and a comment every so often; ends when the caller is no longer let in.

    Raises TooManyStreams, and PyMongoError when MongoDB cannot be reached at its beginning; later it waits for it.
    """

    task: uuid.UUID | None = None  # the only one it is about

    def __init__(self, request: HttpRequest, is_let_in: IsLetIn) -> None:
        self._is_let_in = is_let_in
        self._ends_at = time.monotonic() + LIFE
        self._inbox: SimpleQueue[Sequence[Event] | bytes | None] = SimpleQueue()
        self._handed = self._taken = 0
        super().__init__(request)
        try:
            self._begin(hub.add(self))
        except BaseException:
            self.close()
            raise

    def _begin(self, frontier: int) -> None:
        raise NotImplementedError

    def _first_pieces(self) -> Iterator[bytes]:
        raise NotImplementedError

    def _render(self, events: Sequence[Event]) -> Iterator[bytes]:
        """Yield those of the events that this stream is to send."""
        raise NotImplementedError

    def _comment(self) -> bytes:
        return comment("still here")

    # What the hub and the server call.

    def hand(self, events: Sequence[Event]) -> None:
        """Let it send these, unless too many wait already: then it ends, and its client comes back for them."""
        self._handed += len(events)
        self._inbox.put(events if self._handed - self._taken <= WAITING else None)

    def note(self, text: str) -> None:
        self._inbox.put(comment(text))

    def end(self) -> None:
        self._inbox.put(None)

    def close(self) -> None:
        hub.discard(self)
        super().close()

    # What its own thread does.

    def pieces(self) -> Iterator[bytes]:
        try:
            yield from self._first_pieces()
        except (DatabaseError, PyMongoError) as error:
            logger.warning("An event stream ends, MongoDB fails: %s", error.__cause__ or error)
            return
        yield from self._live_pieces()

    def _live_pieces(self) -> Iterator[bytes]:
        comment_at = time.monotonic() + settings.FMV_STREAM_COMMENT_SECONDS
        while not self._is_over():
            if time.monotonic() >= comment_at:
                yield self._comment()
                if not self._is_let_in():
                    return
                comment_at = time.monotonic() + settings.FMV_STREAM_COMMENT_SECONDS
            try:
                item = self._inbox.get(timeout=max(0.0, comment_at - time.monotonic()))
            except Empty:
                continue
            if item is None:
                return
            if isinstance(item, bytes):
                yield item
            else:
                self._taken += len(item)
                yield from packed(self._render(item))

    def _is_over(self) -> bool:
        return self.server_stops() or time.monotonic() >= self._ends_at


def packed(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the parts, several in one piece of about PIECE bytes."""
    piece = bytearray()
    for part in parts:
        piece += part
        if len(piece) >= PIECE:
            yield bytes(piece)
            piece.clear()
    if piece:
        yield bytes(piece)


class OneTask(TaskStream):
    """A task as it is now, or what happened to it after `after`, and then its life to its end."""

    def __init__(self, request: HttpRequest, task_id: uuid.UUID, after: Key | None, *, is_let_in: IsLetIn) -> None:
        self.task = task_id
        self._last = after
        self._finished = False
        super().__init__(request, is_let_in)

    def _begin(self, frontier: int) -> None:
        self._first = missed(services.get(self.task), self._last)

    def _first_pieces(self) -> Iterator[bytes]:
        yield from packed([RETRY_HINT + b"\n", *self._render(self._first)])

    def _render(self, events: Sequence[Event]) -> Iterator[bytes]:
        for event in events:
            if self._last is None or step_of(event.key) > step_of(self._last):
                self._last, self._finished = event.key, event.task.is_finished
                yield event.render(event.key)

    def _is_over(self) -> bool:
        return self._finished or super()._is_over()


class AllTasks(TaskStream):
    """What happens to tasks, of some robots, entering some statuses, or all; from now on, or after `after`."""

    def __init__(
        self,
        request: HttpRequest,
        after: Key | None,
        robots: Collection[str] = (),
        statuses: Collection[str] = (),
        *,
        is_let_in: IsLetIn,
    ) -> None:
        self._after = after
        self._robots, self._statuses = frozenset(robots), frozenset(statuses)
        self._caught_up: set[Key] = set()
        super().__init__(request, is_let_in)

    def _begin(self, frontier: int) -> None:
        self._frontier = frontier
        # Another process may be a little ahead of this one, but not much: then the clock was set back.
        if self._after and self._after.at <= frontier + OVERLAP:
            self._start = self._after
        else:
            self._start = before(now() - NOW)

    def _render(self, events: Sequence[Event]) -> Iterator[bytes]:
        return (event.render(event.id) for event in events if self._wants(event))

    def _wants(self, event: Event) -> bool:
        return (
            self._start < event.key not in self._caught_up
            and self._is_asked_for(event.task.status)
            and (not self._robots or event.task.robot in self._robots)
        )

    def _is_asked_for(self, status: str) -> bool:
        return not self._statuses or status in self._statuses

    def _comment(self) -> bytes:
        handed_out = before(hub.frontier + 1)  # asked first, so what is not yet sent is later, or in the inbox
        text = super()._comment()
        return position(max(self._start, handed_out), text.removesuffix(b"\n")) if self._inbox.empty() else text

    # Catching up.

    def _first_pieces(self) -> Iterator[bytes]:
        yield position(self._start, RETRY_HINT)
        if self._start.at > self._frontier:
            return
        doubtful = min(hub.frontier, self._frontier) - 2 * OVERLAP  # later events may be handed out all the same
        keys, complete_from = self._backlog()
        if complete_from > self._start.at:
            moment = moment_of(complete_from).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            yield message("gap", orjson.dumps({"before": moment}), before(complete_from))
        self._caught_up = {key for key in keys if key.at > doubtful}
        for start in range(0, len(keys), CHUNK):
            if self.server_stops():
                return
            yield from packed(self._past_events(keys[start : start + CHUNK]))

    def _backlog(self) -> tuple[list[Key], int]:
        """Return the keys of what is to be caught up with, in order, and from when on (ms) they are complete."""
        since = max(self._start.at, self._frontier - BACK)
        found = Task.objects.changed_since(moment_of(since)).latest_changes_first()
        if self._robots:
            found = found.filter(robot__in=self._robots)
        rows = list(found.values_list("pk", "stored_at", "changed_at", "history")[: BACKLOG + 1])
        if len(rows) > BACKLOG:
            since = milliseconds(rows.pop()[2]) + 1
        keys = [
            key
            for row in rows
            for key in keys_of(*row)
            if self._start < key and since <= key.at <= self._frontier
            and (not row[3] or self._is_asked_for(row[3][key.step // 2]["status"]))
        ]  # fmt: skip
        return sorted(keys), since

    def _past_events(self, keys: Sequence[Key]) -> Iterator[bytes]:
        tasks = {task.pk.hex: task for task in read({uuid.UUID(key.task) for key in keys})}
        for key in keys:
            if task := tasks.get(key.task):
                yield Event(key, task).render(key)
