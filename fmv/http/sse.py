"""Answers that go on: how many there may be, and that they end when the server does or the client stops reading.

Each holds a thread of the web server, which sleeps nearly all the time; `fmv.server.gunicorn` has that many more
threads than requests need. See https://html.spec.whatwg.org/multipage/server-sent-events.html for what travels in them.
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
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # the second keeps nginx from collecting it
RETRY_AFTER = 10  # seconds until a place may be free


class TooManyStreams(APIException):
    status_code = 503
    default_detail = "This server has as many event streams open as it may have. Try again soon."
    wait = RETRY_AFTER


class Stream:
    """What one client is sent, piece by piece, from `pieces()` of a subclass. Takes a place until it is closed.

    Raises TooManyStreams when there is no place.
    """

    _open: ClassVar[set["Stream"]] = set()
    _places: ClassVar[threading.Lock] = threading.Lock()
    _stopping: ClassVar[bool] = False

    def __init__(self, request: HttpRequest) -> None:
        self._socket: socket.socket | None = request.META.get("gunicorn.socket")
        self._sending_since: float | None = None
        self._pieces: Iterator[bytes] | None = None
        with self._places:
            if len(self._open) >= settings.FMV_MAX_STREAMS:
                raise TooManyStreams
            self._open.add(self)
        if self.server_stops():
            self.end()

    def pieces(self) -> Iterator[bytes]:
        raise NotImplementedError

    def end(self) -> None:
        """Let it end after the piece that is being sent. Called in signal handlers too, so it takes no lock."""
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
        """The answer is over: all was sent, or the client has gone."""
        with self._places:
            self._open.discard(self)

    def cut_if_stuck(self, timeout: float) -> None:
        """Close the connection of a client that has not taken a piece for `timeout` seconds."""
        since = self._sending_since
        if since is not None and time.monotonic() - since > timeout and self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    @staticmethod
    def server_stops() -> bool:
        return Stream._stopping

    @classmethod
    def end_all(cls) -> None:
        """The server stops: end what is open, and at once what is still to come."""
        Stream._stopping = True
        for stream in tuple(cls._open):
            stream.end()


class EventStream(StreamingHttpResponse):
    """The answer that a Stream's pieces are sent in; to HEAD its headers only."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        super().__init__(pieces, content_type=MEDIA_TYPE, headers=HEADERS)


def comment(text: str) -> bytes:
    """Return a line that clients skip; it keeps the connection open, and finds out whether it is."""
    return f": {text}\n\n".encode()


def message(event: str, data: bytes, id: Any = None) -> bytes:
    """Return an event. `data` is one line."""
    head = f"event: {event}\n" if id is None else f"id: {id}\nevent: {event}\n"
    return b"%sdata: %s\n\n" % (head.encode(), data)
