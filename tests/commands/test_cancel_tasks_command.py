"""`manage.py cancel_tasks`: and what all commands that act on many tasks have in common."""

import json
import os
import signal

import pytest

from fmv import audit
from tasks.models import Bulk, Status, Task
from tasks.models.bulk import BulkStatus
from tasks.queue import bulk
from tests.support.commands import run
from tests.support.factories import make_task
from tests.support.probes import before_nth, listening, make_task_in, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.fixture
def tasks():
    """A task in each status, and two more of another robot."""
    return {status: make_task_in(status, robot="R2") for status in Status} | {
        number: make_task(robot="C3") for number in range(2)
    }


def status_of(task):
    return Task.objects.get(pk=task.pk).status


def test_it_cancels_what_matches_and_is_not_over(tasks):
    outcome = run("cancel_tasks", "--robot", "R2", "--yes")
    assert (outcome.status, outcome.out, outcome.err) == (0, "4 cancelled.\n", "")
    for status in (Status.SCHEDULED, Status.QUEUED, Status.RETRY):
        assert statuses(tasks[status])[-1] == "REVOKED"
    running = Task.objects.get(pk=tasks[Status.STARTED].pk)
    assert (running.status, running.cancel_requested) == ("STARTED", True)
    assert "cancel asked for by command" in running.history[-1]["note"]
    for status in (Status.SUCCESS, Status.FAILURE, Status.REVOKED):
        assert status_of(tasks[status]) == status
    assert status_of(tasks[0]) == "QUEUED"


def test_a_reason_is_in_the_history_of_each_task(tasks):
    assert run("cancel_tasks", "--robot", "C3", "--yes", "--reason", "Wet floor").status == 0
    notes = {task.history[-1]["note"] for task in Task.objects.filter(robot="C3")}
    assert [note.endswith(": Wet floor") for note in notes] == [True]
    assert "Wet floor" in audit.of("bulk", Bulk.objects.get().pk)[0].text


def test_it_is_a_run_in_the_audit_list(tasks):
    answer = json.loads(run("cancel_tasks", "--robot", "C3", "--yes", "--json").out)
    assert answer == {"bulk": answer["bulk"], "found": 2, "done": 2, "skipped": 0, "failures": []}
    done = Bulk.objects.get(pk=answer["bulk"])
    assert (done.action, done.by, done.status, done.done) == ("cancel", "command", BulkStatus.DONE, 2)
    [entry] = audit.of("bulk", done.pk)
    assert (entry.action, entry.by, entry.request_id) == ("bulk.start", "command", done.request_id)


def test_a_dry_run_counts_and_shows_some_and_does_nothing(tasks):
    outcome = run("cancel_tasks", "--robot", "R2", "--dry-run")
    first, head, *lines = outcome.out.splitlines()
    assert (outcome.status, first) == (0, "4 tasks would be cancelled.")
    assert head.startswith("ID ")
    assert {line.split()[1] for line in lines} == {"SCHEDULED", "QUEUED", "STARTED", "RETRY"}
    answer = json.loads(run("cancel_tasks", "--robot", "C3", "--dry-run", "--json").out)
    assert answer == {"dry_run": True, "found": 2, "more": False, "sample": [str(tasks[n].pk) for n in (1, 0)]}
    assert not Bulk.objects.exists()
    assert status_of(tasks[0]) == "QUEUED"


def test_without_a_filter_all_must_be_meant(tasks):
    outcome = run("cancel_tasks", "--yes")
    assert outcome.status == 2
    assert "use --all" in outcome.err
    assert not Bulk.objects.exists()
    assert run("cancel_tasks", "--all", "--yes").out == "6 cancelled.\n"
    assert status_of(tasks[0]) == "REVOKED"


def test_where_nobody_can_answer_it_must_be_told_yes(tasks):
    outcome = run("cancel_tasks", "--robot", "R2")
    assert outcome.status == 2
    assert "4 tasks would be cancelled. Continue? There is no terminal to ask: use --yes." in outcome.err
    assert not Bulk.objects.exists()


def test_none_match(tasks):
    outcome = run("cancel_tasks", "--robot", "nobody", "--json")
    assert outcome.status == 0
    assert json.loads(outcome.out) == {"bulk": None, "found": 0, "done": 0, "skipped": 0, "failures": []}
    assert run("cancel_tasks", "--status", "SUCCESS").out == "No task matches.\n"
    assert not Bulk.objects.exists()


def test_repeated_it_finds_nothing_more(tasks):
    run("cancel_tasks", "--robot", "C3", "--yes")
    assert run("cancel_tasks", "--robot", "C3", "--yes").out == "No task matches.\n"


def test_in_the_background_it_only_begins(tasks):
    outcome = run("cancel_tasks", "--robot", "C3", "--yes", "--background", "--json")
    begun = Bulk.objects.get()
    assert (outcome.status, json.loads(outcome.out)) == (0, {"bulk": str(begun.pk)})
    assert begun.status == BulkStatus.RUNNING
    assert status_of(tasks[0]) == "QUEUED"
    bulk.work_on_bulks()
    assert status_of(tasks[0]) == "REVOKED"


def test_interrupted_it_stops_cleanly_and_the_same_command_does_the_rest(tasks, monkeypatch):
    monkeypatch.setattr(bulk, "STEP_SIZE", 2)
    with listening(before_nth(1, "update tasks_task", lambda: os.kill(os.getpid(), signal.SIGINT))):
        outcome = run("cancel_tasks", "--all", "--yes")
    stopped = Bulk.objects.get()
    assert (stopped.status, stopped.open) == (BulkStatus.STOPPED, False)
    assert 0 < stopped.done < 6
    assert outcome.status == 130
    assert f"Stopped after {stopped.done} were cancelled. Run the same command again for the rest." in outcome.err
    assert Task.objects.unfinished().filter(cancel_requested=False).count() == 6 - stopped.done
    assert run("cancel_tasks", "--all", "--yes").out == f"{6 - stopped.done} cancelled.\n"
    assert not Task.objects.unfinished().filter(cancel_requested=False).exists()


def test_somebody_else_may_stop_it(tasks):
    with listening(before_nth(1, "update tasks_bulk", lambda: bulk.stop(Bulk.objects.get(), by="fry"))):
        outcome = run("cancel_tasks", "--robot", "C3", "--yes")
    assert outcome.status == 1
    assert "Another user has stopped it." in outcome.err
