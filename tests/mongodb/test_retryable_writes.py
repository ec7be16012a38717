"""Writes of one document: PyMongo repeats them after a failover, which it never does for writes of many.

https://www.mongodb.com/docs/manual/core/retryable-writes/
"""

import pytest

from fmv.mongodb.expressions import Now
from fmv.mongodb.updates import names_one
from robots.models import Robot
from tasks.models import Bulk, Submission, Task, WorkerProcess
from tests.support.factories import make_process, make_robot, make_task
from tests.support.probes import claim, listening

pytestmark = pytest.mark.django_db(transaction=True)


def sent_as_many(act) -> list[bool]:
    """Whether each update and delete that `act` sends is one that may change several documents."""
    with listening() as commands:
        act()
    updates = [update.get("multi", False) for body in commands.bodies for update in body.get("updates", ())]
    deletes = [delete["limit"] != 1 for body in commands.bodies for delete in body.get("deletes", ())]
    return updates + deletes


@pytest.mark.parametrize(
    "write",
    [
        lambda task: Task.objects.filter(pk=task.pk).update(message="new"),
        lambda task: Task.objects.filter(pk__in=[task.pk], status="QUEUED").update(message="new"),
        lambda task: Task.objects.queued().filter(pk=task.pk).exclude(message="other").update(message="new"),
        lambda task: Task.objects.filter(pk=task.pk).revoke("note"),
        lambda task: Task.objects.filter(pk=task.pk).reassign("other", "amy"),
        lambda task: Task.objects.get(pk=task.pk).revoke("note"),
        lambda task: claim(task.robot),
        lambda task: Robot.objects.filter(pk=task.robot).update(location="Mars"),
        lambda task: WorkerProcess.objects.filter(pk="host/1").update(seen_at=Now()),
        lambda task: Submission.objects.filter(pk="none").update(stored=True),
        lambda task: Bulk.objects.running().filter(pk=task.pk).advance(changed_at=Now()),
        lambda task: Robot.objects.get(pk=task.robot).save(),
        lambda task: Robot.objects.filter(pk=task.robot).delete(),
        lambda task: Robot.objects.get(pk=task.robot).delete(),
        lambda task: Task.objects.filter(pk__in=[task.pk]).delete(),
    ],
)
def test_a_write_that_names_one_document_is_one_that_the_driver_repeats(write):
    make_process("host/1")
    task = make_task(robot=make_robot())
    kinds = sent_as_many(lambda: write(task))
    assert kinds
    assert not any(kinds)


def test_a_write_that_may_meet_several_documents_changes_all_of_them():
    tasks = [make_task() for _ in range(3)]
    two = Task.objects.filter(pk__in=[task.pk for task in tasks[:2]])
    assert sent_as_many(lambda: two.update(message="new")) == [True]
    assert Task.objects.filter(message="new").count() == 2
    assert sent_as_many(two.delete) == [True]
    assert list(Task.objects.all()) == [tasks[2]]


@pytest.mark.parametrize(
    "criteria",
    [
        {},
        {"name": "a"},
        {"_id": {"$in": ["a", "b"]}},
        {"_id": {"$in": []}},
        {"_id": {"$gt": "a"}},
        {"$or": [{"_id": "a"}, {"_id": "b"}]},
        {"$and": [{"name": "a"}, {"_id": {"$exists": True}}]},
    ],
)
def test_criteria_that_more_than_one_document_may_meet_do_not_name_one(criteria):
    assert not names_one(criteria)


@pytest.mark.parametrize(
    "criteria",
    [
        {"_id": "a"},
        {"_id": "a", "status": "QUEUED"},
        {"_id": {"$eq": "a"}},
        {"_id": {"$in": ["a"]}},
        {"$and": [{"_id": {"$ne": None}}, {"_id": "a"}]},
    ],
)
def test_criteria_with_a_key_name_one_document(criteria):
    assert names_one(criteria)
