"""An attempt in this process: the outcome of each way in which a handler can end, or not end."""

import datetime as dt
import faulthandler
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from django.db import DatabaseError, connection

from fmv.mongodb.server import server_now
from tasks.models import Status, Task
from tasks.queue import periodic
from tasks.queue.result import MAX_RESULT, InvalidResult, storable
from tasks.registry import RetryPolicy
from tasks.worker import attempt
from tasks.worker.attempt import Attempt
from tasks.worker.claim import run_next
from tasks.worker.lease import INTERRUPT, LEASE_GRACE
from tests.conftest import wait_until, with_database
from tests.support.factories import make_robot, make_task
from tests.support.probes import FUTURE, a_lease_later, fields_of, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.fixture(autouse=True)
def fast(settings):
    settings.ENVIRONMENT.lease_seconds, settings.ENVIRONMENT.renew_seconds = (
        6.0,
        0.5,
    )  # a renewal that takes longer ends the process


def run_handler(handler: str, params: dict[str, Any] | None = None, **fields: Any) -> Task:
    task = make_task(handler=handler, params=params or {}, **fields)
    run_next(task.robot, "message")
    return Task.objects.get(pk=task.pk)


def later(seconds: float, act: Callable[[], object]) -> None:
    threading.Timer(seconds, act).start()


# --- Outcomes --------------------------------------------------------------------------------------------------------


def test_the_value_that_a_handler_returns_is_the_result():
    task = run_handler("echo", {"value": {"a": [1, None, "é"]}})
    assert (task.status, task.result, task.error) == (Status.SUCCESS, {"a": [1, None, "é"]}, None)
    assert statuses(task) == ["STARTED", "SUCCESS"]


def test_a_handler_gets_its_task_attempt_robot_and_parameters(handle):
    task = handle(lambda ctx: [ctx.task_id, ctx.attempt, ctx.robot.name, ctx.params.model_dump()])
    assert task.result == [str(task.pk), 1, task.robot, {}]


def test_an_error_is_kept_and_tried_again(handle):
    task = run_handler("fails", max_attempts=2)
    assert (task.status, task.attempt, task.attempts_left) == (Status.RETRY, 1, 1)
    assert (task.error["type"], task.error["message"]) == ("ValueError", "broken on purpose")
    assert "handlers.py" in task.error["traceback"]
    time.sleep(0.05)
    periodic.promote_due()
    run_next(task.robot, "message")
    task = Task.objects.get(pk=task.pk)
    assert (task.status, task.attempt, task.attempts_left) == (Status.FAILURE, 2, 0)
    assert statuses(task) == ["STARTED", "RETRY", "QUEUED", "STARTED", "FAILURE"]
    assert [entry["attempt"] for entry in task.history] == [1, 1, 1, 2, 2]
    assert task.history[1]["note"] == task.history[4]["note"] == "ValueError: broken on purpose"


def test_the_policy_says_when_it_is_tried_again(handle):
    def fail(ctx: Any) -> None:
        raise OSError("no")

    before = server_now()
    task = handle(fail, policy=RetryPolicy(first=100, factor=2, longest=1000), max_attempts=9, attempt=2, uncounted=1)
    waits = (task.run_at - before).total_seconds()
    assert task.attempt == 3
    assert 100 <= waits <= 205  # the second failure that counts: between half and all of 200 s


def test_a_permanent_error_ends_it():
    task = run_handler("fails-for-good", max_attempts=5)
    assert (task.status, task.error["type"], task.attempts_left) == (Status.FAILURE, "PermanentError", 4)


def test_a_handler_may_call_sys_exit():
    task = run_handler("exits")
    assert (task.status, task.error["type"], task.error["message"]) == (Status.FAILURE, "SystemExit", "3")


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, RecursionError, MemoryError, attempt.Interrupted])
def test_any_exception_of_a_handler_is_its_error(handle, error):
    def fail(ctx: Any) -> None:
        raise error("odd")

    task = handle(fail)
    assert (task.status, task.error["type"]) == (Status.FAILURE, error.__name__)


@pytest.mark.parametrize("value", ["nan", "object", "large", "number"])
def test_a_result_that_cannot_be_stored_is_a_failure_that_says_so(value):
    task = run_handler("result", {"value": value}, max_attempts=3)
    assert (task.status, task.error["type"], task.attempts_left) == (Status.FAILURE, "InvalidResult", 2)
    assert "result" in task.error["message"]
    assert task.result is None


def test_a_result_that_only_mongodb_refuses_is_a_failure_too(handle):
    collection = connection.get_collection("tasks_task")
    collection.create_index("result.once", unique=True, partialFilterExpression={"result.once": {"$exists": True}})
    try:
        make_task(status=Status.SUCCESS, result={"once": 1})
        task = handle(lambda ctx: {"once": 1}, max_attempts=3)
    finally:
        collection.drop_index("result.once_1")
    assert (task.status, task.error["type"]) == (Status.FAILURE, "InvalidResult")
    assert task.error["message"].startswith("MongoDB refuses the handler's result")


@pytest.mark.slow
@pytest.mark.parametrize("refusal", [{"errorCode": 133}, {"errorCode": 9001}, {"errorCode": 11600}])
def test_a_mongodb_that_cannot_take_the_outcome_now_gets_it_later(handle, refusal, fail_command, settings):
    settings.ENVIRONMENT.lease_seconds = 30  # the driver looks after 10 s whether a server that shuts down is back

    def run(ctx: Any) -> int:
        fail_command("update", **refusal)
        return 1

    task = handle(run)
    assert (task.status, task.result, task.error) == (Status.SUCCESS, 1, None)


def test_a_result_is_refused_for_what_is_wrong_with_it_only(handle, fail_command):
    with pytest.raises(DatabaseError):  # the user may not write, or its server's disk is full
        handle(lambda ctx: fail_command("update", errorCode=13))
    assert (Task.objects.get().error or {}).get("type") != "InvalidResult"


def test_a_result_that_never_ends_is_timed_out(handle):
    def endless(ctx: Any) -> Any:
        while True:
            yield 1
            time.sleep(0.1)

    task = handle(endless, timeout=1)
    assert (task.status, task.error["type"]) == (Status.FAILURE, "TimedOut")


@pytest.mark.parametrize(
    ("result", "stored"),
    [
        (None, None),
        ((1, 2), [1, 2]),
        ({1: dt.date(2020, 1, 1)}, {"1": "2020-01-01"}),
        ({"$set": {"a.b": 1}}, {"$set": {"a.b": 1}}),
        ("x" * (MAX_RESULT - 2), "x" * (MAX_RESULT - 2)),
    ],
)
def test_storable(result, stored):
    assert storable(result) == stored


def recursive() -> list[Any]:
    result: list[Any] = []
    result.append(result)
    return result


@pytest.mark.parametrize(
    "result",
    ["x" * (MAX_RESULT - 1), "é" * (MAX_RESULT // 2), float("inf"), {"a": {"b\0": 1}}, "\udce9", 2**63, recursive()],
    ids=[
        "too large",
        "too many bytes",
        "infinite",
        "NUL in a key",
        "half a character",
        "too large a number",
        "endless",
    ],
)
def test_not_storable(result):
    with pytest.raises(InvalidResult):
        storable(result)


def test_params_that_are_no_longer_valid_fail():
    task = run_handler("wait", {"minutes": 1})
    assert (task.status, task.error["type"]) == (Status.FAILURE, "CannotRun")
    assert "minutes" in task.error["message"]


# --- Reports ---------------------------------------------------------------------------------------------------------


def test_progress_and_log_lines_are_kept():
    task = run_handler("logs", {"value": 3})
    assert [line.text for line in task.log_lines()] == ["line 0", "line 1", "line 2"]
    assert {line.attempt for line in task.log_lines()} == {1}
    assert (task.progress, task.message) == (100, "half way")


def test_progress_is_seen_while_it_runs(handle):
    seen = []

    def report(ctx: Any) -> None:
        for percent in (-5, 250, 40):
            ctx.progress(percent, f"at {percent}")
            time.sleep(1.1)
            ctx.check()
            seen.append(tuple(Task.objects.values_list("progress", "message").get()))

    assert handle(report).status == Status.SUCCESS
    assert seen == [(0, "at -5"), (100, "at 250"), (40, "at 40")]


def test_odd_texts_harm_nothing(handle):
    def report(ctx: Any) -> None:
        ctx.log("caf\udce9")
        ctx.log("$robot" + "x" * 5000)
        ctx.progress(float("nan"), "caf\udce9" + "y" * 1000)
        time.sleep(1.2)
        ctx.check()

    task = handle(report)
    assert task.status == Status.SUCCESS
    assert [line.text for line in task.log_lines()] == ["caf?", ("$robot" + "x" * 5000)[:4000]]
    assert task.message == ("caf?" + "y" * 1000)[:500]


def test_a_chatty_handler_is_cut_short(handle, monkeypatch):
    monkeypatch.setattr(attempt, "MAX_LOG_LINES", 5)

    def chat(ctx: Any) -> None:
        for number in range(20):
            ctx.log(f"line {number}")

    lines = [line.text for line in handle(chat).log_lines()]
    assert lines == [*(f"line {n}" for n in range(4)), "(further lines of this attempt are not kept)"]


# --- Interrupts ------------------------------------------------------------------------------------------------------


def test_a_blocking_sleep_is_interrupted_at_the_timeout():
    before = time.monotonic()
    task = run_handler("sleeps", timeout=1, max_attempts=3)
    assert time.monotonic() - before < 25  # of ten minutes
    assert (task.status, task.error) == (
        Status.FAILURE,
        {"type": "TimedOut", "message": "Ran longer than 1 s", "traceback": ""},
    )


def test_a_tight_loop_is_interrupted_too(handle):
    def loop(ctx: Any) -> None:
        while True:
            pass

    assert handle(loop, timeout=1).error["type"] == "TimedOut"


def test_a_handler_that_swallows_one_interrupt_gets_another(handle):
    def swallow(ctx: Any) -> None:
        try:
            time.sleep(30)
        except BaseException:
            time.sleep(30)

    before = time.monotonic()
    assert handle(swallow, timeout=1).error["type"] == "TimedOut"
    assert time.monotonic() - before < 25


def test_a_handler_that_ends_when_interrupted_has_still_timed_out(handle):
    def fail(ctx: Any) -> None:
        try:
            time.sleep(30)
        finally:
            raise ValueError("on the way out")

    assert handle(fail, timeout=1, max_attempts=3).error["type"] == "TimedOut"


def test_a_cancel_is_noticed_by_a_handler_that_asks(handle):
    def ask(ctx: Any) -> None:
        Task.objects.get(pk=ctx.task_id).request_cancel("asked")
        while True:
            time.sleep(0.05)
            ctx.check()

    before = time.monotonic()
    task = handle(ask)
    assert time.monotonic() - before < 25  # its timeout is 30 s
    assert (task.status, task.history[-1]["note"]) == (Status.REVOKED, "stopped, as asked")
    assert (task.lane, task.error) == (None, None)


def test_a_cancel_is_noticed_for_a_handler_that_never_asks(handle):
    def block(ctx: Any) -> None:
        Task.objects.get(pk=ctx.task_id).request_cancel("asked")
        time.sleep(30)

    before = time.monotonic()
    assert handle(block).status == Status.REVOKED
    assert time.monotonic() - before < 25


def test_a_cancel_asked_during_the_last_failure_ends_as_cancelled(handle):
    def fail(ctx: Any) -> None:
        Task.objects.get(pk=ctx.task_id).request_cancel("asked")
        raise ValueError

    assert handle(fail, max_attempts=3).status == Status.REVOKED


def test_an_attempt_that_lost_its_task_writes_nothing(handle):
    taken: dict[str, Any] = {}

    def lose(ctx: Any) -> None:
        with a_lease_later():
            assert periodic.recover_lost() == {"RETRY": 1}
        taken.update(fields_of(Task.objects.get()))
        time.sleep(30)

    before = time.monotonic()
    task = handle(lose, max_attempts=3)
    assert time.monotonic() - before < 25
    assert fields_of(task) == taken
    assert taken["status"] == Status.QUEUED


def test_a_stopping_worker_releases_the_task(handle, bells):
    def block(ctx: Any) -> None:
        later(0.3, lambda: os.kill(os.getpid(), INTERRUPT))
        time.sleep(30)

    task = handle(block, max_attempts=1, priority=7)
    assert statuses(task) == ["STARTED", "RETRY", "QUEUED"]
    assert (task.attempt, task.uncounted, task.attempts_left, task.lane) == (1, 1, 1, None)
    assert ("tasks.run_next", task.robot, 7) in bells()


def test_a_stopping_worker_does_not_release_a_task_that_is_being_cancelled(handle, settings):
    settings.ENVIRONMENT.renew_seconds = 1.0

    def block(ctx: Any) -> None:
        Task.objects.get(pk=ctx.task_id).request_cancel("asked")
        os.kill(os.getpid(), INTERRUPT)
        time.sleep(30)

    assert handle(block, max_attempts=1).status == Status.REVOKED


def test_our_own_talk_with_mongodb_is_not_interrupted(handle, monkeypatch):
    store, done = Attempt._store_line, []

    def slow(attempt: Attempt, text: str) -> None:
        os.kill(os.getpid(), INTERRUPT)
        time.sleep(0.5)
        store(attempt, text)
        done.append(text)

    monkeypatch.setattr(Attempt, "_store_line", slow)
    task = handle(lambda ctx: [ctx.log("whole"), time.sleep(30)])
    assert done == ["whole"]
    assert [line.text for line in task.log_lines()] == ["whole"]
    assert statuses(task)[:2] == ["STARTED", "RETRY"]


def test_a_signal_outside_an_attempt_is_not_taken_for_one(handle):
    before = signal.signal(INTERRUPT, signal.SIG_IGN)
    try:
        assert handle(lambda ctx: 1).result == 1
        assert signal.getsignal(INTERRUPT) == signal.SIG_IGN
        os.kill(os.getpid(), INTERRUPT)
    finally:
        signal.signal(INTERRUPT, before)


# --- Leases ----------------------------------------------------------------------------------------------------------


def test_the_lease_is_renewed_while_the_handler_blocks(handle):
    def block(ctx: Any) -> None:
        before = Task.objects.get().lease_expires_at
        wait_until(lambda: Task.objects.get().lease_expires_at > before)

    task = handle(block)
    assert task.status == Status.SUCCESS, task.error
    assert connection.connection is not None


def sockets() -> int:
    """How many this process has open."""
    return sum("socket:" in os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))


def test_renewals_leave_no_connection_behind(handle):
    def block(ctx: Any) -> None:
        time.sleep(0.7)

    handle(block)
    before = sockets()
    for _ in range(3):
        handle(block)
    assert sockets() <= before + 1


def test_the_watchdog_is_disarmed_at_the_end(handle, monkeypatch):
    calls = []
    for name in ("dump_traceback_later", "cancel_dump_traceback_later"):
        real = getattr(faulthandler, name)

        def spy(*args: Any, name: str = name, real: Any = real, **kwargs: Any) -> None:
            calls.append((name, threading.current_thread().name))
            real(*args, **kwargs)

        monkeypatch.setattr(faulthandler, name, spy)
    renewers = {thread for thread in threading.enumerate() if thread.name.startswith("lease of")}
    assert handle(lambda ctx: time.sleep(1.2)).status == Status.SUCCESS
    assert calls[-1] == ("cancel_dump_traceback_later", "MainThread")
    assert len(calls) >= 3
    assert not renewers
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lease of")]


ALONE = """
import json, os, sys
import django
django.setup()
from tests.support.factories import make_robot, make_task
from tasks.worker.claim import run_next
task = make_task(robot=make_robot(name=sys.argv[1]), handler=sys.argv[2], params={}, timeout=float(sys.argv[3]))
run_next(task.robot, "message")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("handler", "timeout"), [("grips", 1), ("stubborn", 1)])
def test_a_process_that_cannot_be_interrupted_ends_itself(handler, timeout):
    uri = with_database(os.environ["MONGODB_URI"], connection.settings_dict["NAME"])
    before = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", ALONE, "Robot alone", handler, str(timeout)],
        env=os.environ | {"MONGODB_URI": uri, "FMV_LEASE_SECONDS": "30", "FMV_RENEW_SECONDS": "10"},
        stderr=subprocess.PIPE,
        check=False,
    )
    assert time.monotonic() - before < 40  # of minutes
    assert ended.returncode == 1
    assert b"Timeout" in ended.stderr
    task = Task.objects.get(robot="Robot alone")
    assert task.status == Status.STARTED
    assert task.lease_expires_at <= task.started_at + dt.timedelta(seconds=timeout + LEASE_GRACE)
    with a_lease_later(timeout):
        assert periodic.recover_from(task.worker, "message") == {"FAILURE": 1}
    assert Task.objects.get(pk=task.pk).error["type"] == "TimedOut"


# --- Doorbells -------------------------------------------------------------------------------------------------------


def test_the_tasks_of_a_robot_that_is_gone_are_ended():
    queued, later_on = make_task(robot="Gone"), make_task(robot="Gone", status=Status.SCHEDULED, run_at=FUTURE)
    over = make_task(robot="Gone", status=Status.SUCCESS)
    run_next("Gone", "message")
    assert [fields_of(task)["status"] for task in (queued, later_on, over)] == ["FAILURE", "FAILURE", "SUCCESS"]
    assert fields_of(queued)["error"]["type"] == "RobotGone"


def test_results_are_stored_as_json():
    task = run_handler("mark", {"file": os.devnull})
    assert json.loads(json.dumps(task.result)) == {"pid": os.getpid()}


def test_a_robot_without_a_task_is_no_error():
    run_next(make_robot().name, "message")


def test_a_report_that_stays_the_same_is_one_change(handle):
    def run(ctx):
        changed = []
        for _ in range(2):
            ctx.progress(10, "$$5 paid")
            time.sleep(2)
            changed.append(Task.objects.values_list("changed_at", "message").get())
        return changed[0] == changed[1], changed[0][1]

    task = handle(run)
    assert (task.status, task.result) == (Status.SUCCESS, [True, "$$5 paid"])
