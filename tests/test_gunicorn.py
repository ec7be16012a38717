"""What the web server answers by itself, before Django sees anything."""

import json
import os
import socket
from urllib.parse import urlsplit

import pytest


@pytest.fixture
def send(web):
    address = urlsplit(web(os.environ["FMV_BROKER_URL"]))

    def send(request: bytes) -> tuple[bytes, bytes]:
        with socket.create_connection((address.hostname, address.port), timeout=10) as client:
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
