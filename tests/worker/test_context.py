"""The context that a handler gets: safe from any thread while its attempt runs, inert afterwards."""

import contextlib
import faulthandler
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tasks.models import LogLine, Status, Task
from tasks.worker import attempt
from tests.conftest import wait_until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

CALLS = {"progress": lambda ctx: ctx.progress(1), "log": lambda ctx: ctx.log("late"), "check": lambda ctx: ctx.check()}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_the_context_of_an_ended_attempt_does_nothing_but_raise(handle, monkeypatch, call):
    contexts: list[Any] = []
    monkeypatch.setattr(attempt, "REPORT_EVERY", 0.0)
    task = handle(contexts.append)
    assert task.status == Status.SUCCESS
    armed: list[object] = []
    monkeypatch.setattr(faulthandler, "dump_traceback_later", lambda *args, **options: armed.append(args))
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(call, contexts[0]).exception()
    assert isinstance(error, RuntimeError)
    assert str(error) == f"Attempt 1 of task {task.pk} has ended: its context can no longer be used."
    with pytest.raises(RuntimeError, match="has ended"):
        call(contexts[0])
    assert armed == []
    assert not LogLine.objects.filter(task=task.pk).exists()
    assert Task.objects.get(pk=task.pk).changed_at == task.changed_at


def test_a_thread_that_stays_after_its_attempt_harms_no_later_task(handle, monkeypatch):
    monkeypatch.setattr(attempt, "REPORT_EVERY", 0.0)
    errors: list[BaseException] = []

    def ask(ctx: Any) -> None:
        try:
            while True:
                ctx.check()
                ctx.log("still here")
        except BaseException as error:
            errors.append(error)

    def leave_a_thread(ctx: Any) -> None:
        threading.Thread(target=ask, args=[ctx], daemon=True).start()
        wait_until(LogLine.objects.exists)

    first = handle(leave_a_thread)
    ended_at = LogLine.objects.latest("id").pk
    second = handle(lambda ctx: time.sleep(0.5))
    wait_until(lambda: errors)
    assert [type(error) for error in errors] == [RuntimeError]
    assert (first.status, second.status) == (Status.SUCCESS, Status.SUCCESS)
    assert LogLine.objects.latest("id").pk == ended_at


def test_a_cancel_is_delivered_after_several_threads_have_used_the_context(handle, monkeypatch, settings):
    settings.ENVIRONMENT.renew_seconds = 0.5
    together, store = threading.Barrier(2), attempt.Attempt._store_line

    def overlapping(self: Any, text: str) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.5)  # where both threads may be here at once
        time.sleep(0.2 * (text == "slow"))
        store(self, text)

    monkeypatch.setattr(attempt.Attempt, "_store_line", overlapping)

    def use(ctx: Any) -> None:
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(ctx.log, ["quick", "slow"]))
        ctx.log("main")
        Task.objects.get(pk=ctx.task_id).request_cancel("asked")
        time.sleep(20)

    before = time.monotonic()
    task = handle(use)
    assert time.monotonic() - before < 18  # of its sleep
    assert (task.status, task.history[-1]["note"]) == (Status.REVOKED, "stopped, as asked")
    assert sorted(line.text for line in task.log_lines()) == ["main", "quick", "slow"]


def test_many_threads_may_log_and_report_at_once(handle, monkeypatch):
    monkeypatch.setattr(attempt, "REPORT_EVERY", 0.0)
    monkeypatch.setattr(attempt, "MAX_LOG_LINES", 60)

    def use(ctx: Any) -> None:
        def work(number: int) -> None:
            for line in range(20):
                ctx.log(f"{number}: {line}")
                ctx.progress(line, "working")

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))

    task = handle(use)
    assert task.status == Status.SUCCESS, task.error
    texts = [line.text for line in task.log_lines()]
    assert len(texts) == 60
    assert texts.count("(further lines of this attempt are not kept)") == 1


def test_a_thread_that_asks_ends_with_its_attempt(handle, settings):
    settings.ENVIRONMENT.renew_seconds = 0.2

    def use(ctx: Any) -> None:
        def work() -> None:
            while True:
                time.sleep(0.01)
                ctx.check()

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            Task.objects.get(pk=ctx.task_id).request_cancel("asked")
            working.result()

    before = time.monotonic()
    assert handle(use).status == Status.REVOKED
    assert time.monotonic() - before < 25  # its timeout is 30 s


def test_the_context_works_in_the_process_of_the_handler_only(handle):
    def use(ctx: Any) -> int:
        child = os.fork()
        if not child:
            try:
                ctx.log("from the child")
            except RuntimeError:
                os._exit(7)
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    task = handle(use)
    assert (task.status, task.result) == (Status.SUCCESS, 7)
    assert not task.log_lines().exists()


@pytest.mark.parametrize(("max_attempts", "status"), [(1, Status.FAILURE), (2, Status.RETRY)])
def test_what_was_reported_last_before_a_failure_is_kept(handle, max_attempts, status):
    def jam(ctx: Any) -> None:
        ctx.progress(10, "starting")
        ctx.progress(73, "jammed at waypoint 7")
        raise ValueError("no way")

    task = handle(jam, max_attempts=max_attempts)
    assert (task.status, task.progress, task.message) == (status, 73, "jammed at waypoint 7")


@pytest.mark.slow
def test_what_was_reported_last_before_a_cancel_is_kept(handle):
    def use(ctx: Any) -> None:
        ctx.progress(40, "turning")
        Task.objects.get(pk=ctx.task_id).request_cancel("asked")
        time.sleep(25)

    task = handle(use)
    assert (task.status, task.progress, task.message) == (Status.REVOKED, 40, "turning")
