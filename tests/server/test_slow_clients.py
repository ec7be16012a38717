"""Clients that do not send, do not read or do nothing at all keep no other client waiting, and cost little memory."""

import io
import os
import re
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from django.test import Client, RequestFactory

from fmv.devstack import embedded_mongodb, stack
from fmv.http.middleware import BodyLimit
from tasks.models import Task
from tests.chaos.world import children
from tests.conftest import wait_until
from tests.server.test_gunicorn import sockets
from tests.support.api import assert_refused
from tests.support.factories import make_robot

STALLED = (
    b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nCookie: csrftoken=%s\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\n" % (b"x" * 32)
)
#: pages that do not fit into the buffers of a connection
LARGE_PAGES = {"FMV_PAGE_BYTES": "100000000"}


def test_bodies_that_do_not_come_take_nobodys_turn(web):
    url = web(os.environ["FMV_BROKER_URL"], FMV_ANONYMOUS="manager")
    parts = urlsplit(url)
    with ExitStack() as stalled:
        for _ in range(40):
            client = stalled.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=10))
            client.sendall(STALLED)
        time.sleep(1)
        before = time.monotonic()
        assert requests.get(f"{url}/api/v1/health", timeout=20).status_code == 200
        robot = {"name": "R2", "location": "x", "description": "y", "tasks": "z"}
        assert requests.post(f"{url}/api/v1/robot/", json=robot, timeout=20).status_code == 201
        assert time.monotonic() - before < 20  # a client is given up after 30 s without a byte


def test_a_body_that_comes_slowly_is_read(web):
    parts = urlsplit(web(os.environ["FMV_BROKER_URL"], FMV_ANONYMOUS="manager"))
    body = b'{"name":"R2","location":"x","description":"y","tasks":"z"}'
    head = b"POST /api/v1/robot/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as client:
        client.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body))
        for piece in (body[:20], body[20:]):
            time.sleep(0.5)
            client.sendall(piece)
        assert client.recv(12) == b"HTTP/1.1 201"
        client.sendall(b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b'{"health":"OK"}' in client.makefile("rb").read()


def test_clients_that_do_not_read_keep_nobody_waiting(web):
    robot = make_robot()
    Task.objects.bulk_create(
        Task(robot=robot.name, handler="wait", timeout=30.0, result="x" * 100_000) for _ in range(100)
    )
    small = {"FMV_WEB_PROCESSES": "1", "FMV_WEB_THREADS": "2"}
    url = web(os.environ["FMV_BROKER_URL"], FMV_ANONYMOUS="viewer", **small, **LARGE_PAGES)
    parts = urlsplit(url)
    with ExitStack() as stalled:
        clients = [
            stalled.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=30)) for _ in range(6)
        ]
        for client in clients:
            client.sendall(b"GET /api/v1/task/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        for client in clients:
            assert client.recv(12) == b"HTTP/1.1 200"
        assert requests.get(f"{url}/api/v1/robot/{robot.name}", timeout=20).status_code == 200
        for client in clients:
            assert client.makefile("rb").read().count(b"x" * 100_000) == 100


@pytest.mark.slow
def test_clients_that_read_nothing_take_little_memory_and_are_cut_off(run_process, transactional_db):
    Task.objects.bulk_create(
        Task(robot="Bender", handler="wait", timeout=30.0, result="x" * 100_000) for _ in range(100)
    )
    url, process = start(run_process, FMV_ANONYMOUS="viewer", **LARGE_PAGES)
    pid = only_child(process.pid)
    before = sockets(pid)
    with ExitStack() as stuck:
        for _ in range(60):
            client = connect(stuck, url)
            client.sendall(b"GET /api/v1/task/?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        wait_until(lambda: sockets(pid) >= before + 60)
        assert requests.get(f"{url}/api/v1/health", timeout=60).status_code == 200  # after all of theirs
        wait_until(lambda: memory(pid) < 200)  # a page takes more of it while it is made
        assert sockets(pid) >= before + 60  # all of them are still there
        wait_until(lambda: sockets(pid) < before + 20, seconds=45)  # some are to MongoDB
        assert memory(pid) < 200


def test_slow_readers_of_pages_of_large_tasks_take_little_memory(run_process, transactional_db):
    Task.objects.bulk_create(
        Task(robot="Bender", handler="wait", timeout=30.0, result="x" * 100_000) for _ in range(100)
    )
    url, process = start(run_process, FMV_ANONYMOUS="viewer")
    pid = only_child(process.pid)
    assert requests.get(f"{url}/api/v1/task/?limit=1", timeout=20).status_code == 200
    at_rest = memory(pid)

    def read_slowly(client: socket.socket) -> bytes:
        client.sendall(b"GET /api/v1/task/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        parts = [client.recv(1024)]
        while part := client.recv(64 * 1024):
            parts.append(part)
            time.sleep(0.02)
        return b"".join(parts)

    with ExitStack() as slow, ThreadPoolExecutor(60) as readers:
        pages = list(readers.map(read_slowly, [connect(slow, url) for _ in range(60)]))
    assert all(page.startswith(b"HTTP/1.1 200") and len(page) < 2_100_000 for page in pages)
    assert memory(pid, "VmHWM") < at_rest + 60


def test_idle_clients_keep_no_other_waiting(run_process, transactional_db):
    url, _ = start(run_process, FMV_WEB_THREADS="2", FMV_MAX_STREAMS="0", FMV_MAX_CLAIMS="0")
    with ExitStack() as idle:
        for asks in [True, False] * 150:  # keep-alive, and never asked for anything
            client = connect(idle, url)
            if asks:
                client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(12) == b"HTTP/1.1 200"
        before = time.monotonic()
        for _ in range(10):
            assert requests.get(f"{url}/livez", timeout=20).status_code == 200
        assert time.monotonic() - before < 10


def test_a_stopping_server_does_not_wait_for_clients_beyond_its_grace(run_process, transactional_db):
    Task.objects.bulk_create(
        Task(robot="Bender", handler="wait", timeout=30.0, result="x" * 100_000) for _ in range(100)
    )
    url, process = start(run_process, FMV_ANONYMOUS="viewer", FMV_STOP_GRACE="3", **LARGE_PAGES)
    with ExitStack() as clients:
        reads_nothing, sends_nothing, idle = (connect(clients, url) for _ in range(3))
        reads_nothing.sendall(b"GET /api/v1/task/?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        sends_nothing.sendall(STALLED)
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for client in (reads_nothing, idle):
            assert client.recv(12) == b"HTTP/1.1 200"
        before = time.monotonic()
        process.terminate()
        process.wait(timeout=20)
        assert time.monotonic() - before < 10


def start(run_process: Any, **environment: str) -> tuple[str, subprocess.Popen[bytes]]:
    """Start a web server with one process. Return its address and its main process."""
    port = str(embedded_mongodb.free_port(None))
    own = {"FMV_BROKER_URL": os.environ["FMV_BROKER_URL"], "FMV_PORT": port, "FMV_WEB_PROCESSES": "1"}
    process = run_process("web", *stack.WEB, **own | environment)
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: stack.answers(f"{url}/livez", "localhost"))
    return url, process


def connect(clients: ExitStack, url: str) -> socket.socket:
    parts = urlsplit(url)
    return clients.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=60))


def only_child(pid: int) -> int:
    [child] = children(pid)
    return child


def memory(pid: int, kind: str = "VmRSS") -> int:
    """Return the process's resident memory in MB; with `VmHWM` the most that it has ever been."""
    [kilobytes] = re.findall(rf"{kind}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) // 1000


class Silent(io.BytesIO):
    """A body of which nothing comes."""

    def read(self, *_):
        raise ConnectionResetError


def test_a_body_that_did_not_arrive_is_no_fault_of_ours():
    answer = Client().post("/api/v1/robot/", **{"wsgi.input": Silent(), "CONTENT_LENGTH": "1000"})
    assert_refused(answer, 408)


@pytest.mark.parametrize(("method", "is_read"), [("POST", 1), ("PUT", 1), ("PATCH", 1), ("GET", 0), ("DELETE", 0)])
def test_only_bodies_that_mean_something_are_read(method, is_read):
    request = RequestFactory().generic(method, "/", b"{}")
    BodyLimit(lambda request: None)(request)
    assert request._read_started is bool(is_read)
    assert request.body == b"{}"
