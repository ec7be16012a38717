"""The web server's configuration: `gunicorn -c python:fmv.server.gunicorn fmv.wsgi`."""

import atexit
import contextlib
import gc
import json
import logging.config
import math
import mmap
import os
import re
import shutil
import socket
import tempfile
import time
from typing import Any

import gunicorn.glogging
import gunicorn.util
from gunicorn.workers.base import Worker
from gunicorn.workers.gthread import _DEFER, ThreadWorker

from fmv.environment import read_environment
from fmv.http.request_id import from_client
from fmv.http.security_headers import ALWAYS, DATA
from fmv.monitoring.logs import logging_config
from fmv.server.patience import PatientSocket, Threads, away

STREAM = re.compile("/events/?$")
FEWER_FIRST = 0.001  # seconds for which a new client is left to a process that has fewer
DRAINED = 64 * 1024  # bytes of an unread body that gunicorn reads away, to keep its connection

_environment = read_environment()
_host = f"[{_environment.host}]" if ":" in _environment.host else _environment.host

bind = f"{_host}:{_environment.port}"
workers = _environment.web_processes
worker_class = "fmv.server.gunicorn.StreamingWorker"
threads = _environment.web_threads  # and as many more as wait for clients; see fmv.server.patience
worker_connections = 1000 + _environment.max_streams
preload_app = True  # one import for all processes, and a wrong setting stops the start
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 - heartbeats; a slow disk would delay them # nosec B108
keepalive = 30  # seconds
graceful_timeout = min(30, math.ceil(_environment.stop_grace))  # seconds
limit_request_line = 8190  # bytes, the most there is: names are long once percent-encoded
accesslog = None
loglevel = _environment.log_level.lower()
control_socket_disable = True  # its default path is one for all servers of a user


class Log(gunicorn.glogging.Logger):
    """Leaves gunicorn's lines to FMV's log."""

    def setup(self, cfg: Any) -> None:
        logging.config.dictConfig(logging_config(_environment))
        logging.captureWarnings(True)
        self.error_log.propagate = True


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
    _clients[_place(worker)] = 0


#: of each process, how many clients are connected to it, and one; 0 where there is no process. They share this memory.
_clients = memoryview(mmap.mmap(-1, 4 * 1024)).cast("i")


def _place(worker: Worker) -> int:
    place: int = worker.age % len(_clients)  # an age is a running number
    return place


class StreamingWorker(ThreadWorker):
    """Ends its event streams when it is to stop: the graceful end waits for answers, and they would go on for ever."""

    def notify(self) -> None:
        """Say at each round how many clients are here, beside that the process is alive."""
        _clients[_place(self)] = self.nr_conns + 1
        super().notify()

    def accept(self, listener: Any) -> None:
        """Give processes with fewer clients a moment to take this one.

        All are woken, and one would often take all that come at once: its clients wait for each other, the rest idles.
        """
        if self.nr_conns > min(filter(None, _clients), default=0):
            time.sleep(FEWER_FIRST)
        super().accept(listener)

    def get_thread_pool(self) -> Threads:
        return Threads(_environment.web_threads)

    def handle(self, conn: Any) -> Any:
        """Wait here until the client hangs up: gunicorn would wait in its main thread, two seconds for each client."""
        if not isinstance(conn.sock, PatientSocket):
            conn.sock = PatientSocket.instead_of(conn.sock)
            if not conn.wait_for_data(0):
                return _DEFER  # to the main thread, which waits for all clients at once
        goes_on = super().handle(conn)
        if not goes_on:
            with contextlib.suppress(OSError), away():
                gunicorn.util.close_graceful(conn.sock.dup())
                conn.sock.shutdown(socket.SHUT_RDWR)
        return goes_on

    def handle_exit(self, sig: int, frame: object) -> None:
        _end_streams()
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: object) -> None:
        _end_streams()
        super().handle_quit(sig, frame)


def _end_streams() -> None:
    from fmv.http.sse import Stream

    Stream.end_all()


def when_ready(arbiter: object) -> None:
    """Spare the collector what was made at the start, which stays, and most of its rounds.

    It would walk through a hundred thousand objects again and again, while a request waits.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)  # of which a list of a hundred tasks makes a few thousand


def post_fork(arbiter: object, worker: Worker) -> None:
    """Leave connections to MongoDB behind: a MongoClient must not cross a fork."""
    from fmv.mongodb.server import forget_clients

    forget_clients()


def pre_request(worker: Worker, request: Any) -> None:
    """Announce the end of a connection that gunicorn would end unannounced, should a long body stay unread (413).

    And that of an event stream's, which a stopping server would else keep open for another request.
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
