"""`manage.py run_task`: a task, and if wanted its end."""

import datetime as dt
import json
from uuid import UUID

import pytest
from django.utils import timezone

from tasks.models import LogLine, Status, Task
from tasks.worker.claim import run_next
from tests.support.commands import run
from tests.support.factories import make_robot

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

RUN_TASK = "tasks.management.commands.run_task"


@pytest.fixture(autouse=True)
def robot():
    return make_robot(name="R2")


def submitted(*arguments) -> Task:
    outcome = run("run_task", "R2", *arguments)
    assert outcome.status == 0, outcome.err
    return Task.objects.get(pk=UUID(outcome.out.strip()))


@pytest.fixture
def at_work(monkeypatch):
    """While the command pauses, the robot's next task runs."""
    monkeypatch.setattr(f"{RUN_TASK}.sleep", lambda seconds: run_next("R2", "message"))


def test_it_submits_a_task_and_prints_its_id(bells):
    task = submitted()
    assert (task.robot, task.handler, task.status, task.requested_by) == ("R2", "primes", "QUEUED", "command")
    assert task.request_id != "-"
    assert bells() == [("tasks.run_next", "R2", 4)]


def test_it_submits_a_task_with_all_its_options():
    task = submitted(
        "wait", "--params", '{"seconds": 1}', "--priority", "9", "--run-at", "30m", "--expires-at", "2030-01-01",
        "--timeout", "5", "--max-attempts", "2", "--label", "night", "--label", "lab", "--queue-anyway",
    )  # fmt: skip
    assert (task.handler, task.params["seconds"], task.priority, task.labels) == ("wait", 1, 9, ["night", "lab"])
    assert (task.status, task.timeout, task.max_attempts) == ("SCHEDULED", 5, 2)
    assert task.expires_at == dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
    assert dt.timedelta(minutes=29) < task.run_at - timezone.now() < dt.timedelta(minutes=31)


def test_parameters_come_one_by_one_too():
    assert submitted("wait", "--params", '{"seconds": 1}', "--param", "seconds=2.5").params["seconds"] == 2.5
    task = submitted("http", "--param", "path=/a=b", "--param", "method=GET")
    assert (task.params["path"], task.params["method"]) == ("/a=b", "GET")


def test_json_is_the_task_of_the_api():
    printed = json.loads(run("run_task", "R2", "wait", "--param", "seconds=1", "--json").out)
    assert (printed["robot"], printed["status"]) == ("R2", "QUEUED")
    assert Task.objects.filter(pk=printed["task_id"]).exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["nobody"], "There is no robot named 'nobody'."),
        (["R2", "dance"], "handler: No such handler; there are: "),
        (["R2", "wait", "--param", "seconds=soon"], "params.seconds: Input should be a valid number"),
        (["R2", "wait"], "params.seconds: Field required"),
        (["R2", "--priority", "10"], "priority: Ensure this value is less than or equal to 9."),
        (["R2", "--max-attempts", "101"], "max_attempts: Ensure this value is less than or equal to 100."),
        (["R2", "--label", " "], "labels.0: This field may not be blank."),
        (["R2", "--expires-at", "1h", "--run-at", "2h"], "expires_at: Must be later than now and than run_at"),
        (["R2", "--timeout", "0"], "'0' is not a number of seconds"),
        (["R2", "--params", "[]"], "not a JSON object"),
        (["R2", "--params", "{"], "params.1: JSON decode error"),
        (["R2", "http", "--params", '{"body": [1e400]}'], "params.body.0: NaN, Infinity and numbers beyond 1.8e308"),
        (["R2", "http", "--param", "body=18446744073709551616"], "params.body: Whole numbers beyond 64 bits"),
        (["R2", "http", "--param", r'body="\ud800"'], "params.body: Lone surrogates"),
        (["R2", "mark", "--param", "file=x", "--param", "seconds=Infinity"], "params.seconds: NaN, Infinity"),
        (["R2", "http", "--param", "path=\udcff"], "params.path: Lone surrogates"),
        (["R2", "--label", "\udcff"], "labels.0: "),
        (["\udcff"], "robot: Lone surrogates"),
        (["R2", "--param", "seconds"], "'seconds' is not NAME=VALUE"),
        ([], "required: robot"),
    ],
)
def test_what_is_refused_starts_nothing(arguments, reason):
    outcome = run("run_task", *arguments)
    assert outcome.status != 0
    assert reason in outcome.err
    assert not Task.objects.exists()


def test_a_robot_out_of_service_is_refused_without_queue_anyway(robot):
    type(robot).objects.filter(pk="R2").update(enabled=False)
    outcome = run("run_task", "R2")
    assert outcome.status == 1
    assert "out of service" in outcome.err
    assert submitted("--queue-anyway").status == "QUEUED"


# --- Waiting ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("at_work")
def test_it_waits_for_the_end():
    outcome = run("run_task", "R2", "primes", "--param", "count=10", "--wait")
    id, end = outcome.out.splitlines()
    assert (outcome.status, end) == (0, 'SUCCESS: {"up_to":10,"primes":4,"largest":7}')
    assert Task.objects.get(pk=id).status == Status.SUCCESS


@pytest.mark.usefixtures("at_work")
def test_it_prints_how_the_task_failed():
    outcome = run("run_task", "R2", "http", "--param", "path=/", "--max-attempts", "1", "--wait", "--json")
    printed = json.loads(outcome.out)
    assert (outcome.status, printed["status"]) == (1, "FAILURE")
    assert f"CommandError: FAILURE: {printed['error']['type']}: " in outcome.err


def test_it_waits_no_longer_than_wait_says():
    outcome = run("run_task", "R2", "--wait", "0.3")
    assert outcome.status == 1
    assert "After 0.3 s it is QUEUED." in outcome.err
    assert Task.objects.get().status == Status.QUEUED


@pytest.mark.usefixtures("at_work")
def test_it_follows_what_the_task_reports_and_logs():
    outcome = run("run_task", "R2", "primes", "--param", "count=10", "--follow")
    assert outcome.status == 0
    _, *reports, end = outcome.out.splitlines()
    assert end.startswith("SUCCESS: ")
    assert reports[-1].split("  ")[1:3] == ["SUCCESS", "100 %"]
    printed = run("run_task", "R2", "primes", "--param", "count=10", "--follow", "--json")
    assert json.loads(printed.out)["status"] == "SUCCESS"
    assert "SUCCESS  100 %" in printed.err


def test_a_log_line_is_printed_once(monkeypatch):
    from tasks.management.commands.run_task import Reports

    task, reports = submitted(), Reports()
    assert [line.split("  ")[1] for line in reports.of(task)] == ["QUEUED"]
    assert list(reports.of(task)) == []
    for text in ("one", "two\nlines"):
        LogLine.objects.create(task=task.pk, attempt=1, text=text)
    assert [line.split("  ")[1] for line in reports.of(task)] == ["one", "two\\nlines"]
    assert list(reports.of(task)) == []


def test_ctrl_c_ends_the_waiting_and_not_the_task(monkeypatch):
    def pressed(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"{RUN_TASK}.sleep", pressed)
    outcome = run("run_task", "R2", "--wait")
    task = Task.objects.get()
    assert outcome.status == 130
    assert f"Task {task.pk} continues; `cancel_tasks --id {task.pk}` cancels it." in outcome.err
    assert task.status == Status.QUEUED
    assert not task.cancel_requested
