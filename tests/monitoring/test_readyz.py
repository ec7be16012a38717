"""/livez and /readyz while parts are missing or silent, and while the clock is wrong."""

import datetime as dt
import os
import re
import signal
import socket
import time
from contextlib import contextmanager
from unittest.mock import patch

import pytest
import requests
from django.test import Client

from fmv.devstack import embedded_mongodb
from fmv.mongodb.server import server_now
from fmv.monitoring import servers
from tests.conftest import wait_until
from tests.support.commands import Process


@pytest.fixture(autouse=True)
def nothing_kept():
    for server in (servers.mongodb, servers.broker):
        server.forget()


NOBODY = "127.0.0.1:1"
#: of MongoDB: its client gives up after TIMEOUT seconds, and /readyz, on a busy machine, before the client does
UNREACHABLE = ("cannot be reached: ", f"no answer within {servers.TIMEOUT:g} s")


def ready(url):
    """Return the status and lines of /readyz."""
    answer = requests.get(f"{url}/readyz", timeout=10)  # 3 s on a quiet machine
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert requests.get(f"{url}/livez", timeout=10).text == "OK"
    return answer.status_code, dict(line.split(": ", 1) for line in answer.text.splitlines())


@contextmanager
def silence():
    """Yield the address of a server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_all_is_well(web):
    assert ready(web(os.environ["FMV_BROKER_URL"])) == (200, {"mongodb": "OK", "broker": "OK"})


def test_mongodb_is_down(web):
    status, lines = ready(web(os.environ["FMV_BROKER_URL"], MONGODB_URI=f"mongodb://{NOBODY}/fmv"))
    assert (status, lines["broker"]) == (503, "OK")
    assert lines["mongodb"].startswith(UNREACHABLE)


def test_rabbitmq_is_down(web):
    status, lines = ready(web(f"amqp://{NOBODY}//"))
    assert (status, lines["mongodb"]) == (503, "OK")
    assert lines["broker"].startswith("cannot be reached: ")


def test_valkey_is_down(web):
    status, lines = ready(web("redis+socket:///no/valkey.sock"))
    assert (status, lines["mongodb"]) == (503, "OK")
    assert lines["broker"].startswith("cannot be reached: ")


def test_both_are_down(web):
    status, lines = ready(web(f"amqp://{NOBODY}//", MONGODB_URI=f"mongodb://{NOBODY}/fmv"))
    assert status == 503
    assert lines["mongodb"].startswith(UNREACHABLE)
    assert lines["broker"].startswith("cannot be reached: ")


def test_rabbitmq_takes_the_call_and_says_nothing(web):
    with silence() as address:
        status, lines = ready(web(f"amqp://{address}//"))
    assert (status, lines["mongodb"]) == (503, "OK")
    assert lines["broker"] != "OK"


@pytest.mark.slow
def test_mongodb_takes_the_call_and_says_nothing(web):
    with silence() as address:
        status, lines = ready(web(os.environ["FMV_BROKER_URL"], MONGODB_URI=f"mongodb://{address}/fmv"))
    assert (status, lines["broker"]) == (503, "OK")
    assert lines["mongodb"].startswith(UNREACHABLE)


@pytest.mark.slow
def test_mongodb_falls_silent_and_comes_back(web, tmp_path):
    with embedded_mongodb.embedded_mongodb(tmp_path / "mongodb") as server:
        pid = int((tmp_path / "mongodb.lock").read_text())
        assert Process("migrate", uri=f"{server}fmv").ended().status == 0
        url = web(os.environ["FMV_BROKER_URL"], MONGODB_URI=f"{server}fmv")
        assert ready(url)[0] == 200
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(2):
                wait_until(lambda: ready(url)[0] == 503)  # a web process keeps an answer for PROBE_INTERVAL seconds
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_until(lambda: ready(url)[0] == 200)


@pytest.mark.django_db
@pytest.mark.parametrize(("ahead", "side"), [(7, "behind"), (-8, "ahead of")])
def test_a_wrong_clock_is_reported_and_does_no_harm(ahead, side):
    with patch.object(servers, "server_now", lambda: server_now() + dt.timedelta(seconds=ahead)):
        begun = time.monotonic()
        answer = Client().get("/readyz")
        took = time.monotonic() - begun  # within which MongoDB has read its clock
    assert answer.status_code == 200
    found = re.fullmatch(rf"mongodb: OK\nbroker: OK\nclock: (\d\.\d) s {side} MongoDB's\n", answer.content.decode())
    assert float(found[1]) == pytest.approx(abs(ahead), abs=0.1 + took)


@pytest.mark.django_db
def test_a_clock_that_is_nearly_right_is_not_reported():
    with patch.object(servers, "server_now", lambda: server_now() + dt.timedelta(seconds=4)):
        assert Client().get("/readyz").content == b"mongodb: OK\nbroker: OK\n"


@pytest.mark.django_db
def test_probes_need_no_host_name_and_no_https(settings):
    settings.SECURE_SSL_REDIRECT = True
    for path in ("/livez", "/readyz"):
        assert Client().get(path, headers={"Host": "10.1.2.3:8000"}).status_code == 200
    assert Client().get("/api/v1/health").status_code == 301
