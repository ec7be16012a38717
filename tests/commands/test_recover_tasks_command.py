"""`manage.py recover_tasks`: what stands still goes on."""

import json

import pytest

from tasks.models import Status, Task
from tasks.queue import periodic
from tests.support.commands import run
from tests.support.factories import make_robot
from tests.support.probes import FUTURE, PAST, make_task_in, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.fixture(autouse=True)
def short_leases(settings):
    settings.ENVIRONMENT.lease_seconds = 0.2


@pytest.fixture
def stuck():
    """The output of `list_tasks --stuck`."""
    make_robot(name="R2")
    return [
        make_task_in(Status.STARTED, robot="R2", lease_expires_at=PAST, started_at=FUTURE),
        make_task_in(Status.STARTED, robot="C3", lease_expires_at=PAST, started_at=FUTURE, max_attempts=1),
        make_task_in(Status.SCHEDULED, robot="R2"),
    ]


def stuck_ids():
    return {line.split()[0] for line in run("list_tasks", "--stuck").out.splitlines()[1:]}


def test_it_sets_going_what_is_stuck(stuck, bells):
    assert stuck_ids() == {str(task.pk) for task in stuck}
    outcome = run("recover_tasks")
    assert outcome.status == 0
    assert outcome.out.startswith("Recovered from lost workers: 1 to FAILURE, 1 to RETRY.")
    assert [statuses(task)[-1] for task in stuck] == ["QUEUED", "FAILURE", "QUEUED"]
    assert "R2" in {robot for _, robot, _ in bells()}
    assert stuck_ids() == set()


def test_it_rings_for_robots_whose_doorbell_was_lost(bells):
    make_robot(name="R2")
    make_task_in(Status.QUEUED, robot="R2")
    answer = json.loads(run("recover_tasks", "--json").out)
    assert answer == {"lost": {}, "due": 0, "rung": 1}
    assert [robot for _, robot, _ in bells()] == ["R2"]


def test_more_are_lost_than_one_step_takes(monkeypatch):
    monkeypatch.setattr(periodic, "STEP_SIZE", 2)
    for number in range(5):
        make_task_in(Status.STARTED, robot=f"R{number}", lease_expires_at=PAST, started_at=FUTURE)
    assert json.loads(run("recover_tasks", "--json").out)["lost"] == {"RETRY": 5}


def test_repeated_it_finds_nothing(stuck):
    run("recover_tasks")
    assert run("recover_tasks").out.startswith("Recovered from lost workers: none. Queued because due: 0.")


def test_a_dry_run_counts_and_changes_nothing(stuck, bells):
    outcome = run("recover_tasks", "--dry-run")
    assert (outcome.status, outcome.out) == (0, "Lost: 2. Due: 1. Robots with work: 0.\n")
    assert json.loads(run("recover_tasks", "--dry-run", "--json").out) == {"dry_run": True, "lost": 2, "due": 1}
    assert Task.objects.started().count() == 2
    assert bells() == []
