"""The embedded Valkey, which carries the messages in development and tests: bounds, outages, and what it costs idle."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
import requests

from fmv.devstack.embedded_valkey import embedded_valkey
from fmv.publisher import MAX_EXPIRING, publisher
from tasks.models import Status, Task
from tests.conftest import wait_until
from tests.support.factories import make_robot
from tests.support.probes import using_broker


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of the test's own."""
    with embedded_valkey(tmp_path / "valkey") as url:
        yield url


def pid_of(tmp_path: Path) -> int:
    return int((tmp_path / "valkey.lock").read_text())


def client(url: str) -> Any:
    connection = kombu.Connection(url)
    return connection.default_channel.client


def submit(url: str, handler: str = "noop", **params: Any) -> float:
    """Return the seconds that the submit took."""
    body = {"handler": handler, "params": params}
    answer = requests.post(f"{url}/api/v1/robot/Bender/run", json=body, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.elapsed.total_seconds()


def test_messages_that_would_expire_do_not_pile_up_and_the_others_are_all_sent(server):
    with using_broker(server):
        for _ in range(MAX_EXPIRING + 50):
            publisher.send("tasks.run_next", ["Bender"], queue="work", expiration=60.0)
        assert publisher.flush(60)
        assert client(server).llen("work") == MAX_EXPIRING
        for _ in range(50):
            publisher.send("tasks.run_next", ["Bender"], queue="work")
        assert publisher.flush(60)
        assert client(server).llen("work") == MAX_EXPIRING + 50
        publisher.send("tasks.expire", queue="maintenance", expiration=60.0)
        assert publisher.flush(60)
        assert client(server).llen("maintenance") == 1


def test_a_message_has_no_priority_there_and_is_gone_once_a_worker_has_it(server, worker):
    make_robot(name="Bender")
    with using_broker(server):
        for priority in (0, 9, 5):
            publisher.send("tasks.run_next", [f"robot {priority}"], queue="work", priority=priority)
        assert publisher.flush(30)
        assert client(server).llen("work") == 3
        worker(server)
        wait_until(lambda: not client(server).llen("work"))
    assert not client(server).keys("unacked*")


@pytest.mark.slow
def test_nobody_waits_for_a_frozen_server_and_what_was_lost_is_sent_again(server, web, worker, maintenance, tmp_path):
    make_robot(name="Bender", lanes=2)
    url = web(server, FMV_ANONYMOUS="manager", FMV_WEB_PROCESSES="1")
    worker(server, processes=2)
    maintenance(server)
    submit(url)
    wait_until(Task.objects.filter(status=Status.SUCCESS).exists, message="the first task does not run")
    os.kill(pid_of(tmp_path), signal.SIGSTOP)
    try:
        wait_until(lambda: "broker: cannot be reached: " in requests.get(f"{url}/readyz", timeout=10).text)
        assert sorted(submit(url) for _ in range(20))[10] < 1
        wait_until(lambda: lost(url) >= 20)
        assert "\nfmv_broker_up 0.0\n" in requests.get(f"{url}/metrics", timeout=20).text
    finally:
        os.kill(pid_of(tmp_path), signal.SIGCONT)
    wait_until(lambda: requests.get(f"{url}/readyz", timeout=10).status_code == 200)
    wait_until(lambda: Task.objects.filter(status=Status.SUCCESS).count() == 21, 60, "the tasks wait")


def lost(url: str) -> float:
    text = requests.get(f"{url}/metrics", timeout=20).text
    return float(text.partition("\nfmv_doorbells_not_taken_total ")[2].partition("\n")[0] or 0)


@pytest.mark.slow
def test_workers_find_a_server_that_was_killed_and_started_again(web, worker, maintenance, tmp_path):
    make_robot(name="Bender")
    with embedded_valkey(tmp_path / "valkey") as server:
        url = web(server, FMV_ANONYMOUS="manager", FMV_WEB_PROCESSES="1")
        worker(server)
        maintenance(server)
        submit(url)
        wait_until(Task.objects.filter(status=Status.SUCCESS).exists, message="the first task does not run")
        os.kill(pid_of(tmp_path), signal.SIGKILL)
        assert submit(url) < 2
    with embedded_valkey(tmp_path / "valkey") as again:
        assert again == server
        wait_until(lambda: Task.objects.filter(status=Status.SUCCESS).count() == 2, 60, "the second task waits")


@pytest.mark.slow
def test_an_idle_worker_costs_two_commands_a_second_and_stops_at_once(server, worker):
    process = worker(server)
    wait_until(lambda: client(server).info("commandstats").get("cmdstat_brpop", {}).get("calls", 0) > 1)
    probe = client(server)
    before, began = probe.info("stats")["total_commands_processed"], time.monotonic()
    time.sleep(4)
    sent = probe.info("stats")["total_commands_processed"] - before
    assert sent / (time.monotonic() - began) <= 2
    process.terminate()
    assert process.wait(timeout=10) == 0


def test_a_socket_whose_name_would_be_too_long_is_made_elsewhere(tmp_path):
    path = tmp_path / ("x" * 100) / "valkey"
    with embedded_valkey(path) as url:
        assert str(path) not in url
        assert client(url).ping()
        socket = Path(url.removeprefix("redis+socket://"))
        assert socket.stat().st_mode & 0o777 == 0o700
    assert not socket.parent.exists()
