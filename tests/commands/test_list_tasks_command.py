"""`manage.py list_tasks`: tasks that match, as lines for people or for programs."""

import datetime as dt
import json

import pytest
from django.utils import timezone

from fmv.mongodb.uuid7 import id_at
from tasks.api.serializers import RobotTaskSerializer
from tasks.models import Status, Task
from tests.support.commands import run
from tests.support.factories import make_task
from tests.support.probes import FUTURE, PAST, make_task_in

pytestmark = pytest.mark.django_db(transaction=True)

NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)


def listed(*arguments) -> list[str]:
    """The ids of the tasks that are listed."""
    outcome = run("list_tasks", *arguments)
    assert outcome.status == 0, outcome.err
    ids = [line.split()[0] for line in outcome.out.splitlines()[1:]]
    programs = run("list_tasks", *arguments, "--json").out
    assert [json.loads(line)["task_id"] for line in programs.splitlines()] == ids
    return ids


def test_it_lists_all_tasks_newest_first():
    tasks = [make_task_in(status) for status in Status]
    assert listed() == [str(task.pk) for task in reversed(tasks)]
    assert listed("--limit", "2") == [str(task.pk) for task in reversed(tasks)][:2]


def test_a_line_shows_the_essential():
    task = make_task_in(
        Status.FAILURE,
        robot="Crow T. Robot",
        attempt=2,
        finished_at=NOW,
        error={"type": "ValueError", "message": "no\nnumber", "traceback": "…"},
    )
    head, line = run("list_tasks").out.splitlines()
    assert head.split() == ["ID", "STATUS", "ROBOT", "HANDLER", "ATTEMPT", "CREATED", "FINISHED", "ERROR"]
    created = f"{task.created_at:%Y-%m-%d %H:%M:%S}"
    assert line == (
        f"{task.pk}  FAILURE    Crow T. Robot     wait        2/3      {created}  2026-11-23 12:00:00  "
        "ValueError: no\\nnumber"
    )
    assert line.index("FAILURE") == head.index("STATUS")


def test_json_is_the_task_of_the_api():
    task = make_task_in(Status.SUCCESS, labels=["é"], result={"a": [1]})
    [line] = run("list_tasks", "--json").out.splitlines()
    stored = Task.objects.get(pk=task.pk)
    assert json.loads(line) == RobotTaskSerializer(stored).data
    assert line.startswith('{"task_id":"')


def test_none_match():
    assert listed() == []
    assert run("list_tasks", "--json").out == ""


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--status", "success", "--status", "REVOKED"], {"status": "SUCCESS"}),
        (["--robot", "Crow T. Robot"], {"robot": "Crow T. Robot"}),
        (["--handler", "primes"], {"handler": "primes"}),
        (["--label", "night"], {"labels": ["day", "night"]}),
        (["--requested-by", "fry"], {"requested_by": "fry"}),
        (["--created-after", "1h"], {}),
        (["--created-before", "2026-11-23T12:00:00Z"], {"id": id_at(NOW - dt.timedelta(seconds=1))}),
        (["--finished-after", "2026-11-23T12:00:00Z"], {"status": "SUCCESS", "finished_at": NOW}),
        (["--finished-before", "2026-11-23"], {"status": "SUCCESS", "finished_at": NOW - dt.timedelta(days=1)}),
        (["--stuck"], {"status": "SCHEDULED", "run_at": PAST}),
        (["--queued-before", "1h"], {"id": id_at(NOW)}),
        (["--error", "TimedOut"], {"status": "FAILURE", "error": {"type": "TimedOut", "message": "", "traceback": ""}}),
    ],
)
def test_a_filter_narrows_the_list(arguments, fields, monkeypatch):
    if "--created-after" not in arguments:
        other = make_task(robot="other", status=Status.STARTED, lane="other/0", lease_expires_at=FUTURE)
    else:
        other = make_task(robot="other", id=id_at(timezone.now() - dt.timedelta(hours=2)))
    if fields.get("id"):
        monkeypatch.setattr(timezone, "now", lambda: NOW + dt.timedelta(hours=2))
    wanted = make_task(**{"robot": "wanted"} | fields)
    assert listed(*arguments) == [str(wanted.pk)]
    assert str(other.pk) in listed()


def test_tasks_are_found_by_their_ids():
    tasks = [make_task() for _ in range(3)]
    assert listed("--id", str(tasks[0].pk), "--id", tasks[2].pk.hex) == [str(tasks[2].pk), str(tasks[0].pk)]


def test_all_filters_must_hold():
    make_task(robot="a", handler="wait")
    make_task(robot="b", handler="primes")
    wanted = make_task(robot="a", handler="primes")
    assert listed("--robot", "a", "--handler", "primes") == [str(wanted.pk)]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--status", "DONE"],
        ["--limit", "0"],
        ["--created-after", "yesterday"],
        ["--id", "7"],
        ["--what"],
        ["a"],
    ],
)
def test_wrong_arguments_are_refused(arguments):
    assert run("list_tasks", *arguments).status != 0
