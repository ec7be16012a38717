"""The fleet, read from heartbeats and from the tasks that run."""

import pytest
from django_celery_results.models import TaskResult

from fmv.mongodb.server import server_now
from tasks.models import Status, Task, WorkerProcess
from tasks.queue import periodic as steps
from tasks.reports.fleet import TASK_FIELDS, current_fleet
from tests.support.factories import make_process
from tests.support.pipelines import pipeline, stages
from tests.support.probes import listening, make_task_in, recorded_bells

pytestmark = pytest.mark.django_db(transaction=True)


def names(processes) -> list[str]:
    return [process.name for process in processes]


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
        make_process(name, ago=ago, stopped_at=stopped)
    task = make_task_in(Status.STARTED, worker="a/2", robot="R2")
    make_task_in(Status.STARTED, worker="elsewhere/1", robot="R3")
    make_task_in(Status.SUCCESS, worker="a/1")
    seen = current_fleet()
    assert [(w.process.name, w.task and w.task["id"]) for w in seen.workers] == [("a/1", None), ("a/2", task.pk)]
    assert names(seen.lost) == ["b/1", "b/2"]
    assert seen.busy == 1


def test_no_process_is_alive():
    seen = current_fleet()
    assert (seen.workers, seen.lost, seen.busy, seen.serves("work")) == ([], [], 0, False)


def test_it_costs_two_questions_beside_the_clock_however_many_there_are():
    with listening() as commands:
        for number in range(20):
            make_process(f"host/{number}", ago=number * 3)
            make_task_in(Status.STARTED, worker=f"host/{number}", robot=f"R{number}")
        commands.sent.clear()
        current_fleet()
    assert commands.sent == ["aggregate tasks_workerprocess", "aggregate tasks_task"]


def test_its_questions_are_answered_by_an_index():
    now = server_now()
    for queryset in (WorkerProcess.objects.alive(now), WorkerProcess.objects.alive_or_lost(now)):
        assert stages(queryset[:5]) == ["$match", "$sort", "$limit"]
        match = pipeline(queryset[:5])[0]["$match"]
        assert {"stopped_at", "seen_at"} <= set(str(match).replace("'", " ").split())
    running = Task.objects.run_by_any(["a/1"]).values(*TASK_FIELDS)[:5]
    assert stages(running) == ["$match", "$limit", "$project"]
    assert "STARTED" in str(pipeline(running)[0])


def test_processes_are_forgotten_a_day_after_they_were_seen(trusted_clock):
    for name, ago, stopped in (("a", 3600, None), ("b", 90_000, None), ("c", 90_000, server_now())):
        make_process(name, ago=ago, stopped_at=stopped)
    with recorded_bells():
        steps.forget_runs()
    assert names(WorkerProcess.objects.all()) == ["a"]
    assert not TaskResult.objects.exists()
