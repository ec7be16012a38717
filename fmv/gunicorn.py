"""The web server's configuration: `gunicorn -c python:fmv.gunicorn fmv.wsgi`."""

import json
import math
import os
import socket

import gunicorn.util
from gunicorn.workers.base import Worker

from fmv.environment import read_environment
from fmv.request_id import from_client

_environment = read_environment()
_host = f"[{_environment.host}]" if ":" in _environment.host else _environment.host

bind = f"{_host}:{_environment.port}"
workers = _environment.web_processes
worker_class = "gthread"
threads = _environment.web_threads
preload_app = True  # one import for all processes, and a wrong setting stops the start
worker_tmp_dir = "/dev/shm" if os.path.isdir("/dev/shm") else None  # noqa: S108 - heartbeats; a slow disk would delay them
keepalive = 30  # seconds
graceful_timeout = min(30, math.ceil(_environment.stop_grace))  # seconds; an event stream would go on for ever
limit_request_line = 8190  # bytes, the most there is: names are long once percent-encoded
accesslog = None
errorlog = "-"
loglevel = _environment.log_level.lower()
control_socket_disable = True  # its default path is one for all servers of a user


def post_fork(arbiter: object, worker: Worker) -> None:
    """Leave connections to MongoDB behind: a MongoClient must not cross a fork."""
    from fmv.mongodb.server import forget_clients

    forget_clients()


def _write_error(client: socket.socket, status: int, reason: str, message: str) -> None:
    body = json.dumps({"detail": reason}, separators=(",", ":")).encode()
    head = (
        f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nX-Request-ID: {from_client(None)}\r\n\r\n"
    )
    gunicorn.util.write_nonblock(client, head.encode("latin-1") + body)


# What the server itself refuses (a header or URL too long, no HTTP at all) looks like every other error of the API.
gunicorn.util.write_error = _write_error
