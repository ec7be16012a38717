"""The web server's configuration: `gunicorn -c python:fmv.server.gunicorn fmv.wsgi`."""

import atexit
import contextlib
import ctypes
import gc
import json
import logging.config
import math
import os
import re
import shutil
import socket
import struct
import sys
import tempfile
import time
from typing import Any

import gunicorn.glogging
import gunicorn.util
from gunicorn.workers import gthread
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import ThreadWorker

from fmv.environment import read_environment
from fmv.http.request_id import from_client
from fmv.http.security_headers import ALWAYS, DATA
from fmv.monitoring.logs import logging_config

STREAM = re.compile("/events/?$")
DRAINED = 64 * 1024  # bytes of an unread body that gunicorn discards to keep the connection
RECEIVE_TIMEOUT = 30  # seconds for a client to send its next byte
SEND_TIMEOUT = 20  # seconds for a client to take what was sent
SLOW_CLIENTS = 100  # threads that may wait for clients to send or to read
LINGER = 2.0  # seconds in which a client may send the rest of its request and close the connection
MAX_DISCARDED = 64 * 1024 * 1024  # bytes of that rest
M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8  # of glibc's malloc.h
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection and drops what was not sent

_environment = read_environment()
_host = f"[{_environment.host}]" if ":" in _environment.host else _environment.host

bind = f"{_host}:{_environment.port}"
workers = _environment.web_processes
worker_class = "fmv.server.gunicorn.StreamingWorker"
reuse_port = True  # each process has a socket of its own, among which the kernel spreads new clients
# Only web_threads of them work at a time: see fmv.http.middleware.ConcurrencyLimit.
threads = _environment.web_threads + _environment.max_streams + _environment.max_claims + SLOW_CLIENTS
worker_connections = 1000 + threads
preload_app = True  # one import for all processes, and a wrong setting stops the start
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 - heartbeats; a slow disk would delay them # nosec B108
keepalive = 30  # seconds
graceful_timeout = min(30, math.ceil(_environment.stop_grace))  # seconds
limit_request_line = 8190  # bytes, the most there is: names are long once percent-encoded
accesslog = None
loglevel = _environment.log_level.lower()
control_socket_disable = True  # its default path is one for all servers of a user


class Log(gunicorn.glogging.Logger):
    """Writes gunicorn's lines to FMV's log."""

    def setup(self, cfg: Any) -> None:
        logging.config.dictConfig(logging_config(_environment))
        logging.captureWarnings(True)
        self.error_log.propagate = True

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log a fault; a client that stalls is none."""
        if isinstance(sys.exc_info()[1], BlockingIOError | TimeoutError):  # RECEIVE_TIMEOUT, SEND_TIMEOUT
            self.info("Closed the connection of a client that stopped sending or reading")
        else:
            super().exception(msg, *args, **kwargs)


logger_class = Log

# The processes of this server count into files of this directory (see fmv.monitoring.metrics). It must be named before
# anything imports prometheus_client, and be new, or the counts of an earlier server would come along.
os.environ["PROMETHEUS_MULTIPROC_DIR"] = tempfile.mkdtemp(prefix="fmv-metrics-", dir=worker_tmp_dir)
_server = os.getpid()


@atexit.register
def forget_metrics() -> None:
    if os.getpid() == _server:  # and not one of its processes, which inherit this
        shutil.rmtree(os.environ["PROMETHEUS_MULTIPROC_DIR"], ignore_errors=True)


def child_exit(arbiter: object, worker: Worker) -> None:
    """Forget what a process that has ended said of itself; what it counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)


class StreamingWorker(ThreadWorker):
    """gunicorn's threaded worker, which also ends event streams and waits when it stops, and cuts off clients that
    stall.
    """

    def handle(self, conn: Any) -> Any:
        """Close the connection in this thread: gunicorn would block its main thread up to 2 seconds for each client."""
        keep_alive = super().handle(conn)
        if not keep_alive:
            with contextlib.suppress(OSError):
                _hang_up(conn.sock)
        return keep_alive

    def handle_exit(self, sig: int, frame: object) -> None:
        _end_waits()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: object) -> None:
        _end_waits()
        super().handle_quit(sig, frame)


def _end_waits() -> None:
    from fmv.http.sse import Stream
    from fmv.http.waiting import WaitingRequest

    Stream.end_all()
    WaitingRequest.wake_all()


def _hang_up(client: socket.socket) -> None:
    """End the answer, then discard what the client still sends, so that it gets to read the answer (RFC 9112, 9.6).

    A client that goes on sending is reset. If its connection were only closed, it might wait for room to send until
    its own timeout.
    """
    client.shutdown(socket.SHUT_WR)
    client.settimeout(LINGER)
    deadline, discarded = time.monotonic() + LINGER, 0
    with contextlib.suppress(TimeoutError):
        while data := client.recv(DRAINED):
            discarded += len(data)
            if discarded > MAX_DISCARDED or time.monotonic() > deadline:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                break
    client.shutdown(socket.SHUT_RDWR)


def when_ready(arbiter: object) -> None:
    """Freeze start-up objects and raise the GC threshold, so that collections are rare and short."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)  # a list of a hundred tasks makes a few thousand objects


def on_starting(arbiter: object) -> None:
    """Have glibc return large blocks to the system when they are freed, instead of keeping some for each thread."""
    with contextlib.suppress(AttributeError):  # another libc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_MMAP_THRESHOLD, 128 * 1024)


def post_fork(arbiter: object, worker: Worker) -> None:
    """Drop connections to MongoDB (a MongoClient must not cross a fork), and limit how long clients may stall."""
    from fmv.mongodb.server import forget_clients

    forget_clients()
    for listener in worker.sockets:
        # Connections inherit these from their listener. Python's own timeout would limit a whole answer, however large.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", RECEIVE_TIMEOUT, 0))
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_TIMEOUT * 1000)


def post_worker_init(worker: Worker) -> None:
    """Log at the start, and not only at the first request, if the database lacks migrations or has unknown ones."""
    from fmv.mongodb.migration_state import why_not_ready

    why_not_ready()


def pre_request(worker: Worker, request: Any) -> None:
    """Answer `Connection: close` to a long body, which may stay unread (413), and to a request for an event stream.

    gunicorn would close the first without notice, and a stopping server would keep the second open for a next request.
    """
    headers = dict(request.headers)
    if "TRANSFER-ENCODING" in headers or int(headers.get("CONTENT-LENGTH", 0)) > DRAINED or STREAM.search(request.path):
        request.force_close()


def _write_error(client: socket.socket, status: int, reason: str, message: str) -> None:
    body = json.dumps({"detail": reason}, separators=(",", ":")).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-ID: {from_client(None)}\r\n"
    )
    head += "".join(f"{name}: {value}\r\n" for name, value in {**ALWAYS, "Content-Security-Policy": DATA}.items())
    head += "\r\n"
    gunicorn.util.write_nonblock(client, head.encode("latin-1") + body)


# What the server itself refuses (a header or URL too long, no HTTP at all) looks like every other error of the API.
gunicorn.util.write_error = _write_error

# A new client that sends nothing holds a thread so long (seconds). With gunicorn's 5 s idle clients would hold all.
gthread.DEFAULT_WORKER_DATA_TIMEOUT = 0.1
