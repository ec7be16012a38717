"""Is it healthy, what is stuck, make room: three commands, as the README has them; and what failed last night."""

import datetime as dt
import json
from pathlib import Path

import pytest
from django.utils import timezone

from fmv.mongodb.uuid7 import id_at
from tasks.models import Status, Task
from tests.support.commands import run
from tests.support.factories import make_robot, make_task
from tests.support.probes import FUTURE, PAST, make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def tasks_verdict():
    checks = json.loads(run("doctor", "--json").out)
    return next((check["ok"], check["message"]) for check in checks if check["check"] == "tasks")


@pytest.mark.slow
def test_is_it_healthy_what_is_stuck_make_room(tmp_path):
    make_robot(name="R2")
    stuck = make_task_in(Status.STARTED, robot="R2", lease_expires_at=PAST, started_at=FUTURE)
    long_ago = timezone.now() - dt.timedelta(days=40)
    ids = [id_at(long_ago + dt.timedelta(seconds=number)) for number in range(3)]
    old = [make_task(id=id, robot="R2", status=Status.SUCCESS, finished_at=long_ago) for id in ids]
    archive = tmp_path / "tasks.jsonl"

    ok, message = tasks_verdict()
    assert (ok, "1" in message) == (False, True), message
    assert [line.split()[0] for line in run("list_tasks", "--stuck").lines()[1:]] == [str(stuck.pk)]
    assert run("recover_tasks").status == 0
    assert tasks_verdict()[0]
    assert run("purge_tasks", "--older-than", "30d", "--archive", str(archive), "--yes").status == 0
    assert archived(archive) == {str(task.pk) for task in old}
    assert [task.pk for task in Task.objects.all()] == [stuck.pk]


def archived(path: Path) -> set[str]:
    return {json.loads(line)["task_id"] for line in path.read_text().splitlines()}


def test_what_failed_last_night_and_once_more():
    make_robot(name="R2")
    error = {"type": "OSError", "message": "The robot answered 503", "traceback": ""}
    failed = make_task(robot="R2", status=Status.FAILURE, finished_at=timezone.now(), error=error)
    narrow = ("--status", "FAILURE", "--finished-after", "12h")

    [line] = run("list_tasks", *narrow).lines()[1:]
    assert line.startswith(str(failed.pk))
    assert "OSError: The robot answered 503" in line
    assert "1 task" in run("retry_tasks", *narrow, "--dry-run").out
    assert not Task.objects.unfinished().exists()
    assert run("retry_tasks", *narrow, "--yes").status == 0
    assert Task.objects.unfinished().get().retry_of == failed.pk
