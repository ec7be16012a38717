"""FMV's own code fails between claim and outcome: the task is handed back at once, and a broken process ends."""

import contextlib
import logging
import os
from typing import Any

import pytest
from django.db import DatabaseError
from pymongo.errors import AutoReconnect

from fmv.monitoring.logs import Console
from tasks.models import Status, Task
from tasks.queue import periodic
from tasks.worker import celery_hooks, isolation, process_end
from tasks.worker.attempt import MAX_HANDED_BACK, Attempt
from tasks.worker.claim import run_next
from tests.support.factories import make_task
from tests.support.probes import statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


class Fault(Exception):
    pass


def broken(*_: Any, **__: Any) -> None:
    raise Fault("FMV has a fault")


def run(task: Task) -> Task:
    with pytest.raises(Fault):
        run_next(task.robot, "message")
    return Task.objects.get(pk=task.pk)


@pytest.mark.parametrize("where", [(isolation.Contained, "__init__"), (Attempt, "_taking_interrupts")])
def test_a_task_whose_handler_was_not_called_is_handed_back_and_its_attempt_does_not_count(where, monkeypatch):
    task = make_task(handler="noop", params={}, max_attempts=1)
    with monkeypatch.context() as patch:
        patch.setattr(*where, broken)
        task = run(task)
    assert (task.status, task.uncounted, task.attempts_left) == (Status.RETRY, 1, 1)
    assert task.history[-1]["note"].startswith("handed back: FMV's own code failed: Fault")
    periodic.promote_due()
    run_next(task.robot, "message")
    assert Task.objects.get(pk=task.pk).status == Status.SUCCESS


def test_a_task_that_fails_fmv_each_time_ends(monkeypatch):
    task = make_task(handler="noop", params={}, max_attempts=1, attempt=MAX_HANDED_BACK, uncounted=MAX_HANDED_BACK)
    monkeypatch.setattr(isolation.Contained, "__init__", broken)
    task = run(task)
    assert (task.status, task.error["type"]) == (Status.FAILURE, "InternalError")


@pytest.mark.parametrize(("attempts", "status"), [(1, Status.FAILURE), (2, Status.RETRY)])
def test_a_task_whose_outcome_fmv_cannot_write_counts_its_attempt(attempts, status, monkeypatch):
    monkeypatch.setattr(Attempt, "_conclude", broken)
    task = run(make_task(handler="noop", params={}, max_attempts=attempts))
    assert (task.status, task.error["type"], task.uncounted) == (status, "InternalError", 0)
    assert "FMV has a fault" in task.error["message"]


def test_a_cancelled_task_that_fails_fmv_is_stopped(monkeypatch):
    def cancel_and_break(attempt: Attempt, *_: Any) -> None:
        Task.objects.get(pk=attempt.task_id).request_cancel("cancel")
        raise Fault

    monkeypatch.setattr(Attempt, "_conclude", cancel_and_break)
    task = run(make_task(handler="noop", params={}, max_attempts=3))
    assert task.status == Status.REVOKED
    assert statuses(task)[-1] == "REVOKED"


def test_a_process_that_cannot_be_prepared_takes_no_task(monkeypatch, caplog):
    def exit_with(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr(process_end, "prepare", broken)
    monkeypatch.setattr(os, "_exit", exit_with)
    with pytest.raises(SystemExit, match="1"):
        celery_hooks.on_fork(sender="work@here")
    assert "cannot be prepared" in caplog.text


def test_a_process_in_which_fmv_failed_twice_in_a_row_ends():
    for errors, ends in [([Fault(), None, Fault()], False), ([Fault(), Fault()], True)]:
        process_end._why, process_end._failures = "", 0
        for error in errors:
            handle_message(error)
        assert process_end.is_ending() is ends
    process_end._failures = 0


def test_a_process_does_not_end_because_mongodb_cannot_be_reached():
    error = DatabaseError()
    error.__cause__ = AutoReconnect()
    for _ in range(3):
        handle_message(error)
    assert not process_end.is_ending()


def handle_message(error: Exception | None) -> None:
    with contextlib.suppress(Fault, DatabaseError), process_end.handling_message():
        if error:
            raise error


@pytest.mark.parametrize("closed", [False, True])
def test_a_log_line_that_cannot_be_written_fails_nothing(closed, monkeypatch):
    descriptor = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr("fmv.monitoring.logs.STDERR", -1 if closed else descriptor)
    Console().handle(logging.makeLogRecord({"msg": "a line"}))
    os.close(descriptor)


def test_a_log_line_that_cannot_be_formatted_says_where_it_is_from(monkeypatch, tmp_path):
    with (tmp_path / "log").open("wb") as log:
        monkeypatch.setattr("fmv.monitoring.logs.STDERR", log.fileno())
        Console().handle(logging.makeLogRecord({"msg": "%d", "args": ("one",), "pathname": "a.py", "lineno": 7}))
    said = (tmp_path / "log").read_text()
    assert said.startswith("The log line of a.py:7 cannot be shown.\nTraceback")
    assert "TypeError: %d format" in said
