"""The health of database and broker on pages: asked in a thread, once for all pages."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fmv.monitoring import servers
from tests.conftest import wait_until
from tests.support.probes import using_broker

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def empty_caches():
    for server in (servers.mongodb, servers.broker):
        server.forget()


def healthy(server: servers.Server) -> servers.Health:
    wait_until(lambda: server.health().state != "unknown")
    return server.health()


def test_servers_that_answer_say_what_they_are():
    for server in (servers.mongodb, servers.broker):
        answer = healthy(server)
        assert answer.state == "ok"
        assert answer.text.startswith("MongoDB " if server is servers.mongodb else "Valkey, answers in ")
        assert answer.text.endswith(" ms")


@pytest.mark.parametrize(
    ("url", "reason"),
    [("amqp://guest:guest@127.0.0.1:1/x", "refused"), ("redis+socket:///no/valkey.sock", "No such file")],
)
def test_a_dead_broker_is_named_with_since_when(url, reason):
    with using_broker(url):
        first = healthy(servers.broker)
        assert first.state == "error"
        assert "Cannot be reached" in first.text
        assert reason in first.text
        assert "guest" not in first.text
        servers.broker.ask_now()
        wait_until(lambda: not servers.broker.is_asking)
        assert servers.broker.health().since == first.since


def test_a_broker_that_says_nothing_holds_no_page_up():
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, using_broker(f"amqp://guest:guest@127.0.0.1:{listener.getsockname()[1]}//"):
        assert servers.broker.health().state == "unknown"  # it is still being asked
        assert healthy(servers.broker).state == "error"


def test_a_server_is_asked_once_however_many_look():
    asked, go = [], threading.Event()

    def ask() -> str:
        asked.append(1)
        go.wait(10)
        return "Server 1"

    server = servers.Server("Server", ask)
    assert {server.health().state for _ in range(3)} == {"unknown"}
    go.set()
    assert healthy(server).text.startswith("Server 1, answers in ")
    assert len(asked) == 1


def test_a_server_that_comes_back_is_well_again():
    answers = iter([OSError("away"), OSError("away"), "Server 2"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise servers.Unreachable(answer)
        return answer

    server = servers.Server("Server", ask)
    states = [healthy(server).state]
    for _ in range(2):
        server.ask_now()
        wait_until(lambda: not server.is_asking)
        states.append(server.health().state)
    assert states == ["error", "error", "ok"]


def test_many_probes_within_a_second_ask_the_server_once():
    asked = []
    server = servers.Server("Server", lambda: asked.append(1) or "Server 1")
    with ThreadPoolExecutor(8) as pool:
        assert {health.line for health in pool.map(lambda _: server.probe(), range(50))} == {"OK"}
    assert len(asked) <= 1 + (time.monotonic() - server._begun) / servers.PROBE_INTERVAL
