"""Each transition of a task: the statuses it starts from, the fields it writes; and a lost race changes nothing."""

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest

from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import id_at, time_of
from tasks.models import FINISHED, WAITING, Status, Task
from tasks.models.error_document import error_document
from tasks.models.task import LaneTaken
from tasks.models.transitions import TRANSITIONS, apply
from tasks.worker.lease import LEASE_GRACE
from tests.support.factories import make_robot, make_task
from tests.support.probes import (
    FUTURE,
    LEASE,
    PAST,
    changes,
    claim,
    fields_of,
    line,
    listening,
    make_task_in,
    started,
    take,
)

pytestmark = pytest.mark.django_db(transaction=True)

ERROR = error_document("ValueError", "broken")
RENEWAL = {"lease": LEASE, "grace": LEASE_GRACE}
END = {"status", "history", "lane", "lease_expires_at", "finished_at"}

#: name: (what is done with the task, from where, to where or None: it stays, the fields that change)
OF_A_TASK: dict[str, tuple[Callable[[Task], Any], tuple[Status, ...], Status | None, set[str]]] = {
    "succeed": (lambda task: task.succeed([1], "done"), (Status.STARTED,), Status.SUCCESS, END | {
        "result", "message", "progress"
    }),
    "fail": (lambda task: task.fail(ERROR), (Status.STARTED,), Status.FAILURE, END | {"error"}),
    "stop": (lambda task: task.stop("stopped"), (Status.STARTED,), Status.REVOKED, END),
    "retry": (lambda task: task.retry(ERROR, delay=60), (Status.STARTED,), Status.RETRY, {
        "status", "history", "lane", "lease_expires_at", "error", "run_at"
    }),
    "release": (lambda task: task.release("worker stops"), (Status.STARTED,), Status.RETRY, {
        "status", "history", "lane", "lease_expires_at", "uncounted", "run_at"
    }),
    "request_cancel": (lambda task: task.request_cancel("asked"), (Status.STARTED,), Status.STARTED, {
        "history", "cancel_requested", "cancel_requested_at"
    }),
    "revoke": (lambda task: task.revoke("asked"), WAITING, Status.REVOKED, {
        "status", "history", "finished_at", "cancel_requested"
    }),
    "promote": (lambda task: Task.objects.promote(server_now()), (Status.SCHEDULED, Status.RETRY),
        Status.QUEUED, {"status", "history"}),
    "fail_orphans": (lambda task: Task.objects.fail_orphans(), WAITING, Status.FAILURE, {
        "status", "history", "finished_at", "error"
    }),
    "prioritize": (lambda task: task.prioritize(9, "by amy"), WAITING, None, {"priority", "history"}),
    "start": (lambda task: claim(task.robot), (Status.QUEUED,), Status.STARTED, {
        "status", "history", "attempt", "lane", "worker", "message_id", "started_at", "lease_expires_at"
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_A_TASK)
def test_it_goes_from_its_states_only(name):
    act, sources, target, fields = OF_A_TASK[name]
    for status in Status:
        Task.objects.all().delete()
        task = make_task_in(status)
        before = fields_of(task)
        outcome: list[Any] = []
        changed = changes(task, lambda task=task, outcome=outcome: outcome.append(act(task)))
        assert bool(outcome[0]) is (status in sources), status
        assert outcome[0] in (True, False, 0, 1, None) or isinstance(outcome[0], Task)
        if status not in sources:
            assert changed == {}, status
            continue
        # A waiting task's `run_at` is cleared when it ends, and a QUEUED one has none to clear.
        assert set(changed) - {"run_at"} == (fields | {"changed_at"}) - {"run_at"}, status
        assert changed["changed_at"] == changed["history"][-1]["at"]
        assert changed.get("status", status) == (target or status)
        history = changed["history"]
        assert history[:-1] == before["history"], status
        assert history[-1]["status"] == (target or status)
        assert history[-1]["attempt"] == fields_of(task)["attempt"]
        assert abs(history[-1]["at"] - server_now()) < dt.timedelta(seconds=5)


@pytest.mark.parametrize("name", OF_A_TASK)
def test_it_is_one_write_of_one_document(name):
    act, sources, _, _ = OF_A_TASK[name]
    task = make_task_in(sources[0])
    with listening() as commands:
        assert act(task)
    assert commands.sent == [*(["aggregate tasks_task"] if name == "start" else []), "update tasks_task"]


@pytest.mark.parametrize("name", [name for name, transition in TRANSITIONS.items() if transition.fenced])
def test_a_fenced_transition_needs_the_attempt(name):
    with pytest.raises(TypeError, match="attempt"):
        apply(Task, {}, name)


def test_a_transition_sets_no_column_beyond_its_row():
    with pytest.raises(TypeError, match="lane"):
        apply(Task, {}, "revoke", lane=None)


@pytest.mark.parametrize("name", ["succeed", "fail", "stop", "retry", "release"])
def test_an_earlier_attempt_writes_nothing(name):
    task = make_task_in(Status.STARTED)
    Task.objects.filter(pk=task.pk).update(attempt=2)
    assert changes(task, lambda: OF_A_TASK[name][0](task)) == {}
    assert not OF_A_TASK[name][0](task)


@pytest.mark.parametrize("name", ["retry", "release"])
def test_a_task_that_is_being_cancelled_does_not_go_back_to_the_queue(name):
    task = make_task_in(Status.STARTED, cancel_requested=True)
    assert changes(task, lambda: OF_A_TASK[name][0](task)) == {}
    assert not OF_A_TASK[name][0](task)


def test_a_cancel_is_asked_for_once():
    task = make_task_in(Status.STARTED)
    assert task.request_cancel("asked")
    assert not task.request_cancel("asked again")
    assert [entry["note"] for entry in fields_of(task)["history"]] == ["", "", "asked"]


def test_a_cancelled_task_may_still_succeed():
    task = make_task_in(Status.STARTED, cancel_requested=True)
    assert task.succeed(None, "")
    assert fields_of(task)["status"] == Status.SUCCESS


@pytest.mark.parametrize("name", ["fail", "stop", "retry"])
def test_a_recovery_takes_only_tasks_whose_lease_is_as_it_was_read(name):
    act = {
        "fail": lambda task: task.fail(ERROR, if_unrenewed=True),
        "stop": lambda task: task.stop("", if_unrenewed=True),
        "retry": lambda task: task.retry(ERROR, delay=0, if_unrenewed=True),
    }[name]
    worker = started()
    read = Task.objects.get()
    assert worker.renew(**RENEWAL)
    assert not act(read)
    assert act(Task.objects.get())


def test_success_keeps_any_result_as_it_is():
    results = [None, 0, "", "$robot", {"$add": [1, 1]}, {"a.b": {"$x": [None]}}, [[]], {"": True}, 2**62, 1.5, "é\0"]
    for result in results:
        task = started()
        assert task.succeed(result, "$message")
        assert fields_of(task)["result"] == result
        assert fields_of(task)["message"] == "$message"


def test_success_forgets_the_error_of_the_attempt_before():
    task = make_task_in(Status.STARTED, error=ERROR)
    assert task.succeed(1, "")
    assert fields_of(task)["error"] is None
    assert fields_of(task)["progress"] == 100


def test_a_failure_is_noted_in_the_history_in_short():
    task = started()
    assert task.fail(error_document("ValueError", "x" * 5000, "t" * 50_000))
    stored = fields_of(task)
    assert stored["history"][-1]["note"] == ("ValueError: " + "x" * 5000)[:499] + "…"
    assert stored["error"]["message"] == "x" * 1999 + "…"
    assert len(stored["error"]["traceback"]) == 20_000


def test_a_retry_waits_for_its_delay_by_the_servers_clock():
    task = started()
    before = server_now()
    assert task.retry(ERROR, delay=60)
    after = server_now()
    minute = dt.timedelta(seconds=60)
    assert before + minute <= fields_of(task)["run_at"] <= after + minute
    assert Task.objects.promote(after) == 0
    assert Task.objects.promote(after + minute) == 1


def test_a_release_does_not_count_the_attempt():
    task = started(max_attempts=1)
    assert task.attempts_left == 0
    assert task.release("worker stops")
    stored = Task.objects.get(pk=task.pk)
    assert (stored.attempt, stored.uncounted, stored.attempts_left) == (1, 1, 1)


# --- Leases ----------------------------------------------------------------------------------------------------------


def test_a_claim_starts_the_next_attempt():
    task = make_task_in(
        Status.QUEUED, attempt=2, uncounted=1, run_at=PAST, progress=40.0, message="old", worker="host/7"
    )
    claimed = claim(task.robot, lane=3, worker="host/8", message_id="m8")
    stored = Task.objects.get(pk=task.pk)
    assert claimed is not None
    assert fields_of(claimed) == fields_of(stored)
    assert (stored.attempt, stored.lane, stored.worker, stored.message_id) == (3, f"{task.robot}/3", "host/8", "m8")
    assert (stored.run_at, stored.progress, stored.message, stored.cancel_requested) == (None, None, "", False)
    assert stored.lease_expires_at - stored.started_at == dt.timedelta(seconds=LEASE)


def test_a_lease_is_no_longer_than_the_timeout_and_some_grace():
    task = started(timeout=2.0)
    stored = fields_of(task)
    assert stored["lease_expires_at"] - stored["started_at"] == dt.timedelta(seconds=2 + LEASE_GRACE)
    assert task.renew(**RENEWAL)
    assert fields_of(task)["lease_expires_at"] <= server_now() + dt.timedelta(seconds=2 + LEASE_GRACE)


def test_a_renewal_changes_the_lease_even_after_the_servers_clock_has_jumped():
    task = started(timeout=60.0)
    for moved in (PAST, FUTURE):
        Task.objects.update(started_at=moved)
        assert "lease_expires_at" in changes(task, lambda: task.renew(**RENEWAL))
        assert fields_of(task)["lease_expires_at"] > server_now() + dt.timedelta(seconds=LEASE - 5)


def test_renewing_moves_the_lease_and_keeps_the_report():
    task = started()
    Task.objects.filter(pk=task.pk).update(lease_expires_at=PAST)
    before = server_now()
    changed = changes(task, lambda: task.renew(**RENEWAL, progress=20.0, message="$half"))
    assert set(changed) == {"lease_expires_at", "progress", "message", "changed_at"}
    assert (changed["progress"], changed["message"]) == (20.0, "$half")
    assert changed["lease_expires_at"] >= before + dt.timedelta(seconds=LEASE)


@pytest.mark.parametrize("message", ["$", "$$5 paid", "$robot", "$100.", "$.x", "{$ne: 1}"])
def test_a_report_is_no_expression(message):
    task = started()
    assert task.renew(**RENEWAL, progress=20.0, message=message)
    assert fields_of(task)["message"] == message


@pytest.mark.parametrize("status", [status for status in Status if status != Status.STARTED])
def test_only_a_started_task_renews(status):
    task = make_task_in(status)
    assert changes(task, lambda: task.renew(**RENEWAL, progress=20.0)) == {}
    assert not task.renew(**RENEWAL)


@pytest.mark.parametrize("fields", [{"attempt": 2}, {"cancel_requested": True}])
def test_a_renewal_fails_for_an_earlier_attempt_and_for_a_cancelled_one(fields):
    task = make_task_in(Status.STARTED)
    Task.objects.filter(pk=task.pk).update(**fields)
    assert changes(task, lambda: task.renew(**RENEWAL, progress=20.0)) == {}
    assert not task.renew(**RENEWAL)
    assert task.is_being_cancelled() is ("cancel_requested" in fields)


# --- Lanes -----------------------------------------------------------------------------------------------------------


def test_a_lane_is_held_by_one_task():
    running, waiting = started(robot="R"), make_task(robot="R")
    with pytest.raises(LaneTaken):
        claim("R")
    assert fields_of(waiting)["status"] == Status.QUEUED
    assert len(fields_of(waiting)["history"]) == 0
    assert running.succeed(None, "")
    assert claim("R")


def test_lanes_of_one_robot_are_no_lanes_of_another():
    for robot in ("R", "R/0", "r", "R/0/0"):
        assert started(robot=robot)


@pytest.mark.parametrize("status", [status for status in Status if status != Status.STARTED])
def test_no_task_but_a_started_one_holds_a_lane(status):
    for source in Status:
        for act, sources, target, _ in OF_A_TASK.values():
            if source in sources and target == status:
                Task.objects.all().delete()
                task = make_task_in(source)
                assert act(task)
                assert fields_of(task)["lane"] is None
                assert fields_of(task)["lease_expires_at"] is None


# --- Expiry ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", Status)
def test_only_tasks_that_never_started_expire(status):
    task = make_task_in(status, expires_at=PAST)
    expires = status in (Status.SCHEDULED, Status.QUEUED)
    changed = changes(task, lambda: Task.objects.expire(server_now()))
    if expires:
        assert set(changed) - {"run_at"} == {"status", "history", "finished_at", "changed_at"}
        assert (changed["status"], changed["history"][-1]["status"]) == (Status.REVOKED, Status.REVOKED)
        assert changed["history"][-1]["note"] == "expired before it started"
    else:
        assert changed == {}


def test_a_task_that_has_started_before_does_not_expire():
    task = make_task_in(Status.QUEUED, attempt=1, expires_at=PAST)
    assert Task.objects.expire(server_now()) == 0
    assert claim(task.robot)


def test_an_expired_task_is_not_started_but_revoked():
    task = make_task_in(Status.QUEUED, expires_at=PAST)
    robot = make_robot(name=task.robot)
    changed = changes(task, lambda: take(robot))
    assert changed.keys() == {"status", "history", "finished_at", "changed_at"}
    assert changed["history"][-1] | {"at": None} == line("REVOKED", 0, "expired before it started") | {"at": None}
    make_task(robot=robot, expires_at=FUTURE)
    assert take(robot)


def test_finished_means_that_no_transition_leaves():
    assert all(not set(sources) & set(FINISHED) for _, sources, _, _ in OF_A_TASK.values())


# --- Ids -------------------------------------------------------------------------------------------------------------


def test_ids_tell_their_time():
    task = make_task()
    assert abs(task.created_at - dt.datetime.now(dt.UTC)) < dt.timedelta(seconds=5)
    assert id_at(task.created_at) <= task.pk < id_at(task.created_at + dt.timedelta(milliseconds=1))
    assert time_of(id_at(PAST)) == PAST
