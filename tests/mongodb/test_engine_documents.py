"""Reading and storing without a query that must be compiled: the same as by one."""

import datetime as dt

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError
from uuid_utils.compat import uuid7

from fmv.mongodb.documents import documents, insert, stored_form
from robots.models import Robot
from tasks.models import Status, Task
from tests.support.factories import make_robot, make_task
from tests.support.probes import listening, make_task_in

pytestmark = pytest.mark.django_db(transaction=True)


def values(row):
    return {field.attname: getattr(row, field.attname) for field in type(row)._meta.concrete_fields}


@pytest.mark.parametrize("status", Status)
def test_find_gives_what_a_query_gives(status):
    task = make_task_in(status)
    found = Task.objects.find(task.pk)
    assert values(found) == values(Task.objects.get(pk=task.pk))
    assert (found._state.adding, found._state.db) == (False, "default")
    assert Task.objects.find(str(task.pk)) == found


def test_find_gives_none_for_what_is_not_there():
    assert Task.objects.find(uuid7()) is None
    assert Robot.objects.find("R2") is None
    with pytest.raises(ValidationError):
        Task.objects.find("no id")


def test_documents_are_the_rows_as_they_are_stored_by_their_key():
    tasks = [make_task(robot="R2", labels=["x"]) for _ in range(4)]
    rows = list(documents(Task, {"robot": "R2"}, limit=2, batch_size=10, descending=True))
    assert [row["_id"] for row in rows] == [task.pk.hex for task in reversed(tasks[2:])]
    assert rows[0] == stored_form(tasks[3]) | {
        name: rows[0][name]
        for name in ("history", "stored_at", "changed_at")  # dates lose their zone
    }
    of_keys = Task.objects.filter(pk__in=[task.pk for task in tasks[1:]]).criteria()
    for batch_size in (1, 2, 10):
        rows = list(documents(Task, of_keys, limit=5, batch_size=batch_size, beyond=tasks[1].pk, columns=["status"]))
        assert rows == [{"_id": task.pk.hex, "status": "QUEUED"} for task in tasks[2:]]
    assert list(documents(Task, Task.objects.none().criteria(), limit=5, batch_size=5)) == []


def test_insert_stores_what_save_stores():
    saved, inserted = Robot(name="A", location="Lab", description="x"), Robot(name="B", location="Lab", description="x")
    saved.save(force_insert=True)
    insert(inserted)
    one, two = (values(Robot.objects.get(pk=name)) for name in "AB")
    times = {"created_at": None, "updated_at": None}
    assert one | {"name": "B"} | times == two | times
    assert abs(two["created_at"] - one["created_at"]) < dt.timedelta(minutes=1)
    assert (inserted._state.adding, inserted._state.db) == (False, "default")


def test_insert_of_what_is_there_is_an_integrity_error():
    robot = make_robot()
    with pytest.raises(IntegrityError):
        insert(Robot(name=robot.name, location="Lab", description="x"))
    with pytest.raises(IntegrityError):
        insert(*(Robot(name=name, location="Lab", description="x") for name in ("new", robot.name)))
    insert()  # of nothing


def test_a_page_comes_in_one_round_trip():
    Task.objects.bulk_create(Task(robot="R2", handler="wait", timeout=1, requested_by="test") for _ in range(250))
    for limit in (100, 101, 201):
        with listening() as commands:
            assert len([*documents(Task, {}, limit=limit, batch_size=limit)]) == limit
            assert len(Task.objects.newest_first()[:limit]) == limit
        assert commands.sent == ["find tasks_task", "aggregate tasks_task"]
