"""A task for each of many robots: each once, with the same parameters, whatever dies on the way."""

import datetime as dt
from collections import Counter

import pytest

from fmv import audit
from fmv.errors import InvalidInput
from fmv.mongodb.server import server_now
from robots.models import Robot
from tasks.models import Bulk, Task
from tasks.models.bulk import BulkStatus
from tasks.queue import bulk, bulk_runs, submissions
from tasks.queue.errors import NothingToDo
from tests.queue.test_bulk_service import crash_now_and_then, run_with_crashes
from tests.support.factories import make_robot
from tests.support.probes import at_once

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

WAIT = {"handler": "wait", "params": {"seconds": 1}, "priority": 7, "labels": ["night"]}


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr(bulk_runs, "STEP_SIZE", 3)


def make_fleet(count: int) -> list[str]:
    return [make_robot(name=f"R{number:02}").name for number in range(count)]


def begin(names, **run) -> Bulk:
    return bulk_runs.start(names, WAIT | run, by="amy")


def counts(run):
    run.refresh_from_db()
    return run.found, run.done, run.skipped


def tasks_by_robot() -> Counter:
    return Counter(Task.objects.values_list("robot", flat=True))


def test_each_robot_gets_one_task_with_the_same_parameters(small_steps, bells):
    names = make_fleet(10)
    run = bulk.run(begin(names))
    assert (counts(run), run.status, run.expected) == ((10, 10, 0), BulkStatus.DONE, 10)
    assert tasks_by_robot() == dict.fromkeys(names, 1)
    for task in Task.objects.all():
        assert (task.handler, task.params, task.priority) == ("wait", {"seconds": 1.0, "steps": 10}, 7)
        assert (task.labels, task.requested_by, task.status) == (["night"], "amy", "QUEUED")
        assert task.request_id == run.request_id
    assert set(names) <= {argument for _, argument, _ in bells()}
    assert bulk.in_words(run) == "run tasks: handler wait, on 10 robots"
    [entry] = audit.of("bulk", run.pk)
    assert entry.text.startswith("run wait on R00, R01, ")


def test_robots_out_of_service_and_deleted_ones_are_left_out_with_the_reason(small_steps):
    names = make_fleet(4)
    Robot.objects.filter(pk="R01").update(enabled=False)
    Robot.objects.filter(pk="R02").delete()
    run = bulk.run(begin(names))
    assert counts(run) == (4, 2, 2)
    assert [(failure["robot"], failure["text"][:27]) for failure in run.failures] == [
        ("R01", "The robot is out of service"),
        ("R02", "It was deleted."),
    ]
    assert set(tasks_by_robot()) == {"R00", "R03"}
    again = bulk.run(begin(["R01"], queue_anyway=True))
    assert counts(again) == (1, 1, 0)


def test_times_are_kept_and_one_that_has_passed_meanwhile_is_a_reason():
    names, later = make_fleet(2), server_now() + dt.timedelta(hours=1)
    bulk.run(begin(names, run_at=later))
    assert set(Task.objects.values_list("run_at", "status")) == {(later, "SCHEDULED")}
    run = begin(names, expires_at=later)
    Bulk.objects.filter(pk=run.pk).update(
        orders=run.orders | {"run": run.orders["run"] | {"expires_at": server_now() - dt.timedelta(hours=1)}}
    )
    bulk.run(run)
    assert counts(run) == (2, 0, 2)
    assert "Must be later than now" in run.failures[0]["text"]


@pytest.mark.parametrize(
    ("names", "run", "error"),
    [
        ([], {}, NothingToDo),
        (["R00"], {"params": {"seconds": -1}}, InvalidInput),
        (["R00"], {"handler": "nosuch"}, InvalidInput),
        ([f"R{number}" for number in range(10_001)], {}, InvalidInput),
    ],
)
def test_what_no_robot_could_run_is_refused_before_it_begins(names, run, error):
    with pytest.raises(error):
        begin(names, **run)
    assert not Bulk.objects.exists()
    assert not Task.objects.exists()


def test_large_parameters_are_planned_in_parts(monkeypatch):
    monkeypatch.setattr(bulk_runs, "MAX_PLAN_SIZE", 3000)
    names = make_fleet(6)
    run = bulk.run(begin(names, labels=[f"label {number} {'x' * 40}" for number in range(20)]))
    assert counts(run) == (6, 6, 0)
    assert tasks_by_robot() == dict.fromkeys(names, 1)


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (bulk, "_write"),
        (bulk, "_carry_out"),
        (bulk_runs, "new_task"),
        (submissions, "store"),
        (bulk, "ring_for"),
        (Task.objects._queryset_class, "bulk_create"),
    ],
)
def test_a_run_that_dies_anywhere_goes_on_where_it_was(small_steps, monkeypatch, where, what):
    names = make_fleet(10)
    run = begin([*names, "gone"])
    crash_now_and_then(monkeypatch, where, what, chance=0.1 if what == "new_task" else 0.5)
    run_with_crashes(run)
    assert tasks_by_robot() == dict.fromkeys(names, 1)
    assert counts(run) == (11, 10, 1)


def test_several_work_on_one_run(small_steps):
    names = make_fleet(20)
    run = begin(names)
    at_once(*[lambda: bulk.run(Bulk.objects.get(pk=run.pk))] * 4)
    assert counts(run) == (20, 20, 0)
    assert tasks_by_robot() == dict.fromkeys(names, 1)


def test_a_run_that_is_stopped_makes_no_more_tasks(small_steps):
    run = begin(make_fleet(10))
    bulk.step(run)
    assert bulk.stop(run, by="amy")
    assert counts(run)[1] == Task.objects.count() == 3
