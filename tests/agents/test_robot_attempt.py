"""Each transition of a task that runs on a robot: the statuses it starts from, the fields it writes, and its fence."""

from collections.abc import Callable
from typing import Any

import pytest

from tasks.models import Status, Task
from tasks.models.error_document import error_document
from tasks.models.robot_attempt import RobotAttempt
from tasks.models.task import LaneTaken
from tests.support.probes import PAST, changes, fields_of, listening, make_task_in

pytestmark = pytest.mark.django_db(transaction=True)

ERROR = error_document("Stuck", "a chair")
STARTED, RETRY, QUEUED = Status.STARTED, Status.RETRY, Status.QUEUED
UNREPORTED = (STARTED, RETRY, QUEUED)
END = {"status", "history", "lane", "lease_expires_at", "finished_at", "reported"}


def attempt_of(task: Task, **other: Any) -> RobotAttempt:
    return RobotAttempt(**{"robot": task.robot, "task": task.pk, "attempt": task.attempt, "session": "s"} | other)


def make(status: Status, **fields: Any) -> Task:
    return make_task_in(status, **{"runs_on": "robot", "handler": "turn", "session": "s", "attempt": 1} | fields)


Act = Callable[[RobotAttempt], Any]
#: name: (what the agent does, from where, to where, the fields that change at most)
ROWS: dict[str, tuple[Act, tuple[Status, ...], Status, set[str]]] = {
    "regain_contact": (lambda mine: mine.regain_contact({"progress": 5.0}), (STARTED,), STARTED, {
        "history", "lease_expires_at", "progress",
    }),
    "regain": (lambda mine: mine.regain(f"{mine.robot}/0", {}), (RETRY, QUEUED), STARTED, {
        "status", "history", "lane", "lease_expires_at", "run_at", "error",
    }),
    "change_session": (lambda mine: mine.change_session("t", "kept"), (STARTED,), STARTED, {
        "history", "session", "lease_expires_at",
    }),
    "succeed": (lambda mine: mine.succeed([1]), UNREPORTED, Status.SUCCESS, END | {
        "result", "error", "progress", "run_at",
    }),
    "fail": (lambda mine: mine.fail(ERROR), UNREPORTED, Status.FAILURE, END | {"error", "run_at"}),
    "stop": (lambda mine: mine.stop("stopped"), UNREPORTED, Status.REVOKED, END | {"run_at"}),
    "retry": (lambda mine: mine.retry(ERROR, 60), UNREPORTED, RETRY, {
        "status", "history", "lane", "lease_expires_at", "error", "run_at", "reported",
    }),
    "release": (lambda mine: mine.release("no", 60), (STARTED,), RETRY, {
        "status", "history", "lane", "lease_expires_at", "uncounted", "run_at", "reported",
    }),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_it_goes_from_its_states_only(name):
    act, sources, target, fields = ROWS[name]
    for status in Status:
        Task.objects.all().delete()
        task = make(status)
        changed = changes(task, lambda task=task: act(attempt_of(task)))
        if status not in sources:
            assert changed == {}, status
            continue
        assert {"history", "changed_at"} <= set(changed) <= fields | {"changed_at"}, status
        assert changed.get("status", status) == target
        assert changed["history"][-1]["status"] == target


@pytest.mark.parametrize("other", [{"attempt": 2}, {"session": "t"}, {"robot": "another"}])
@pytest.mark.parametrize("name", [*ROWS, "renew"])
def test_nobody_else_does_it(name, other):
    act, sources, _, _ = ROWS.get(name, (lambda mine: mine.renew({"progress": 5.0}), (STARTED,), STARTED, set()))
    for status in sources:
        Task.objects.all().delete()
        task = make(status)
        assert changes(task, lambda task=task: act(attempt_of(task, **other))) == {}
        assert not act(attempt_of(task, **other))


@pytest.mark.parametrize("name", ["regain", "succeed", "fail", "stop", "retry", "release"])
def test_an_attempt_with_an_outcome_gets_no_other(name):
    act, sources, _, _ = ROWS[name]
    for status in sources:
        Task.objects.all().delete()
        task = make(status, reported={"attempt": 1, "outcome": "failed"})
        assert changes(task, lambda task=task: act(attempt_of(task))) == {}


@pytest.mark.parametrize("name", ["retry", "release"])
def test_a_task_that_is_being_cancelled_does_not_go_back_to_the_queue(name):
    task = make(STARTED, cancel_requested=True)
    assert changes(task, lambda: ROWS[name][0](attempt_of(task))) == {}


@pytest.mark.parametrize("name", ROWS)
def test_it_is_one_write(name):
    act, sources, _, _ = ROWS[name]
    task = make(sources[0])
    with listening() as commands:
        assert act(attempt_of(task))
    assert commands.sent == ["update tasks_task"]


def test_a_renewal_goes_on_while_a_cancel_waits_and_says_so():
    task = make(STARTED, cancel_requested=True)
    renewed = attempt_of(task).renew({"message": "$robot"})
    assert renewed["cancel_requested"] is True
    assert fields_of(task)["message"] == "$robot"


def test_a_renewal_without_news_changes_nothing_that_anybody_follows():
    task = make(STARTED)
    assert changes(task, lambda: attempt_of(task).renew({})).keys() == {"lease_expires_at"}


def test_a_silent_robot_does_not_come_back_without_a_line_in_the_history():
    task = make(STARTED, out_of_contact_since=PAST)
    assert attempt_of(task).renew({}) is None
    assert changes(task, lambda: attempt_of(task).regain_contact({})).keys() == {
        "history", "changed_at", "lease_expires_at", "out_of_contact_since",
    }  # fmt: skip


def test_a_lane_that_is_taken_cannot_be_regained():
    task = make(RETRY, robot="R2")
    make(STARTED, robot="R2")
    with pytest.raises(LaneTaken):
        attempt_of(task).regain("R2/0", {})
    assert fields_of(task)["status"] == RETRY


def test_each_handler_has_its_lease():
    for handler, seconds in (("turn", 30), ("grip", 60), ("drive", 60), ("gone", 60)):
        Task.objects.all().delete()
        task = make(STARTED, handler=handler, started_at=PAST)
        before = fields_of(task)["changed_at"]
        attempt_of(task).renew({})
        left = (fields_of(task)["lease_expires_at"] - before).total_seconds()
        assert seconds <= left < seconds + 20, handler


def test_a_first_lease_begins_anew_only_until_it_was_renewed():
    task = make(STARTED, started_at=PAST)
    assert not attempt_of(task).claim_again(15)
    Task.objects.filter(pk=task.pk).update(lease_expires_at=PAST.replace(second=15))
    assert attempt_of(task).claim_again(15)
    assert fields_of(task)["started_at"] > PAST


def test_a_revoked_task_may_keep_its_lane_until_it_is_freed():
    task = make(STARTED)
    assert not Task(pk=task.pk, robot=task.robot, attempt=1, lease_expires_at=PAST).stop_unconfirmed("")
    changed = changes(task, lambda: Task.objects.get(pk=task.pk).stop_unconfirmed("not confirmed"))
    assert changed.keys() == {"status", "history", "changed_at", "finished_at", "lease_expires_at"}
    assert Task.blocking(task.robot) == [task]
    changed = changes(task, lambda: Task.objects.get(pk=task.pk).free_lane("free"))
    assert changed.keys() == {"history", "changed_at", "lane"}
    assert not Task.objects.get(pk=task.pk).free_lane("free")
    assert Task.blocking(task.robot) == []


def test_so_may_one_that_failed_because_of_its_timeout():
    task = make(STARTED)
    assert not Task(pk=task.pk, robot=task.robot, attempt=1, lease_expires_at=PAST).fail_unconfirmed(ERROR, "")
    changed = changes(task, lambda: Task.objects.get(pk=task.pk).fail_unconfirmed(ERROR, "not confirmed"))
    assert changed.keys() == {"status", "history", "changed_at", "finished_at", "lease_expires_at", "error"}
    assert Task.blocking(task.robot) == [task]
    changed = changes(task, lambda: Task.objects.get(pk=task.pk).free_lane("free"))
    assert changed.keys() == {"history", "changed_at", "lane"}


@pytest.mark.parametrize("status", Status)
def test_a_cancel_is_confirmed_late_of_a_task_that_is_over_without_success(status):
    task = make(status, lane="R2/0", robot="R2")
    for other in ({"attempt": 2}, {"session": "t"}, {"robot": "another"}):
        assert not attempt_of(task, **other).stop_late("cancelled")
    changed = changes(task, lambda: attempt_of(task).stop_late("cancelled"))
    if status not in (Status.REVOKED, Status.FAILURE):
        assert changed == {}
        return
    assert changed.keys() == {"history", "changed_at", "lane", "reported"}
    assert changed["history"][-1]["status"] == status
    assert not attempt_of(task).stop_late("cancelled")
