"""The conditions by which the API, the admin and the commands select tasks."""

import datetime as dt
import uuid

import pytest
from django.core.exceptions import FieldError
from django.db import connection
from django.utils import timezone

from fmv.mongodb.uuid7 import id_at
from tasks.models import FINISHED, WAITING, Status, Task
from tasks.models.error_document import error_document
from tests.support.factories import make_robot
from tests.support.pipelines import pipeline, stages
from tests.support.probes import FUTURE, PAST, make_task_in, started

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = dt.timedelta(hours=1)
NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)


def found(**conditions):
    return set(Task.objects.matching(**conditions).values_list("pk", flat=True))


def ids(*tasks):
    return {task.pk for task in tasks}


# --- What they find --------------------------------------------------------------------------------------------------


def test_without_conditions_all_are_meant():
    tasks = [make_task_in(status) for status in Status]
    assert found() == ids(*tasks)
    assert found(status=(), label=None, ids=None, error=None, stuck=False, finished_after=None) == ids(*tasks)


def test_fields_are_meant_exactly():
    task = make_task_in(Status.QUEUED, robot="R2", handler="echo", requested_by="amy", labels=["a", "b"])
    make_task_in(Status.QUEUED, robot="R2 D2", handler="wait")
    for condition in ({"robot": "R2"}, {"handler": "echo"}, {"requested_by": "amy"}, {"label": "b"}):
        assert found(**condition) == ids(task)
        assert found(**condition, status=[Status.QUEUED]) == ids(task)
        assert found(**condition, status=["STARTED"]) == set()
    assert found(robot="R2", handler="wait") == set()


def test_a_time_is_from_to_before():
    def made(moment):
        return make_task_in(Status.SUCCESS, id=uuid.UUID(int=id_at(moment).int + 1), finished_at=moment)

    early, noon, late = (made(NOW + hours * HOUR) for hours in (-1, 0, 1))
    unfinished = make_task_in(Status.QUEUED, id=uuid.UUID(int=id_at(NOW).int + 2))
    assert found(created_after=NOW) == ids(noon, late, unfinished)
    assert found(created_before=NOW) == ids(early)
    assert found(created_after=NOW, created_before=NOW + HOUR) == ids(noon, unfinished)
    assert found(finished_after=NOW) == ids(noon, late)
    assert found(finished_before=NOW) == ids(early)
    assert found(finished_after=NOW, finished_before=NOW + HOUR) == ids(noon)


def test_chosen_ones_are_meant_by_id():
    one, other, _ = (make_task_in(Status.QUEUED) for _ in range(3))
    assert found(ids=[one.pk, str(other.pk), uuid.uuid4()]) == ids(one, other)
    assert found(ids=[]) == set()
    assert found(ids=[one.pk], created_after=one.created_at + HOUR) == set()


def test_an_error_is_meant_by_its_type():
    lost = make_task_in(Status.FAILURE, error=error_document("WorkerLost", "gone"))
    again = make_task_in(Status.RETRY, error=error_document("WorkerLost", "gone"))
    make_task_in(Status.FAILURE, error=error_document("ValueError", "WorkerLost"))
    make_task_in(Status.SUCCESS)
    assert found(error="WorkerLost") == ids(lost, again)
    assert found(error="WorkerLost", status=["FAILURE"]) == ids(lost)
    assert found(error="WorkerLost", status=["SUCCESS"]) == found(error="WorkerLost", status=["SCHEDULED"]) == set()
    assert found(error="Worker") == found(error=".*") == set()


def test_an_unknown_condition_is_an_error_and_never_all_tasks():
    for condition in ({"robo": "R2"}, {"error__type.$ne": "x"}, {"params__$where": "1"}):
        with pytest.raises((FieldError, TypeError)):
            found(**condition)


# --- Stuck -----------------------------------------------------------------------------------------------------------


def long_ago():
    return timezone.now() - dt.timedelta(minutes=2)


def just_now():
    return timezone.now() - dt.timedelta(seconds=5)


@pytest.mark.parametrize("status", [Status.SCHEDULED, Status.RETRY])
def test_a_task_due_for_a_minute_is_stuck(status):
    stuck = make_task_in(status, run_at=long_ago())
    make_task_in(status, run_at=just_now())
    make_task_in(status, run_at=FUTURE)
    assert found(stuck=True) == ids(stuck)
    assert found(stuck=True, status=[status]) == ids(stuck)
    assert found(stuck=True, robot="another") == set()


def test_a_task_whose_lease_has_run_out_is_stuck():
    lost, runs = started(), started()
    Task.objects.filter(pk=lost.pk).update(lease_expires_at=just_now())
    assert found(stuck=True) == ids(lost)
    assert found() == ids(lost, runs)


def test_a_task_whose_cancel_is_not_answered_is_stuck():
    asked, lately = started(), started()
    for task in (asked, lately):
        task.request_cancel("asked")
    Task.objects.filter(pk=asked.pk).update(changed_at=long_ago())
    runs = started()
    Task.objects.filter(pk=runs.pk).update(changed_at=long_ago())
    assert found(stuck=True) == ids(asked)


@pytest.mark.parametrize("status", [Status.QUEUED, *FINISHED])
def test_a_queued_or_finished_task_is_not_stuck(status):
    make_task_in(status, run_at=PAST, changed_at=PAST, lease_expires_at=PAST, cancel_requested=True)
    assert found(stuck=True) == set()


def test_a_long_wait_for_the_robot_is_another_condition():
    moment = timezone.now()

    def queued(age, **fields):
        return make_task_in(Status.QUEUED, id=uuid.UUID(int=id_at(moment - age).int + len(found())), **fields)

    long = queued(2 * HOUR)
    came_due = queued(3 * HOUR, run_at=moment - 2 * HOUR)
    queued(3 * HOUR, run_at=moment - HOUR / 2)
    queued(HOUR / 2)
    make_task_in(Status.SCHEDULED, id=uuid.UUID(int=id_at(moment - 5 * HOUR).int), run_at=FUTURE)
    assert found(queued_before=moment - HOUR) == ids(long, came_due)


# --- Moved, tried again ----------------------------------------------------------------------------------------------


def test_only_waiting_tasks_are_reassigned_and_only_to_another_robot():
    robot = make_robot().name
    tasks = {status: make_task_in(status, robot="R2", lane=None) for status in Status}
    own = make_task_in(Status.QUEUED, robot=robot)
    assert Task.objects.all().reassign(robot, "amy") == len(WAITING)
    assert found(robot=robot) == ids(own, *(tasks[status] for status in WAITING))
    notes = {task.history[-1]["note"] for task in Task.objects.waiting().exclude(pk=own.pk)}
    assert notes == {f"moved from R2 to {robot} by amy"}


def test_it_knows_which_tasks_were_retried():
    old, other = make_task_in(Status.FAILURE), make_task_in(Status.FAILURE)
    make_task_in(Status.QUEUED, retry_of=old.pk)
    make_task_in(Status.QUEUED, retry_of=old.pk)
    assert Task.objects.already_retried([old.pk, other.pk]) == {old.pk}
    assert Task.objects.already_retried([]) == set()


# --- What it asks of MongoDB -----------------------------------------------------------------------------------------


def match_of(**conditions):
    return pipeline(Task.objects.matching(**conditions).newest_first()[:50])[0]["$match"]


LISTS = {
    "failed since": {"status": ["FAILURE"], "finished_after": NOW},
    "finished between": {"finished_after": NOW, "finished_before": NOW + HOUR},
    "by error": {"error": "WorkerLost"},
    "stuck": {"stuck": True},
    "waiting long": {"queued_before": NOW},
    "chosen": {"ids": [uuid.UUID(int=1)]},
    "everything": {
        "status": ["FAILURE"],
        "error": "E",
        "robot": "R2",
        "label": "x",
        "created_after": NOW,
        "stuck": True,
    },
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_matches_sorts_and_limits_and_does_nothing_else(name):
    names = stages(Task.objects.matching(**LISTS[name]).newest_first()[:50])
    assert names == ["$match", "$sort", "$limit"]
    assert "$expr" not in str(match_of(**LISTS[name]))


def test_an_error_is_asked_for_by_its_path_of_the_tasks_that_may_have_one():
    statuses = {"$in": ["QUEUED", "STARTED", "RETRY", "FAILURE", "REVOKED"]}
    for type_ in ("WorkerLost", "$x"):
        assert match_of(error=type_) == {"status": statuses, "error.type": type_}
    assert match_of(error="E", status=["FAILURE", "SUCCESS"]) == {"status": "FAILURE", "error.type": "E"}


def test_each_case_of_stuck_is_a_range_of_an_index():
    cases = match_of(stuck=True)["$or"]
    assert len(cases) == 2
    assert cases[0]["$and"][0] == {"status": "STARTED"}
    *due, statuses = cases[1]["$and"]
    assert [list(part["run_at"]) for part in due] == [["$gt"], ["$lt"]]  # the first is the condition of `task_due`
    assert statuses == {"status": {"$in": ["SCHEDULED", "RETRY"]}}


def test_indexes_hold_only_the_tasks_they_are_for():
    indexes = connection.get_collection(Task._meta.db_table).index_information()
    again = indexes["task_again"]
    assert again["key"] == [("retry_of", 1)]
    assert again["partialFilterExpression"] == {"retry_of": {"$gte": "0" * 32}}


def test_parts_of_documents_are_no_lookups():
    make_task_in(Status.FAILURE, error=error_document("E", "m"), params={"seconds": 1})
    assert Task.objects.filter(error__isnull=False).count() == 1
    assert Task.objects.filter(error__type__in=["E", "F"]).count() == 1
    assert list(Task.objects.values_list("error__message", flat=True)) == ["m"]
