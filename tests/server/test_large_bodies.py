"""A client that sends a body that is too large gets its answer, whether or not it reads while it sends."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
import requests

SIZE = 10_000_000  # bytes, more than the kernel's buffers hold
BODY = b"x" * SIZE
LONGEST = 5.0  # seconds an answer may take on a busy machine; a client that hangs takes TIMEOUT
TIMEOUT = 30
PATHS = (
    "/api/v1/robot/",
    "/api/v1/task/batch",
    "/api/v1/events",
    "/api/v1/nowhere",
    "/nowhere",
    "/admin/login/",
    "/livez",
    "/metrics",
    "/static/admin/css/base.css",
)


@pytest.fixture
def url(web):
    return web(os.environ["FMV_BROKER_URL"], FMV_ANONYMOUS="manager")


def timed(send: Callable[[], int]) -> int:
    before = time.monotonic()
    status = send()
    assert time.monotonic() - before < LONGEST
    return status


def by_urllib(url: str, method: str = "POST", content_type: str = "application/json") -> int:
    request = urllib.request.Request(url, data=BODY, method=method, headers={"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def by_curl(url: str, *options: str) -> int:
    command = ["curl", "-sS", "-m", str(TIMEOUT), "-o", os.devnull, "-w", "%{http_code}", "-H", "Expect:"]
    command += ["--data-binary", "@-", *options, url]
    return int(subprocess.run(command, input=BODY, stdout=subprocess.PIPE, check=True).stdout)


def by_node(url: str) -> int:
    options = f"{{method: 'POST', body: Buffer.alloc({SIZE}, 'x'), headers: {{'Content-Type': 'application/json'}}}}"
    script = f"fetch({json.dumps(url)}, {options}).then(answer => console.log(answer.status))"
    return int(subprocess.run(["node", "-e", script], stdout=subprocess.PIPE, check=True, timeout=TIMEOUT).stdout)


def by_socket(url: str, head: bytes, pieces: list[bytes], pause: float = 0) -> int:
    """Send all of it, or as much as the server takes, and only then read."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT) as client:
        try:
            client.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % (parts.path.encode(), head))
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)
        except ConnectionError:
            pass  # what was answered can be read all the same
        return int(client.recv(12).split()[1])


def test_urllib_gets_its_answer_on_every_route(url):
    for path in PATHS:
        assert timed(lambda path=path: by_urllib(url + path)) == 413, path


def test_by_every_method(url):
    for method in ("GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
        for path in ("/api/v1/robot/", "/static/admin/css/base.css", "/livez"):
            assert timed(lambda path=path, method=method: by_urllib(url + path, method)) == 413, (method, path)


def test_of_every_type(url):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert timed(lambda kind=kind: by_urllib(f"{url}/admin/login/", content_type=kind)) == 413


def test_requests_gets_its_answer(url):
    assert timed(lambda: requests.post(f"{url}/api/v1/robot/", data=BODY, timeout=TIMEOUT).status_code) == 413


def test_requests_gets_its_answer_to_a_body_of_unknown_length(url):
    for path in ("/api/v1/robot/", "/livez", "/nowhere"):
        pieces = (BODY[:100_000] for _ in range(100))
        answer = requests.post(url + path, data=pieces, timeout=TIMEOUT)
        assert answer.status_code == 411
        assert answer.elapsed.total_seconds() < LONGEST


@pytest.mark.skipif(not shutil.which("curl") and os.environ.get("CI") != "true", reason="there is no curl")
def test_curl_gets_its_answer(url):
    assert timed(lambda: by_curl(f"{url}/api/v1/robot/")) == 413
    assert timed(lambda: by_curl(f"{url}/admin/", "-H", "Transfer-Encoding: chunked")) == 411


@pytest.mark.node
def test_node_gets_its_answer(url):
    assert timed(lambda: by_node(f"{url}/api/v1/robot/")) == 413


def test_a_socket_gets_its_answer(url):
    length = b"Content-Length: %d\r\n" % SIZE
    assert timed(lambda: by_socket(f"{url}/nowhere", length, [BODY])) == 413
    assert (
        timed(lambda: by_socket(f"{url}/api/v1/robot/", length + b"Content-Type: application/json\r\n", [BODY])) == 413
    )
    chunk = b"186A0\r\n" + BODY[:100_000] + b"\r\n"
    assert timed(lambda: by_socket(f"{url}/", b"Transfer-Encoding: chunked\r\n", [chunk] * 100 + [b"0\r\n\r\n"])) == 411


def test_what_gunicorn_refuses_is_answered_too(url):
    for head in (
        b"Content-Length: %d\r\nX-Long: %s\r\n" % (SIZE, b"x" * 10_000),
        b"Content-Length: ten\r\n",
        b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
    ):
        assert timed(lambda head=head: by_socket(f"{url}/", head, [BODY])) in (400, 431)


def test_a_client_that_goes_on_sending_is_reset(url):
    """It has its answer before the server stops to listen, which is after two seconds or 64 MiB."""
    for size, pieces, pause in ((200_000_000, [BODY] * 20, 0), (100_000_000, [BODY[:100_000]] * 1000, 0.01)):
        head = b"Content-Length: %d\r\n" % size
        assert timed(lambda head=head, pieces=pieces, pause=pause: by_socket(f"{url}/", head, pieces, pause)) == 413
