"""Brokers that neither take messages nor refuse them: a RabbitMQ over its watermarks, or stopped. Nobody waits."""

import socket
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests

from fmv.devstack import stack
from fmv.publisher import publisher
from tasks.models import Status, Task
from tests.conftest import wait_until
from tests.support.factories import make_robot
from tests.support.probes import using_broker
from tests.support.rabbitmq import RabbitMQ, rabbitmq

ALARM = "broker: takes no messages: BrokerBlocked"
#: what happens to the broker -> how it begins, how it ends, what /readyz says of it
OUTAGES: dict[str, tuple[Callable[[RabbitMQ], object], Callable[[RabbitMQ], object], str]] = {
    "memory": (
        lambda broker: broker.control("set_vm_memory_high_watermark", "0.00001"),
        lambda broker: broker.control("set_vm_memory_high_watermark", "0.4"),
        ALARM,
    ),
    "disk": (
        lambda broker: broker.control("set_disk_free_limit", "900000GB"),
        lambda broker: broker.control("set_disk_free_limit", "1MB"),
        ALARM,
    ),
    "stopped": (RabbitMQ.suspend, RabbitMQ.resume, "broker: cannot be reached: "),
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitMQ]:
    with rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


def submit(url: str, handler: str = "noop", **params: Any) -> float:
    """Return the seconds that the submit took."""
    body = {"handler": handler, "params": params}
    answer = requests.post(f"{url}/api/v1/robot/Bender/run", json=body, timeout=10)
    assert answer.status_code == 200, answer.text
    return answer.elapsed.total_seconds()


def ready(url: str) -> requests.Response:
    return requests.get(f"{url}/readyz", timeout=10)


@pytest.mark.slow
@pytest.mark.rabbitmq_server
@pytest.mark.parametrize("outage", OUTAGES)
def test_nobody_waits_for_a_broker_that_takes_nothing(outage, broker, web, worker, maintenance, run_process, tmp_path):
    begin, end, line = OUTAGES[outage]
    make_robot(name="Bender", lanes=2)
    url = web(broker.url, FMV_ANONYMOUS="manager", FMV_WEB_THREADS="4", FMV_WEB_PROCESSES="1")
    worker(broker.url, processes=2)
    maintenance(broker.url)
    wait_until(lambda: ready(url).status_code == 200)
    submit(url, "wait", seconds=4)
    wait_until(Task.objects.started().exists, message="the worker does not start")
    begin(broker)
    try:
        wait_until(lambda: line in ready(url).text, message=ready(url).text)
        with ThreadPoolExecutor(12) as pool:
            taken = sorted(pool.map(lambda _: submit(url), range(120)))
        assert taken[len(taken) // 2] < 1
        for path in ("/livez", "/api/v1/robot/", "/api/v1/task/"):
            assert requests.get(url + path, timeout=10).status_code == 200
        assert ready(url).status_code == 503
        assert "\nfmv_broker_up 0.0\n" in requests.get(f"{url}/metrics", timeout=20).text
        run_process("doctor", sys.executable, str(stack.ROOT / "manage.py"), "doctor", FMV_BROKER_URL=broker.url).wait(
            timeout=60
        )
        verdict = "It takes no messages: " if line == ALARM else "ERROR    broker "
        assert verdict in (tmp_path / "doctor.log").read_text()
        wait_until(Task.objects.filter(status=Status.SUCCESS).exists, message="the running task does not end")
    finally:
        end(broker)
    wait_until(lambda: ready(url).status_code == 200)
    wait_until(lambda: not Task.objects.unfinished().exists(), 60, "the tasks wait although the broker is back")
    assert Task.objects.filter(status=Status.SUCCESS).count() == 121


def test_a_thousand_messages_do_not_each_wait_for_a_silent_broker():
    listener = socket.create_server(("127.0.0.1", 0))
    with listener, using_broker(f"amqp://guest:guest@127.0.0.1:{listener.getsockname()[1]}//"):
        before = time.monotonic()
        for _ in range(1000):
            publisher.send("tasks.run_next", ["Bender"], queue="work")
        assert time.monotonic() - before < 20  # 0.02 s; waiting for each would take minutes
        assert publisher.flush(30)
        assert "timed out" in publisher.problem
