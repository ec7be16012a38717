"""What the web server answers by itself, before Django sees anything."""

import json
import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fmv.devstack import embedded_mongodb, stack
from tests.chaos.world import children
from tests.conftest import wait_until


@pytest.fixture
def address(web) -> tuple[str, int]:
    parts = urlsplit(web(os.environ["FMV_BROKER_URL"]))
    return str(parts.hostname), int(parts.port or 0)


@pytest.fixture
def send(address):
    def send(request: bytes) -> tuple[bytes, bytes]:
        with socket.create_connection(address, timeout=30) as client:
            client.sendall(request)
            head, _, body = client.makefile("rb").read().partition(b"\r\n\r\n")
            return head, body

    return send


def test_what_is_no_http_or_too_long_gets_an_error_like_any_other(send):
    for request, status in (
        (b"GET /api/v1/robot/" + b"x" * 10_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 10_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
    ):
        head, body = send(request)
        assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
        assert b"Content-Type: application/json" in head
        assert b"X-Request-ID: " in head
        assert list(json.loads(body)) == ["detail"]


def test_clients_that_do_not_hang_up_keep_nobody_waiting(send, address):
    """Closing their connections takes a while, but not in the thread that all clients need."""
    request = b"GET /api/v1/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    before = time.monotonic()
    with ExitStack() as idle:
        for _ in range(30):
            client = idle.enter_context(socket.create_connection(address, timeout=30))
            client.sendall(request)
            assert client.recv(12) == b"HTTP/1.1 200"
        send(request)
        assert time.monotonic() - before < 15


def sockets(pid: int) -> int:
    """Return how many sockets the process has open. `realpath` leaves alone what is closed meanwhile."""
    return sum("socket:" in os.path.realpath(each) for each in Path(f"/proc/{pid}/fd").iterdir())


def test_clients_that_come_at_once_are_shared_by_the_processes(run_process, transactional_db):
    """One process that took them all would keep them waiting while the others idle."""
    port = embedded_mongodb.free_port(None)
    environment = {"FMV_BROKER_URL": os.environ["FMV_BROKER_URL"], "FMV_PORT": str(port), "FMV_WEB_PROCESSES": "2"}
    server = run_process("web", *stack.WEB, **environment)
    wait_until(lambda: stack.answers(f"http://127.0.0.1:{port}/livez", "localhost"))
    wait_until(lambda: len(children(server.pid)) == 2)
    before = {pid: sockets(pid) for pid in children(server.pid)}
    with ExitStack() as clients:
        all_clients = [
            clients.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)) for _ in range(40)
        ]
        for client in all_clients:
            client.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for client in all_clients:
            assert client.recv(12) == b"HTTP/1.1 200"
        came = [sockets(pid) - before[pid] for pid in before]
    assert min(came) >= 1, came  # the kernel chooses by a hash: that one gets none of 40 happens once in 10^11 times


@pytest.mark.slow
def test_new_code_is_rolled_out_beside_the_old_on_the_same_port(transactional_db, run_process, tmp_path):
    port = str(embedded_mongodb.free_port(None))
    url = f"http://127.0.0.1:{port}/livez"

    def start(name):
        process = run_process(name, *stack.WEB, FMV_PORT=port, FMV_WEB_PROCESSES="1", FMV_STOP_GRACE="1")
        log = tmp_path / f"{name}.log"
        wait_until(lambda: process.poll() is not None or "Booting worker" in log.read_text())
        wait_until(lambda: process.poll() is not None or stack.answers(url, "localhost"))
        return process

    old = start("old")
    new = start("new")
    assert (old.poll(), new.poll()) == (None, None)
    old.terminate()
    assert old.wait(timeout=20) == 0
    assert all(stack.answers(url, "localhost") for _ in range(20))
