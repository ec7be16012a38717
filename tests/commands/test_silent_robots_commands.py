"""`manage.py end_wait` and `free_lane`: an operator does not wait for a robot that is silent."""

import json
import uuid

import pytest

from fmv import audit
from tasks.models import Status, Task
from tests.support.commands import run
from tests.support.factories import make_robot
from tests.support.probes import PAST, make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def on_robot(status: Status, **fields) -> Task:
    make_robot(name="R2")
    return make_task_in(status, **{"robot": "R2", "handler": "turn", "runs_on": "robot", "attempt": 1} | fields)


def test_it_ends_the_wait_for_a_robot():
    task = on_robot(Status.STARTED, out_of_contact_since=PAST, max_attempts=2)
    asked = run("end_wait", str(task.pk))
    assert (asked.status, "R2 may still move. End its task turn?" in asked.err) == (2, True)
    assert Task.objects.get(pk=task.pk).status == Status.STARTED
    outcome = run("end_wait", str(task.pk), "--yes")
    assert (outcome.status, outcome.out) == (0, "The attempt is over: the task is RETRY.\n")
    assert Task.objects.get(pk=task.pk).status == Status.RETRY
    [entry] = audit.of("task", task.pk)
    assert (entry.action, entry.by) == ("task.end", "command")
    again = run("end_wait", str(task.pk), "--yes")
    assert (again.status, "Only a running task whose robot is out of contact" in again.err) == (1, True)


def test_it_frees_a_lane():
    task = on_robot(Status.FAILURE, lane="R2/0")
    asked = run("free_lane", str(task.pk))
    assert (asked.status, "Does R2 stand still?" in asked.err) == (2, True)
    assert Task.objects.get(pk=task.pk).lane == "R2/0"
    outcome = run("free_lane", str(task.pk), "--yes", "--json")
    assert (outcome.status, json.loads(outcome.out)) == (0, {"task": str(task.pk), "lane": "R2/0"})
    assert Task.objects.get(pk=task.pk).lane is None
    [entry] = audit.of("task", task.pk)
    assert (entry.action, entry.by) == ("task.free_lane", "command")
    again = run("free_lane", str(task.pk), "--yes")
    assert (again.status, "The task keeps no lane" in again.err) == (1, True)


@pytest.mark.parametrize("command", ["end_wait", "free_lane"])
def test_a_task_that_there_is_not_is_refused(command):
    id = uuid.uuid4()
    outcome = run(command, str(id), "--yes")
    assert (outcome.status, f"There is no task {id}." in outcome.err) == (1, True)
