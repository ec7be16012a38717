"""How threads of the web server wait for their clients: not for ever, and without keeping others from working.

An event stream holds a thread, and so does a client that sends or reads slowly. Yet Python runs one thread at a time
and those that want to run only take turns from each other. So there are few, and who waits has another take over.
"""

import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any

SECONDS = 30  # without a byte from the client

_thread = threading.local()  # `pool`: which it is of; `is_away`: whether another has taken over


class Threads(Executor):
    """A pool of `number` threads that work, and any number that wait (see `away` and `go_away`).

    Of those that are too many when a wait is over, up to `number` rest until they are needed again, and the others end.
    """

    def __init__(self, number: int) -> None:
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._number = number
        self._changing = threading.Lock()
        self._too_many = self._resting = 0
        self._needed: SimpleQueue[None] = SimpleQueue()
        for _ in range(number):
            self._start()

    def submit(self, work: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self._jobs.put((future, partial(work, *args, **kwargs)))
        return future

    def _start(self) -> None:
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        _thread.pool = self
        while self._goes_on():
            future, work = self._jobs.get()
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            come_back()

    def _goes_on(self) -> bool:
        """Rest if there are too many; False when so many rest already."""
        while self._too_many:
            with self._changing:
                if not self._too_many:
                    break
                self._too_many -= 1
                if self._resting == self._number:
                    return False
                self._resting += 1
            self._needed.get()
        return True

    def lose_one(self) -> None:
        with self._changing:
            if self._too_many:
                self._too_many -= 1
            elif self._resting:
                self._resting -= 1
                self._needed.put(None)
            else:
                self._start()

    def gain_one(self) -> None:
        with self._changing:
            self._too_many += 1


def go_away() -> None:
    """Have another thread take over until this one's job is done, as that is nearly all waiting from now on.

    Does nothing in a thread of no pool, as in tests.
    """
    pool: Threads | None = getattr(_thread, "pool", None)
    if pool and not getattr(_thread, "is_away", False):
        _thread.is_away = True
        pool.lose_one()


def come_back() -> None:
    if getattr(_thread, "is_away", False):
        _thread.is_away = False
        _thread.pool.gain_one()


@contextlib.contextmanager
def away() -> Iterator[None]:
    """Have another thread take over while this one waits."""
    was_away = getattr(_thread, "is_away", False)
    go_away()
    try:
        yield
    finally:
        if not was_away:
            come_back()


class PatientSocket(socket.socket):
    """A client's connection, given up when nothing comes for a while. Who waits for it has another thread take over.

    The kernel's timeout for reading, as Python's own would also end answers that a slow client takes long to receive.
    """

    @classmethod
    def instead_of(cls, sock: socket.socket, seconds: int = SECONDS) -> "PatientSocket":
        patient = cls(fileno=sock.detach())
        patient.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, 0))
        return patient

    def recv(self, size: int, flags: int = 0) -> bytes:
        blocks = self.gettimeout() is None
        if blocks:
            with contextlib.suppress(BlockingIOError):
                return super().recv(size, flags | socket.MSG_DONTWAIT)
        try:
            with away():
                return super().recv(size, flags)
        except BlockingIOError:
            if not blocks:
                raise
            # gunicorn logs any other failure as a fault of ours.
            raise ConnectionResetError(errno.ECONNRESET, "The client sends nothing") from None

    def sendall(self, data: Any, flags: int = 0) -> None:
        sent = 0
        if self.gettimeout() is None:
            with contextlib.suppress(BlockingIOError):
                sent = super().send(data, flags | socket.MSG_DONTWAIT)
        if sent < len(data):
            with away():
                super().sendall(memoryview(data)[sent:], flags)

    def sendfile(self, *args: Any, **kwargs: Any) -> int:
        with away():
            return super().sendfile(*args, **kwargs)
