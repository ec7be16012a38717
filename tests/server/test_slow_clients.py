"""Clients that announce a body and do not send it keep nobody else waiting."""

import io
import os
import socket
import time
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest
import requests
from django.test import Client, RequestFactory

from fmv.http.middleware import BodyLimit
from fmv.server.patience import PatientSocket
from tasks.models import Task
from tests.support.api import assert_refused
from tests.support.factories import make_robot

STALLED = (
    b"POST /admin/login/ HTTP/1.1\r\nHost: localhost\r\nCookie: csrftoken=%s\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\n" % (b"x" * 32)
)


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
    url = web(os.environ["FMV_BROKER_URL"], FMV_ANONYMOUS="viewer", FMV_WEB_PROCESSES="1", FMV_WEB_THREADS="2")
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


def test_a_socket_waits_for_its_client_but_not_for_ever():
    ours, theirs = socket.socketpair()
    with PatientSocket.instead_of(ours, seconds=1) as patient, theirs:
        theirs.sendall(b"x")
        assert patient.recv(8) == b"x"
        with pytest.raises(ConnectionResetError):
            patient.recv(8)
        patient.setblocking(False)
        with pytest.raises(BlockingIOError):
            patient.recv(8)
        patient.settimeout(0.1)
        with pytest.raises(TimeoutError):
            patient.recv(8)


def test_it_waits_longer_for_a_client_that_is_to_receive():
    ours, theirs = socket.socketpair()
    with PatientSocket.instead_of(ours, seconds=1) as patient, theirs:
        patient.setblocking(True)
        assert patient.gettimeout() is None  # a slow reader's answer goes on
