"""The size of a task in bytes of BSON: its document, and its entries in the indexes."""

import bson
import pytest

from fmv.mongodb.counting import collection
from fmv.mongodb.plan import planned_indexes
from tasks.models import Status, Task
from tasks.queue import services
from tasks.worker.claim import run_next
from tests.bench.memory import ID, SMALL, entry_size, small_task
from tests.support.factories import make_robot, make_task
from tests.support.probes import recorded_bells

pytestmark = pytest.mark.django_db(transaction=True)


def finished():
    robot = make_robot(name="Robot 12345")
    with recorded_bells():
        task = services.submit({"robot": robot.name, "handler": "noop"}, by="leela@planet-express.example")
        run_next(robot.name, "0" * 36)
    assert Task.objects.get(pk=task.pk).status == Status.SUCCESS


def test_a_small_finished_task_takes_two_kilobytes_at_most():
    finished()
    assert small_task() <= SMALL


def test_its_document_takes_less_than_half_of_that():
    finished()
    assert len(bson.encode(collection(Task).find_one())) < SMALL / 2


def test_partial_indexes_hold_only_the_tasks_they_are_for():
    make_task(status="SUCCESS")
    document = collection(Task).find_one()
    sizes = {index["name"]: entry_size(document, index) for index in [ID, *planned_indexes(Task)]}
    assert sizes["_id_"] > 32
    partial = [index for index in planned_indexes(Task) if "partialFilterExpression" in index]
    assert partial
    assert not any(sizes[index["name"]] for index in partial)


def test_each_label_is_an_entry():
    make_task(labels=["a", "b", "c"])
    document = collection(Task).find_one()
    index = next(index for index in planned_indexes(Task) if "labels" in index["key"])
    one = entry_size(document | {"labels": ["a"]}, index)
    assert entry_size(document, index) == 3 * one
