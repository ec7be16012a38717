"""The ends of ids: stored in bulk by a periodic step, found by an index, deleted with their tasks."""

import datetime as dt
from typing import Any
from uuid import UUID

import pytest
from django.db import connection

from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import id_at
from tasks import jobs
from tasks.models import EndingsUntil, Task, TaskEnding
from tasks.queue import periodic, services
from tasks.reports import endings
from tests.support.factories import make_robot, make_task
from tests.support.probes import listening

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

ABOUT = {"robot": "R2", "handler": "noop", "timeout": 1.0, "requested_by": "fry"}


def ago(seconds: float, number: int = 0) -> UUID:
    """An id of that time."""
    return UUID(int=id_at(server_now() - dt.timedelta(seconds=seconds)).int + number)


def ten_minutes_ago() -> dt.datetime:
    return server_now() - dt.timedelta(minutes=10)


def changed(task: Task, ago: float) -> None:
    """Let the task have been stored, and have changed last, so many seconds ago."""
    moment = server_now() - dt.timedelta(seconds=ago)
    Task.objects.filter(pk=task.pk).update(changed_at=moment, stored_at=moment)


def noted() -> set[str]:
    return {ending.id[::-1] for ending in TaskEnding.objects.all()}


def test_each_task_is_noted_once(monkeypatch):
    monkeypatch.setattr(endings, "BATCH", 3)
    tasks = [make_task(robot="R2", request_id=f"request {number}") for number in range(10)]
    assert jobs.note_endings.run() == 10
    assert noted() == {task.pk.hex for task in tasks}
    assert TaskEnding.objects.get(pk=tasks[3].pk.hex[::-1]).request == "request 3"[::-1]
    assert endings.note() == 0


def test_an_upgrade_with_many_tasks_goes_on_in_the_next_run(monkeypatch):
    monkeypatch.setattr(endings, "BATCH", 2)
    for number in range(5):
        changed(make_task(robot="R2"), ago=600 - number)
    assert sum(endings.note(seconds=0) for _ in range(6)) == 5
    assert EndingsUntil.objects.get().stored > server_now() - dt.timedelta(minutes=1)


def test_many_tasks_of_one_moment_do_not_keep_it_from_going_on(monkeypatch):
    monkeypatch.setattr(endings, "BATCH", 2)
    moment = server_now() - dt.timedelta(hours=1)
    for _ in range(5):
        Task.objects.filter(pk=make_task(robot="R2").pk).update(changed_at=moment, stored_at=moment)
    changed(make_task(robot="R2"), ago=60)
    assert sum(endings.note(seconds=0) for _ in range(4)) == 6


def test_a_task_that_is_stored_long_after_its_id_was_chosen_is_noted():
    endings.note()
    late = make_task(robot="R2", id=ago(4000))
    assert endings.note() == 1
    assert noted() == {late.pk.hex}


def test_a_task_that_never_stands_still_is_noted_and_one_that_changes_is_read_no_more():
    EndingsUntil.objects.create(name=endings.NAME, changed=ten_minutes_ago(), stored=ten_minutes_ago())
    old, new = make_task(robot="R2"), make_task(robot="R2")
    Task.objects.filter(pk=old.pk).update(stored_at=server_now() - dt.timedelta(hours=1))
    Task.objects.filter(pk=new.pk).update(changed_at=server_now() + dt.timedelta(seconds=1))
    assert endings.note() == 1
    assert noted() == {new.pk.hex}, "the other was noted when it was stored"


def test_the_range_that_a_run_reads_stays_short_while_nothing_is_submitted():
    EndingsUntil.objects.create(name=endings.NAME, changed=ten_minutes_ago(), stored=ten_minutes_ago())
    endings.note()
    assert EndingsUntil.objects.get().changed > server_now() - dt.timedelta(minutes=1)


def test_a_deleted_task_leaves_no_ending(trusted_clock):
    now = server_now()
    task = make_task(robot="R2", id=ago(9e6), status="SUCCESS", finished_at=now - dt.timedelta(days=99))
    kept = make_task(robot="R2", id=ago(60))
    over = make_task(robot=make_robot(name="Over"), id=ago(61), status="SUCCESS", finished_at=now)
    endings.note()
    assert noted() == {task.pk.hex, kept.pk.hex, over.pk.hex}
    periodic.purge(30)
    services.delete_robot("Over", by="fry")
    assert noted() == {kept.pk.hex}


def test_a_submit_writes_nothing_for_it():
    make_robot(name="R2")
    with listening() as commands:
        services.submit({"robot": "R2", "handler": "noop"}, by="fry")
    assert [each for each in commands.sent if "ending" in each] == []


def test_many_tasks_take_as_many_commands_as_one():
    endings.note()
    found = {}
    for count in (1, 900):
        Task.objects.bulk_create(Task(**ABOUT) for _ in range(count))
        EndingsUntil.objects.update(stored=server_now() - dt.timedelta(seconds=60))
        with listening() as commands:
            assert endings.note() == count
        found[count] = commands.sent
    assert found[1] == found[900]
    assert len(found[1]) == 4, found[1]  # the position; what is new, its endings, the position


def examined(model, question: dict[str, Any]) -> int:
    question = {"find": model._meta.db_table} | question
    plan = connection.database.command("explain", question, verbosity="executionStats")
    return int(plan["executionStats"]["totalDocsExamined"])


def test_it_reads_new_tasks_by_an_index_however_many_there_are():
    Task.objects.bulk_create(Task(**ABOUT) for _ in range(500))
    Task.objects.update(changed_at=server_now() - dt.timedelta(hours=1))
    make_task(robot="R2")
    known = EndingsUntil(name=endings.NAME, changed=ten_minutes_ago(), stored=ten_minutes_ago())
    assert examined(Task, {"filter": endings.unnoted(known), "sort": {"changed_at": 1}}) == 1


def test_an_end_of_a_request_id_is_read_by_an_index():
    """So is the end of a task's id, by that of keys, which the embedded server does not use for ranges."""
    Task.objects.bulk_create(Task(request_id=f"r-{number:06}", **ABOUT) for number in range(500))
    endings.note()
    wanted = {"$gte": "000100"[::-1], "$lt": "000100"[::-1] + "\U0010ffff"}
    assert examined(TaskEnding, {"filter": {"request": wanted}}) == 1
