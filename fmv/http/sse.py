"""Server-sent events: how many streams may be open, and how they end with the server or with a client that stops
reading. The format is specified in https://html.spec.whatwg.org/multipage/server-sent-events.html.

Each stream holds a thread of the web server, which sleeps nearly all the time. `fmv.server.gunicorn` therefore has that
many more threads than requests need.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

from django.conf import settings
from django.http import HttpRequest, StreamingHttpResponse
from rest_framework.exceptions import APIException

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the second stops nginx from buffering
RETRY_AFTER = 10  # seconds after which a client may try again


class TooManyStreams(APIException):
    status_code = 503
    default_detail = "This server has reached its limit of event streams. Try again soon."
    wait = RETRY_AFTER


class Stream:
    """The stream of one client. A subclass yields it in `pieces()`. It counts as open until it is closed.

    Raises TooManyStreams if FMV_MAX_STREAMS are open.
    """

    _open: ClassVar[set["Stream"]] = set()
    _lock: ClassVar[threading.Lock] = threading.Lock()
    _stopping: ClassVar[bool] = False

    def __init__(self, request: HttpRequest) -> None:
        self._socket: socket.socket | None = request.META.get("gunicorn.socket")
        self._sending_since: float | None = None
        self._pieces: Iterator[bytes] | None = None
        with self._lock:
            if len(self._open) >= settings.ENVIRONMENT.max_streams:
                raise TooManyStreams
            self._open.add(self)
        if self.server_is_stopping():
            self.end()

    def pieces(self) -> Iterator[bytes]:
        raise NotImplementedError

    def end(self) -> None:
        """End the stream after the current piece. Signal handlers call this too, so it must not take a lock."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._sending_since = None
        if self._pieces is None:
            self._pieces = self.pieces()
        piece = next(self._pieces)
        self._sending_since = time.monotonic()
        return piece

    def close(self) -> None:
        """Count the stream as closed: all was sent, or the client has gone."""
        with self._lock:
            self._open.discard(self)

    def cut_if_stuck(self, timeout: float) -> None:
        """Close the connection of a client that has not taken a piece for `timeout` seconds."""
        since = self._sending_since
        if since is not None and time.monotonic() - since > timeout and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def server_is_stopping() -> bool:
        return Stream._stopping

    @classmethod
    def end_all(cls) -> None:
        """End all open streams, and from now on every new one at once, because the server stops."""
        Stream._stopping = True
        for stream in tuple(cls._open):
            stream.end()


class EventStream(StreamingHttpResponse):
    """The answer with a Stream's pieces; for HEAD only its headers."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__(pieces, content_type=MEDIA_TYPE, headers=HEADERS)


def comment(text: str) -> bytes:
    """Return a line that clients skip. Sending it keeps the connection open, and shows if the client has gone."""
    return f": {text}\n\n".encode()


def message(event: str, data: bytes, id: Any = None) -> bytes:
    """Return an event. `data` is one line."""
    head = f"event: {event}\n" if id is None else f"id: {id}\nevent: {event}\n"
    return b"%sdata: %s\n\n" % (head.encode(), data)
