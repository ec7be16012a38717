"""Heartbeats: of real workers, and of one in this process."""

import datetime as dt
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from django.db import DatabaseError

from fmv.mongodb.server import server_now
from tasks.models import Task, WorkerProcess
from tasks.models.worker_process import worker_name
from tasks.queue import services
from tasks.reports.fleet import current_fleet
from tasks.worker import heartbeat
from tasks.worker.heartbeat import Heartbeat
from tests.conftest import wait_until
from tests.support.factories import make_process, make_robot
from tests.support.probes import listening, pid_in, using_broker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(90)]


def names(processes) -> list[str]:
    return [process.name for process in processes]


# --- Real workers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(broker_url) -> Iterator[str]:
    """Each kind of broker, and this process rings there too."""
    with using_broker(broker_url):
        yield broker_url


def alive() -> list[WorkerProcess]:
    return [worker.process for worker in current_fleet().workers]


def long_unseen() -> None:
    """Make the last heartbeats a minute old."""
    WorkerProcess.objects.update(seen_at=server_now() - dt.timedelta(minutes=1))


@pytest.mark.slow
def test_a_worker_appears_runs_and_signs_off(broker, worker):
    running = worker(broker, processes=2)
    wait_until(lambda: len(alive()) == 2)
    one, other = alive()
    assert {one.node, other.node} == {one.node}
    assert one.node.startswith("worker@")
    assert (one.queues, one.stopped_at) == (["work"], None)
    assert current_fleet().busy == 0

    task = services.submit(
        {"robot": make_robot(name="R2").name, "handler": "wait", "params": {"seconds": 600}}, by="test"
    )
    wait_until(lambda: current_fleet().busy == 1)
    (busy,) = [worker for worker in current_fleet().workers if worker.task]
    assert busy.task is not None
    assert (busy.task["id"], busy.task["robot"], busy.task["handler"]) == (task.pk, "R2", "wait")
    assert Task.objects.get(pk=task.pk).worker == busy.process.name

    host_and_pid = busy.process.name.rpartition("-")[0]
    twin = make_process(f"{host_and_pid}-twin")  # in another container of the same host name
    services.cancel(task, by="test")
    running.terminate()
    assert running.wait(30) == 0
    assert [process.name for process in WorkerProcess.objects.filter(stopped_at=None)] == [twin.name]
    twin.delete()
    long_unseen()
    seen = current_fleet()
    assert (seen.workers, seen.lost) == ([], [])


def test_a_killed_worker_is_lost(broker, worker):
    running = worker(broker)
    wait_until(alive)
    (mine,) = alive()
    os.kill(running.pid, signal.SIGSTOP)  # both at once: a process whose main process has died signs off
    os.kill(pid_in(mine.name), signal.SIGKILL)
    os.kill(running.pid, signal.SIGKILL)
    running.wait(30)
    assert names(alive()) == [mine.name]  # its heartbeat is still recent
    long_unseen()
    seen = current_fleet()
    assert (seen.workers, names(seen.lost)) == ([], [mine.name])


@pytest.mark.slow
def test_a_killed_process_is_lost_and_the_one_that_replaces_it_appears(broker, worker):
    running = worker(broker)
    services.submit(
        {"robot": make_robot().name, "handler": "wait", "params": {"seconds": 600}, "max_attempts": 1}, by="test"
    )
    wait_until(lambda: current_fleet().busy)
    (mine,) = alive()
    os.kill(pid_in(mine.name), signal.SIGKILL)
    wait_until(lambda: len(alive()) == 2)  # its heartbeat is still recent
    WorkerProcess.objects.filter(pk=mine.pk).update(seen_at=server_now() - dt.timedelta(minutes=1))
    seen = current_fleet()
    assert names(seen.lost) == [mine.name]
    assert len(seen.workers) == 1
    os.killpg(running.pid, signal.SIGKILL)  # a polite stop takes seconds


def test_the_maintenance_worker_is_seen_too(maintenance):
    maintenance(os.environ["FMV_BROKER_URL"])
    wait_until(alive)
    (mine,) = alive()
    assert (mine.queues, mine.node.partition("@")[0]) == (["maintenance"], "maintenance")
    assert current_fleet().serves("maintenance")
    assert not current_fleet().serves("work")


# --- Heartbeats ------------------------------------------------------------------------------------------------------


@pytest.fixture
def beating() -> Iterator[Heartbeat]:
    """One that beats whenever it can; stopped after the test."""
    beating = Heartbeat("work@here", ["work", "other"])
    with patch.object(heartbeat, "INTERVAL", 0.01):
        yield beating
        beating._over.set()
        if beating.ident:
            beating.join()


def mine() -> WorkerProcess:
    return WorkerProcess.objects.get(pk=worker_name(os.getpid()))


def test_a_heartbeat_is_one_update(beating):
    beating._sign_on()
    with listening() as commands:
        beating._beat()
    assert commands.sent == ["update tasks_workerprocess"]


def test_it_writes_its_document_and_goes_on_updating_it(beating):
    beating.start()
    wait_until(WorkerProcess.objects.exists)
    first = mine()
    assert (first.node, first.queues, first.stopped_at) == ("work@here", ["other", "work"], None)
    wait_until(lambda: mine().seen_at > first.seen_at)
    assert mine().started_at == first.started_at
    beating.sign_off()
    beating.join()
    assert mine().stopped_at >= first.seen_at


def test_no_two_starts_of_a_worker_have_the_same_name_even_with_the_same_host_and_pid():
    code = (
        "import django; django.setup(); from tasks.models import worker_process; print(worker_process.worker_name(7))"
    )
    names = {subprocess.check_output([sys.executable, "-c", code], text=True).strip() for _ in range(2)}
    assert len(names) == 2
    assert {name.rpartition("-")[0] for name in names} == {f"{socket.gethostname()}/7"}


def test_an_earlier_process_of_that_number_makes_way(beating):
    make_process(worker_name(os.getpid()), ago=60, node="old", stopped_at=server_now())
    beating.start()
    wait_until(lambda: mine().node == "work@here")
    assert mine().stopped_at is None


def test_one_that_was_forgotten_appears_again(beating):
    beating.start()
    for _ in range(2):
        wait_until(WorkerProcess.objects.exists)
        WorkerProcess.objects.all().delete()
    wait_until(WorkerProcess.objects.exists)


def test_an_outage_of_mongodb_is_waited_out_with_one_line(beating, caplog):
    failures = []

    def refuse(self, **values):
        failures.append(values)
        raise DatabaseError("no")

    with caplog.at_level(logging.WARNING), patch.object(heartbeat, "server_now", side_effect=DatabaseError("no")):
        beating.start()
        wait_until(lambda: caplog.records)
    wait_until(WorkerProcess.objects.exists)
    caplog.clear()
    with caplog.at_level(logging.WARNING), patch("tasks.models.worker_process.WorkerProcessQuerySet.update", refuse):
        wait_until(lambda: len(failures) > 5)
    assert [record.name for record in caplog.records] == ["tasks.worker.heartbeat"]
    seen = mine().seen_at
    wait_until(lambda: mine().seen_at > seen)
    assert beating.is_alive()


def test_a_process_that_cannot_sign_off_ends_nevertheless(beating):
    beating._sign_on()
    with patch("tasks.models.worker_process.WorkerProcessQuerySet.update", side_effect=DatabaseError("no")):
        beating.sign_off()
    assert mine().stopped_at is None
