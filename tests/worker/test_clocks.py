"""Clocks that are wrong or jump: no task runs twice or ends too early, and a lost one is still found."""

import datetime as dt
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests

from fmv.audit.models import AuditEntry
from fmv.mongodb.server import server_now
from robots.models import Robot
from tasks.models import Status, Task
from tasks.queue import services
from tests.conftest import wait_until
from tests.support.clocks import ShiftedClock
from tests.support.factories import make_robot
from tests.support.probes import statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.clocks, pytest.mark.timeout(120)]

SHORT_LEASE = {"FMV_LEASE_SECONDS": "3", "FMV_RENEW_SECONDS": "1"}
SHIFTS = (2, -2, 25, -25, 1 / 60)  # hours


@pytest.fixture
def broker(any_broker: str) -> str:
    return any_broker


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


@pytest.mark.slow
@pytest.mark.parametrize("hours", [2, -2, 25, -25])
def test_parts_whose_wall_clocks_are_wrong_from_the_start_and_then_jump_do_what_they_should(
    broker, worker, maintenance, web, clock: ShiftedClock, hours
):
    def start(robot: Robot | None = None, **run: object) -> str:
        address = f"{url}/api/v1/robot/{(robot or make_robot()).name}/run"
        answer = requests.post(address, json={"handler": "noop"} | run, timeout=9)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["task_id"])

    def at(**span: float) -> str:
        return (server_now() + dt.timedelta(**span)).isoformat()

    out_of_service = make_robot(enabled=False)
    AuditEntry.objects.create(by="amy", action="a.b", kind="robot", key="kept")
    clock.shift(hours=hours)
    maintenance(broker, **clock.environment)
    worker(broker, **clock.environment)
    url = web(broker, FMV_ANONYMOUS="manager", **clock.environment)
    for shift in (hours, -hours):
        clock.shift(hours=shift)
        at_once, soon = start(expires_at=at(minutes=1)), start(run_at=at(seconds=3), expires_at=at(minutes=1))
        later = start(run_at=at(hours=1))
        late = start(robot=out_of_service, expires_at=at(seconds=2), queue_anyway=True)
        ended = {at_once: Status.SUCCESS, soon: Status.SUCCESS, late: Status.REVOKED, later: Status.SCHEDULED}
        wait_until(lambda ended=ended: {id: status(Task(pk=id)) for id in ended} == ended)
        assert abs(Task.objects.get(pk=later).created_at - server_now()) < dt.timedelta(minutes=1)
    assert AuditEntry.objects.filter(key="kept").exists()
