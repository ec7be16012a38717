"""Which workers are alive: real ones say so, and the fleet is read from what they said."""

import datetime as dt
import logging
import os
import signal
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from django.db import DatabaseError, connection
from django_celery_results.models import TaskResult

from fmv.mongodb.server import server_now
from tasks.models import Status, Task, WorkerProcess
from tasks.models.worker_process import worker_name
from tasks.queue import periodic as steps
from tasks.queue import services
from tasks.worker import heartbeat
from tests.conftest import wait_until, with_database
from tests.support.factories import make_robot
from tests.support.pipelines import pipeline, stages
from tests.support.probes import bell_box, listening, make_task_in, using_broker

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(90)]


def process(name: str = "host/1", *, ago: float = 0, **fields) -> WorkerProcess:
    """Store a process that was last seen so many seconds ago."""
    seen = server_now() - dt.timedelta(seconds=ago)
    fields = {"node": "work@host", "queues": ["work"], "started_at": seen, "seen_at": seen} | fields
    return WorkerProcess.objects.create(name=name, **fields)


def names(processes) -> list[str]:
    return [process.name for process in processes]


# --- Real workers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def broker(broker_url) -> Iterator[str]:
    """Each kind of broker, and this process rings there too."""
    with using_broker(broker_url):
        yield broker_url


def alive() -> list[WorkerProcess]:
    return [worker.process for worker in heartbeat.fleet().workers]


def long_unseen() -> None:
    """Let time pass: nobody was seen for a minute."""
    WorkerProcess.objects.update(seen_at=server_now() - dt.timedelta(minutes=1))


def test_a_worker_appears_runs_and_signs_off(broker, worker):
    running = worker(broker, processes=2)
    wait_until(lambda: len(alive()) == 2)
    one, other = alive()
    assert {one.node, other.node} == {one.node}
    assert one.node.startswith("worker@")
    assert (one.queues, one.stopped_at) == (["work"], None)
    assert heartbeat.fleet().busy == 0

    task = services.submit(
        {"robot": make_robot(name="R2").name, "handler": "wait", "params": {"seconds": 600}}, by="test"
    )
    wait_until(lambda: heartbeat.fleet().busy == 1)
    (busy,) = [worker for worker in heartbeat.fleet().workers if worker.task]
    assert busy.task is not None
    assert (busy.task["id"], busy.task["robot"], busy.task["handler"]) == (task.pk, "R2", "wait")
    assert Task.objects.get(pk=task.pk).worker == busy.process.name

    services.cancel(task, by="test")
    running.terminate()
    assert running.wait(30) == 0
    assert WorkerProcess.objects.filter(stopped_at=None).count() == 0
    long_unseen()
    fleet = heartbeat.fleet()
    assert (fleet.workers, fleet.lost) == ([], [])


def test_a_killed_worker_is_lost(broker, worker):
    running = worker(broker)
    wait_until(alive)
    (mine,) = alive()
    os.killpg(running.pid, signal.SIGKILL)
    running.wait(30)
    assert names(alive()) == [mine.name]  # nobody knows yet
    long_unseen()
    fleet = heartbeat.fleet()
    assert (fleet.workers, names(fleet.lost)) == ([], [mine.name])


def test_a_killed_process_is_lost_and_the_one_that_replaces_it_appears(broker, worker):
    running = worker(broker)
    services.submit(
        {"robot": make_robot().name, "handler": "wait", "params": {"seconds": 600}, "max_attempts": 1}, by="test"
    )
    wait_until(lambda: heartbeat.fleet().busy)
    (mine,) = alive()
    os.kill(int(mine.name.rpartition("/")[2]), signal.SIGKILL)
    wait_until(lambda: len(alive()) == 2)  # nobody knows yet of the death
    WorkerProcess.objects.filter(pk=mine.pk).update(seen_at=server_now() - dt.timedelta(minutes=1))
    fleet = heartbeat.fleet()
    assert names(fleet.lost) == [mine.name]
    assert len(fleet.workers) == 1
    os.killpg(running.pid, signal.SIGKILL)  # a polite stop takes seconds


def test_the_maintenance_worker_is_seen_too(maintenance, worker_id):
    name = f"fmv_test_presence_{worker_id}"
    maintenance(with_database(os.environ["MONGODB_URI"], name))
    try:
        wait_until(alive)
    finally:
        connection.get_database().client.drop_database(name)
    (mine,) = alive()
    assert (mine.queues, mine.node.partition("@")[0]) == (["maintenance"], "maintenance")
    assert heartbeat.fleet().serves("maintenance")
    assert not heartbeat.fleet().serves("work")


# --- Heartbeats ------------------------------------------------------------------------------------------------------


@pytest.fixture
def heart() -> Iterator[heartbeat.Heart]:
    """One that beats whenever it can; stopped after the test."""
    heart = heartbeat.Heart("work@here", ["work", "other"])
    with patch.object(heartbeat, "EVERY", 0.01):
        yield heart
        heart._over.set()
        if heart.ident:
            heart.join()


def mine() -> WorkerProcess:
    return WorkerProcess.objects.get(pk=worker_name(os.getpid()))


def test_a_heartbeat_is_one_update(heart):
    heart._appear()
    with listening() as commands:
        heart._beat()
    assert commands.sent == ["update tasks_workerprocess"]


def test_it_says_who_it_is_and_goes_on_saying_so(heart):
    heart.start()
    wait_until(WorkerProcess.objects.exists)
    first = mine()
    assert (first.node, first.queues, first.stopped_at) == ("work@here", ["other", "work"], None)
    wait_until(lambda: mine().seen_at > first.seen_at)
    assert mine().started_at == first.started_at
    heart.sign_off()
    heart.join()
    assert mine().stopped_at >= first.seen_at


def test_an_earlier_process_of_that_number_makes_way(heart):
    process(worker_name(os.getpid()), ago=60, node="old", stopped_at=server_now())
    heart.start()
    wait_until(lambda: mine().node == "work@here")
    assert mine().stopped_at is None


def test_one_that_was_forgotten_appears_again(heart):
    heart.start()
    for _ in range(2):
        wait_until(WorkerProcess.objects.exists)
        WorkerProcess.objects.all().delete()
    wait_until(WorkerProcess.objects.exists)


def test_an_outage_of_mongodb_is_waited_out_with_one_line(heart, caplog):
    failures = []

    def refuse(self, **values):
        failures.append(values)
        raise DatabaseError("no")

    with caplog.at_level(logging.WARNING), patch.object(heartbeat, "server_now", side_effect=DatabaseError("no")):
        heart.start()
        wait_until(lambda: caplog.records)
    wait_until(WorkerProcess.objects.exists)
    caplog.clear()
    with caplog.at_level(logging.WARNING), patch("tasks.models.worker_process.WorkerProcessQuerySet.update", refuse):
        wait_until(lambda: len(failures) > 5)
    assert [record.name for record in caplog.records] == ["tasks.worker.heartbeat"]
    seen = mine().seen_at
    wait_until(lambda: mine().seen_at > seen)
    assert heart.is_alive()


def test_who_cannot_sign_off_ends_all_the_same(heart):
    heart._appear()
    with patch("tasks.models.worker_process.WorkerProcessQuerySet.update", side_effect=DatabaseError("no")):
        heart.sign_off()
    assert mine().stopped_at is None


# --- The fleet -------------------------------------------------------------------------------------------------------


def test_busy_idle_lost_and_gone():
    for name, ago, stopped in (
        ("a/2", 0, None),
        ("a/1", 29, None),
        ("b/1", 31, None),
        ("b/2", 23 * 3600, None),
        ("c/1", 25 * 3600, None),
        ("d/1", 5, server_now()),
        ("d/2", 600, server_now()),
    ):
        process(name, ago=ago, stopped_at=stopped)
    task = make_task_in(Status.STARTED, worker="a/2", robot="R2")
    make_task_in(Status.STARTED, worker="elsewhere/1", robot="R3")
    make_task_in(Status.SUCCESS, worker="a/1")
    fleet = heartbeat.fleet()
    assert [(w.process.name, w.task and w.task["id"]) for w in fleet.workers] == [("a/1", None), ("a/2", task.pk)]
    assert names(fleet.lost) == ["b/1", "b/2"]
    assert fleet.busy == 1


def test_nobody_is_alive():
    fleet = heartbeat.fleet()
    assert (fleet.workers, fleet.lost, fleet.busy, fleet.serves("work")) == ([], [], 0, False)


def test_it_costs_three_questions_beside_the_clock_however_many_there_are():
    with listening() as commands:
        for number in range(20):
            process(f"host/{number}", ago=number * 3)
            make_task_in(Status.STARTED, worker=f"host/{number}", robot=f"R{number}")
        commands.sent.clear()
        heartbeat.fleet()
    assert commands.sent == ["aggregate tasks_workerprocess", "aggregate tasks_task", "aggregate tasks_workerprocess"]


def test_its_questions_are_answered_by_an_index():
    now = server_now()
    for queryset in (WorkerProcess.objects.alive(now), WorkerProcess.objects.lost(now)):
        assert stages(queryset[:5]) == ["$match", "$sort", "$limit"]
        match = pipeline(queryset[:5])[0]["$match"]
        assert {"stopped_at", "seen_at"} <= set(str(match).replace("'", " ").split())
    running = Task.objects.run_by_any(["a/1"]).values(*heartbeat.SHOWN)[:5]
    assert stages(running) == ["$match", "$limit", "$project"]
    assert "STARTED" in str(pipeline(running)[0])


def test_processes_are_forgotten_a_day_after_they_were_seen():
    for name, ago, stopped in (("a", 3600, None), ("b", 90_000, None), ("c", 90_000, server_now())):
        process(name, ago=ago, stopped_at=stopped)
    with bell_box():
        steps.forget_runs()
    assert names(WorkerProcess.objects.all()) == ["a"]
    assert not TaskResult.objects.exists()
