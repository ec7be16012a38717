"""Requests that wait until something happens, such as long polls.

Each holds a thread of the web server, which sleeps, and its connection, but no place among the requests that work. A
process lets FMV_MAX_CLAIMS of them wait. When the server stops, all are woken.
"""

import contextlib
import math
import random
import socket
import threading
import time
from collections.abc import Iterator
from typing import ClassVar

from django.conf import settings
from django.http import HttpRequest

from fmv.http.sse import Stream


class TooManyWait(Exception):
    """FMV_MAX_CLAIMS requests wait in this process."""


class WaitingRequest:
    """A request that waits, from its creation until it is closed. Raises TooManyWait."""

    _open: ClassVar[set["WaitingRequest"]] = set()
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        self._woken = threading.Event()
        self._request: HttpRequest | None = None  # since it has begun to wait
        with self._lock:
            if len(self._open) >= settings.ENVIRONMENT.max_claims:
                raise TooManyWait
            self._open.add(self)

    def wake(self) -> None:
        """End the wait, or the next one. Signal handlers call this too."""
        self._woken.set()

    def wait(self, request: HttpRequest, until: float) -> bool:
        """Wait until it is woken, at most until a time by `time.monotonic()`; return whether the client is there still.

        A call of `wake` since the end of the last wait ends this one at once.
        """
        self._request = request
        with outside_limit(request):
            if not self.server_is_stopping():
                self._woken.wait(max(0.0, until - time.monotonic()))
        self._woken.clear()
        return client_is_there(request)

    def close(self) -> None:
        with self._lock:
            self._open.discard(self)

    @staticmethod
    def server_is_stopping() -> bool:
        return Stream.server_is_stopping()

    @classmethod
    def wake_all(cls) -> None:
        for each in tuple(cls._open):
            each.wake()

    @classmethod
    def wake_gone(cls) -> None:
        """Wake those whose client has gone, so that they leave their places to others."""
        for each in tuple(cls._open):
            if each._request is not None and not client_is_there(each._request):
                each.wake()


@contextlib.contextmanager
def outside_limit(request: HttpRequest) -> Iterator[None]:
    """Leave the place of this request in `fmv.http.middleware.ConcurrencyLimit` to others meanwhile."""
    places: threading.Semaphore | None = getattr(request, "places", None)
    if places is None:
        yield
        return
    places.release()
    try:
        yield
    finally:
        places.acquire()


def client_is_there(request: HttpRequest) -> bool:
    """Return whether the client's connection is open, as far as this machine knows."""
    client: socket.socket | None = request.META.get("gunicorn.socket")
    if client is None:
        return True
    try:
        return client.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def retry_after(least: float = 1.0, most: float = 5.0) -> str:
    """Return a value of `Retry-After` that spreads the clients, so that they do not all come back at once."""
    return str(math.ceil(random.uniform(least, most)))
