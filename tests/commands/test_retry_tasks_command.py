"""`manage.py retry_tasks`: what matches and is over, once more."""

import json

import pytest

from tasks.models import Status, Task
from tests.support.commands import run
from tests.support.factories import make_robot, make_task
from tests.support.probes import make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.fixture
def robot():
    return make_robot(name="R2")


def repeats(task) -> int:
    return Task.objects.filter(retry_of=task.pk).count()


def test_it_runs_what_failed_again(robot, bells):
    failed = [make_task_in(Status.FAILURE, robot="R2", labels=["night"]) for _ in range(3)]
    other = make_task_in(Status.SUCCESS, robot="R2")
    outcome = run("retry_tasks", "--status", "FAILURE", "--yes")
    assert (outcome.status, outcome.out) == (0, "3 retried.\n")
    assert [repeats(task) for task in (*failed, other)] == [1, 1, 1, 0]
    new = Task.objects.get(retry_of=failed[0].pk)
    assert (new.status, new.robot, new.labels, new.requested_by) == ("QUEUED", "R2", ["night"], "command")
    assert ("tasks.run_next", "R2", 4) in bells()


def test_repeated_it_leaves_out_what_was_tried_again(robot):
    failed = make_task_in(Status.FAILURE, robot="R2")
    run("retry_tasks", "--status", "FAILURE", "--yes")
    outcome = run("retry_tasks", "--status", "FAILURE", "--yes")
    assert outcome.status == 1
    assert f"{failed.pk}: It was retried already." in outcome.err
    assert repeats(failed) == 1
    assert run("retry_tasks", "--status", "FAILURE", "--again", "--yes").out == "1 retried.\n"
    assert repeats(failed) == 2


def test_what_cannot_be_retried_is_reported(robot):
    make_task_in(Status.FAILURE, robot="R2")
    lost = make_task_in(Status.FAILURE, robot="gone")
    outcome = run("retry_tasks", "--status", "FAILURE", "--yes", "--json")
    answer = json.loads(outcome.out)
    assert (outcome.status, answer["done"], answer["skipped"]) == (0, 1, 1)
    assert answer["failures"] == [{"task": str(lost.pk), "text": "The robot gone was deleted"}]
    assert f"{lost.pk}: The robot gone was deleted.\n" in outcome.err


def test_what_is_not_over_is_no_match(robot):
    task = make_task_in(Status.STARTED, robot="R2")
    assert run("retry_tasks", "--robot", "R2").out == "No task matches.\n"
    assert repeats(task) == 0


def test_a_dry_run_does_nothing(robot):
    task = make_task_in(Status.FAILURE, robot="R2")
    outcome = run("retry_tasks", "--robot", "R2", "--dry-run")
    assert outcome.out.splitlines()[0] == "1 task would be retried."
    assert str(task.pk) in outcome.out
    assert repeats(task) == 0


def test_the_number_leaves_out_what_was_retried_before(robot):
    task = make_task_in(Status.FAILURE, robot="R2")
    make_task_in(Status.FAILURE, robot="R2")
    make_task(robot="R2", status="SUCCESS", retry_of=task.pk)
    first = [
        run("retry_tasks", "--status", "FAILURE", "--dry-run", *more).out.splitlines()[0] for more in ([], ["--again"])
    ]
    assert first == ["1 task would be retried.", "2 tasks would be retried."]


def test_without_a_filter_or_a_yes_it_is_refused(robot):
    task = make_task_in(Status.FAILURE, robot="R2")
    assert run("retry_tasks", "--yes").status == 2
    assert run("retry_tasks", "--robot", "R2").status == 2
    assert repeats(task) == 0
