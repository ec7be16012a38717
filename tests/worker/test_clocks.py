"""Clocks that are wrong or jump: no task runs twice or ends too early, and a lost one is still found."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import connection

from tasks.models import Status, Task
from tasks.queue import services
from tests.conftest import wait_until, with_database
from tests.support.clocks import ShiftedClock
from tests.support.factories import make_robot
from tests.support.probes import statuses, using_broker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.clocks, pytest.mark.timeout(120)]

SHORT_LEASE = {"FMV_LEASE_SECONDS": "3", "FMV_RENEW_SECONDS": "1"}
SHIFTS = (2, -2, 25, -25, 1 / 60)  # hours


@pytest.fixture
def broker(worker_id) -> Iterator[str]:
    name = f"fmv_test_broker_{worker_id}"
    with using_broker(with_database(os.environ["MONGODB_URI"], name)) as url:
        yield url
    connection.get_database().client.drop_database(name)


@pytest.fixture
def submitted(tmp_path) -> Callable[..., Task]:
    """Submit a task that leaves marks in a file."""

    def submit(**params: object) -> Task:
        run = {"robot": make_robot().name, "handler": "mark", "params": {"file": str(tmp_path / "marks"), **params}}
        return services.submit(run, by="test")

    return submit


def marks(tmp_path: Path) -> list[str]:
    """Return the kinds of the marks: "start", "end", "interrupted"."""
    file = tmp_path / "marks"
    return [line.split()[1] for line in file.read_text().splitlines()] if file.exists() else []


def status(task: Task) -> str:
    return str(Task.objects.get(pk=task.pk).status)


@pytest.mark.slow
def test_tasks_run_on_while_mongodbs_clock_jumps_and_a_lost_one_is_still_recovered(
    broker, worker, maintenance, submitted, mongodb_clock: ShiftedClock, tmp_path
):
    first = worker(broker, **SHORT_LEASE)
    maintenance(broker, **SHORT_LEASE)
    task = submitted(seconds=25, blocks=True)
    wait_until(lambda: marks(tmp_path))
    for hours in SHIFTS:
        mongodb_clock.shift(hours=hours)
        time.sleep(4)  # more than a lease
        assert statuses(task) == ["QUEUED", "STARTED"], f"after {hours:g} hours"
    wait_until(lambda: status(task) == Status.SUCCESS)
    assert marks(tmp_path) == ["start", "end"]

    lost = submitted(seconds=600)
    wait_until(lambda: marks(tmp_path)[2:] == ["start"])
    mongodb_clock.shift(hours=-25)
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: statuses(lost)[2:4] == ["RETRY", "QUEUED"])


def test_an_attempt_ends_when_its_machine_wakes_up_after_the_end_of_its_lease(
    broker, worker, submitted, clock: ShiftedClock, tmp_path
):
    worker(broker, **clock.environment)
    submitted(seconds=600, blocks=True)
    wait_until(lambda: marks(tmp_path))
    clock.shift(slept=31)
    wait_until(lambda: marks(tmp_path) == ["start", "interrupted"], seconds=9)  # the next renewal is 10 s away
    wait_until(lambda: "lost its lease" in (tmp_path / "worker.log").read_text())
