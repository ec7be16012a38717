"""What the admin's lists ask of MongoDB: matched, sorted and cut by an index, and nothing joined."""

import datetime as dt
from typing import Any
from unittest.mock import patch

import pytest
from django.db import connection
from django.http import QueryDict
from pymongo.collection import Collection
from uuid_utils.compat import uuid7

from fmv.mongodb.counting import collection
from robots.models import Robot
from tasks.admin.robots import ENDED_FIELDS, LATEST_FIELDS, QUEUE_FIELDS
from tasks.admin.task_filters import read
from tasks.admin.tasks import ROW_FIELDS, matching
from tasks.models import Status, Task
from tasks.models.error_document import error_document
from tasks.reports import outcomes
from tasks.reports.robot_status import in_state, robot_statuses
from tests.support.factories import make_robot, make_task
from tests.support.pipelines import pipeline, stages
from tests.support.probes import make_task_in

pytestmark = pytest.mark.django_db(transaction=True)

ID = uuid7()
NOON = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)

#: query string of the list of tasks -> indexes that can narrow it; each planner has its own taste
FILTERS = {
    "status=QUEUED": {"task_by_status", "task_next"},
    "status=QUEUED&status=STARTED": {"task_by_status", "task_next"},
    "robot=Bender": {"task_of_robot"},
    "handler=wait": {"task_by_handler"},
    "label=night": {"task_by_label"},
    "requested_by=fry": {"task_by_requester"},
    "error=OSError": {"task_by_status"},
    "error=OSError&status=REVOKED": {"task_by_status"},
    "age=hour": {"_id_"},
    "age=older": {"_id_"},
    "show=failed": {"task_failed", "task_finished"},
    "show=waiting": {"task_by_status", "_id_"},
    "robot=Bender&status=FAILURE": {"task_of_robot", "task_next"},
    "robot=Bender&age=day": {"task_of_robot", "_id_"},
    "robot=Bender&show=failed": {"task_ended", "task_failed"},
    "handler=wait&status=FAILURE": {"task_by_handler", "task_by_status"},
    "handler=wait&show=failed": {"task_failed"},
    "label=night&status=QUEUED": {"task_by_label", "task_by_status"},
    "requested_by=fry&status=QUEUED": {"task_by_requester", "task_by_status"},
    "status=FAILURE&age=day": {"task_by_status", "_id_"},
}


def rows(query, before=None):
    return matching(read(QueryDict(query)), before)[:51].values(*ROW_FIELDS)


@pytest.mark.parametrize("before", [None, uuid7()])
@pytest.mark.parametrize("query", ["", *FILTERS, "show=stuck"])
def test_the_list_of_tasks_matches_sorts_and_limits_before_anything_else(query, before):
    matched = ["$match"] if query or before else []
    assert stages(rows(query, before)) == [*matched, "$sort", "$limit", "$project"]


@pytest.mark.parametrize("query", FILTERS)
def test_each_filter_and_the_usual_pairs_have_their_indexes(query):
    match = pipeline(rows(query))[0]["$match"]
    assert usable(match) >= FILTERS[query], match


def test_the_search_for_an_error_reads_only_tasks_that_failed():
    """A rare type would else cost a read of all tasks, because no index has errors."""
    for status in Status:
        make_task_in(status, error=error_document("ValueError", "no"))
    match = pipeline(rows("error=OSError"))[0]["$match"]
    assert match == {"status": {"$in": ["FAILURE", "RETRY"]}, "error.type": "OSError"}
    # the embedded server explains no plan in which an index serves one condition and another is left to look at
    found = {"find": Task._meta.db_table, "filter": {"status": match["status"]}}
    plan = connection.database.command("explain", found, verbosity="executionStats")
    assert "task_by_status" in str(plan["queryPlanner"]["winningPlan"])
    assert plan["executionStats"]["totalDocsExamined"] == 2 < len(Status)


def test_what_is_stuck_is_an_or_of_what_indexes_hold():
    match = pipeline(rows("show=stuck"))[0]["$match"]
    assert list(match) == ["$or"]
    started, due = match["$or"]
    assert "task_by_status" in usable(started)
    assert {"task_due", "task_by_status"} <= usable(due)


PARTS = {
    "how its tasks ended": (lambda: Task.objects.of_robot("R1").ended()[:60].values(*ENDED_FIELDS), "task_ended"),
    "its queue": (lambda: Task.objects.of_robot("R1").queued().next_first()[:20].values(*QUEUE_FIELDS), "task_next"),
    "its latest": (lambda: Task.objects.of_robot("R1").newest_first()[:20].values(*LATEST_FIELDS), "task_of_robot"),
    "repetitions": (lambda: Task.objects.filter(retry_of=ID).newest_first()[:20].values("id"), "task_again"),
}


@pytest.mark.parametrize("name", PARTS)
def test_each_part_of_a_page_has_its_index(name):
    queryset, index = PARTS[name]
    assert stages(queryset()) == ["$match", "$sort", "$limit", "$project"]
    matched, ordered = pipeline(queryset())[:2]
    assert index in usable(matched["$match"])
    if name != "repetitions":  # which are few
        keys = [field for field, _ in collection(Task).index_information()[index]["key"]]
        assert keys[-len(ordered["$sort"]) :] == list(ordered["$sort"])


def test_robots_are_found_and_looked_at_without_joins():
    robots = [make_robot(name=f"R{number}") for number in range(4)]
    make_task(robot="R0", status="STARTED", lane="R0/0")
    make_task(robot="R1", status="FAILURE", finished_at=NOON)
    make_task(robot="R1", status="SUCCESS", finished_at=NOON - dt.timedelta(hours=1))
    outcomes.roll_up(NOON, NOON + dt.timedelta(minutes=1))
    for state in ("busy", "idle", "out", "failing"):
        last = list_of_pipelines(lambda state=state: list(in_state(Robot.objects.all(), state).order_by("name")[:51]))[
            -1
        ]
        assert [name for stage in last for name in stage] == ["$match", "$sort", "$limit"], state
    for sent in list_of_pipelines(lambda: robot_statuses(robots)):
        assert "$lookup" not in str(sent)
        assert "$match" in sent[0] or sent == [{"$sort": {"_id": -1}}, {"$limit": 1}]  # the latest tally


def list_of_pipelines(run):
    sent, aggregate = [], Collection.aggregate

    def recording(collection, stages, *args, **options):
        sent.append(stages)
        return aggregate(collection, stages, *args, **options)

    with patch.object(Collection, "aggregate", recording):
        run()
    return sent


def usable(match: dict[str, Any]) -> set[str]:
    """Return the indexes whose first field the $match narrows by a plain condition, as their own condition allows."""
    fields = narrowed(match)
    return {
        name
        for name, index in collection(Task).index_information().items()
        if index["key"][0][0] in fields and set(index.get("partialFilterExpression", ())) <= fields
    }


def narrowed(match: dict[str, Any]) -> set[str]:
    """Return the fields that a $match names in conditions all of which must hold."""
    named = {key for key in match if not key.startswith("$")}
    return named.union(*(narrowed(part) for part in match.get("$and", ())))
