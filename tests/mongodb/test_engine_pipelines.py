"""The pipelines that FMV's queries become: what an index can answer comes first."""

import datetime as dt

import pytest
from django.contrib.admin.models import LogEntry
from django.db.models import Count, Exists, F, Max, OuterRef, Q, QuerySet, Subquery
from django.db.models.functions import Upper
from uuid_utils.compat import uuid7

from fmv.accounts.models import User
from fmv.mongodb.uuid7 import id_at
from robots.models import Robot
from tasks.models import LogLine, Status, Task
from tasks.models.task import NEXT_FIRST
from tests.support.factories import make_task
from tests.support.pipelines import pipeline, stages
from tests.support.probes import claim, listening

pytestmark = pytest.mark.django_db(transaction=True)

NOW = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
ID = uuid7()


def newest(**filters):
    return Task.objects.filter(**filters).newest_first()[:101]


LISTS = {
    "the latest tasks": newest,
    "the next page of tasks": lambda: newest(id__lt=ID),
    "the previous page of tasks": lambda: Task.objects.filter(id__gt=ID).order_by("id")[:101],
    "tasks of a robot": lambda: newest(robot="Bender"),
    "tasks of a robot, next page": lambda: newest(robot="Bender", id__lt=ID),
    "tasks by status": lambda: newest(status=Status.QUEUED),
    "tasks by some statuses": lambda: newest(status__in=[Status.QUEUED, Status.STARTED]),
    "tasks by handler": lambda: newest(handler="primes"),
    "tasks by label": lambda: newest(labels__contains=["night"]),
    "tasks by requester": lambda: newest(requested_by="fry"),
    "tasks of a time": lambda: newest(id__gte=id_at(NOW), id__lt=id_at(NOW + dt.timedelta(days=1))),
    "tasks by everything": lambda: newest(robot="Bender", status="QUEUED", handler="primes", id__lt=ID),
    "tasks a robot takes next": lambda: Task.objects.queued().of_robot("Bender").next_first()[:1],
    "due tasks": lambda: Task.objects.due(NOW)[:500],
    "due tasks as tuples": lambda: Task.objects.due(NOW).values_list("pk", "robot", "priority")[:500],
    "lost tasks": lambda: Task.objects.lost(NOW)[:500],
    "lost tasks in any order": lambda: Task.objects.lost(NOW).order_by()[:500],
    "a robot's running tasks": lambda: Task.objects.started().of_robot("Bender").order_by()[:16],
    "overdue tasks": lambda: Task.objects.overdue(NOW, Status.QUEUED)[:500],
    "tasks to purge": lambda: (
        Task.objects.finished_before(NOW).without_lane().order_by().values_list("pk", flat=True)[:500]
    ),
    "changed tasks": lambda: Task.objects.changed_since(NOW).order_by().values_list("pk", "changed_at")[:500],
    "changed tasks, latest first": lambda: Task.objects.changed_since(NOW).latest_changes_first()[:500],
    "a task's log": lambda: LogLine.objects.filter(task=ID)[:101],
    "a task's log, next page": lambda: LogLine.objects.filter(task=ID, id__gt=ID)[:101],
    "robots": lambda: Robot.objects.all()[:1001],
    "robots, next page": lambda: Robot.objects.filter(name__gt="Bender").order_by("name")[:1001],
    "robots, last page first": lambda: Robot.objects.order_by("-name")[:1001],
    "robots by location": lambda: Robot.objects.matching(location="Earth")[:1001],
    "robots by label": lambda: Robot.objects.matching(label="lab")[:1001],
    "robots in service": lambda: Robot.objects.in_service()[:1001],
    "robots out of service": lambda: Robot.objects.out_of_service()[:1001],
    "great robots": lambda: Robot.objects.matching(is_great=True)[:1001],
    "robots matching a text": lambda: Robot.objects.matching(q="T. Rob")[:1001],
    "names of robots": lambda: Robot.objects.in_service().values_list("name", flat=True)[:10],
    "robots as dicts": lambda: Robot.objects.filter(location="Earth").values("name", "location")[:10],
    "robots from the eleventh": lambda: Robot.objects.all()[10:20],
    "users": lambda: User.objects.all()[:100],
    "users matching a text": lambda: User.objects.filter(Q(username__icontains="a") | Q(email__icontains="a"))[:100],
    "a user's admin actions": lambda: LogEntry.objects.filter(user=ID).order_by("-action_time")[:10],
    "an annotated list": lambda: Task.objects.annotate(shout=Upper("robot")).filter(robot="Bender").newest_first()[:5],
}
RANK = {name: rank for rank, name in enumerate(["$match", "$sort", "$skip", "$limit", "$project"])}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_matches_sorts_and_limits_before_anything_else(name):
    queryset = LISTS[name]()
    names = stages(queryset)
    assert names == sorted(set(names), key=RANK.__getitem__)
    assert ("$match" in names) == bool(queryset.query.where)
    assert ("$sort" in names) == queryset.ordered
    assert "$limit" in names


@pytest.mark.parametrize("name", LISTS)
def test_whether_a_list_is_empty_is_asked_for_one_row(name):
    queryset = LISTS[name]()
    queryset.query.clear_limits()
    matches = ["$match"] if queryset.query.where else []
    assert stages(queryset, QuerySet.exists) == [*matches, "$limit", "$project"]


def test_a_label_is_found_by_its_index():
    match = pipeline(Task.objects.filter(labels__contains=["night"]))[0]["$match"]
    assert "$expr" not in str(match)
    assert "labels" in str(match)


def test_the_claim_asks_as_the_queryset_of_the_same_question():
    match, sort = pipeline(Task.objects.queued().of_robot("Bender").next_first())[:2]
    assert match == {"$match": Task.queue_of("Bender")}
    assert list(sort["$sort"].items()) == list(NEXT_FIRST.items())
    with listening() as commands:
        assert claim("Bender") is None
    (command,) = commands.bodies
    assert command["pipeline"][:2] == [match, sort]
    assert [*command["pipeline"][2]] == ["$limit"]


def test_one_row_by_key_is_a_match():
    assert pipeline(Task.objects.filter(pk=ID), QuerySet.first)[0] == {"$match": {Task._meta.pk.column: ID.hex}}
    assert stages(Task.objects.filter(pk=ID), QuerySet.first) == ["$match", "$sort", "$limit"]
    assert stages(Robot.objects.filter(pk="Bender").order_by(), list) == ["$match"]


def test_only_and_defer_leave_columns_with_mongodb():
    project = {"$project": {"_id": 1, "robot": 1}}
    assert pipeline(Task.objects.only("robot").order_by())[-1] == project
    without = pipeline(Task.objects.defer("result").newest_first()[:5])[-1]["$project"]
    assert without.keys() == {field.column for field in Task._meta.concrete_fields} - {"result"}


def test_a_count_begins_with_its_match():
    assert stages(Task.objects.queued(), QuerySet.count)[0] == "$match"


def test_a_capped_count_limits_before_it_counts():
    assert stages(newest(status="QUEUED"), QuerySet.count)[:3] == ["$match", "$sort", "$limit"]
    assert stages(Task.objects.queued().order_by()[:1000], QuerySet.count)[:2] == ["$match", "$limit"]


def test_the_names_of_waiting_robots_are_one_group_that_an_index_can_skip_through():
    # MongoDB answers a $group by DISTINCT_SCAN when its _id is a path, or an object with one path in it.
    match, group, project = pipeline(Task.objects, lambda tasks: list(tasks.robots_waiting()))
    assert match == {"$match": {"status": "QUEUED"}}
    assert group == {"$group": {"_id": {"robot": "$robot"}}}
    assert project == {"$project": {"robot": "$_id.robot"}}


def test_an_aggregate_begins_with_its_match():
    latest = Task.objects.queued()
    assert stages(latest, lambda tasks: tasks.aggregate(Max("id")))[0] == "$match"
    by_robot = latest.order_by().values("robot").annotate(tasks=Count("pk"))
    assert stages(by_robot)[:2] == ["$match", "$group"]


def test_an_order_by_what_is_computed_is_computed_first():
    assert stages(Task.objects.order_by(Upper("robot"))[:5]) == ["$addFields", "$sort", "$limit"]
    nulls_first = Task.objects.order_by(F("run_at").desc(nulls_first=True))[:5]
    assert stages(nulls_first) == ["$addFields", "$sort", "$limit"]
    assert list(pipeline(nulls_first)[0]["$addFields"]) == ["__order1"]
    shouted = Task.objects.annotate(shout=Upper("robot")).order_by("shout")[:5]
    assert stages(shouted) == ["$project", "$sort", "$limit"]


def test_distinct_rows_are_sorted_and_limited_after_they_are_told_apart():
    queryset = Task.objects.values_list("robot", "status").order_by("robot").distinct()[:5]
    assert stages(queryset) == ["$group", "$project", "$sort", "$limit"]


def test_a_row_that_has_at_most_one_relative_is_limited_before_the_join():
    queryset = LogEntry.objects.select_related("content_type").filter(action_flag=1).order_by("-action_time")[:5]
    assert stages(queryset)[:4] == ["$match", "$sort", "$limit", "$lookup"]


def test_a_row_that_vanishes_without_its_relative_is_limited_after_the_join():
    queryset = LogEntry.objects.select_related("user").filter(action_flag=1).order_by("-action_time")[:5]
    assert stages(queryset) == ["$match", "$sort", "$lookup", "$unwind", "$limit"]


def test_conditions_on_a_relative_come_after_the_join_and_the_others_before():
    queryset = LogEntry.objects.filter(user__username="fry", action_flag=1).order_by("-action_time")[5:10]
    assert stages(queryset) == ["$match", "$sort", "$lookup", "$unwind", "$match", "$skip", "$limit"]
    first, _, _, _, second, _, _ = pipeline(queryset)
    assert first == {"$match": {"action_flag": 1}}
    assert second == {"$match": {f"{User._meta.db_table}.username": "fry"}}


def test_a_condition_that_names_either_side_comes_after_the_join():
    either = Q(action_flag=1) | Q(content_type__model="robot")
    queryset = LogEntry.objects.filter(either).order_by("-action_time")[:5]
    assert stages(queryset) == ["$sort", "$lookup", "$set", "$unwind", "$match", "$limit"]


def test_an_order_by_a_relative_comes_after_the_join():
    queryset = LogEntry.objects.select_related("user").filter(action_flag=1).order_by("user__username")[:5]
    assert stages(queryset) == ["$match", "$lookup", "$unwind", "$sort", "$limit"]


def test_many_relatives_of_one_row_are_joined_before_the_limit():
    queryset = User.objects.filter(Q(logentry__action_flag=1) | Q(is_active=True))[:5]
    assert stages(queryset) == ["$sort", "$lookup", "$set", "$unwind", "$match", "$limit"]


def test_a_subquery_for_each_row_runs_for_the_listed_rows_only():
    of_robot = Task.objects.of_robot(OuterRef("pk")).newest_first()
    queryset = Robot.objects.annotate(last=Subquery(of_robot.values("status")[:1])).order_by("name")[:5]
    assert stages(queryset) == ["$sort", "$limit", "$lookup", "$set", "$project"]
    inner = pipeline(queryset)[2]["$lookup"]["pipeline"]
    assert [name for stage in inner for name in stage] == ["$match", "$sort", "$limit", "$project"]


def test_a_condition_by_subquery_is_tested_before_the_limit():
    queryset = Robot.objects.filter(Exists(Task.objects.of_robot(OuterRef("pk"))), enabled=True)[:5]
    assert stages(queryset) == ["$match", "$sort", "$lookup", "$set", "$match", "$limit"]
    assert pipeline(queryset)[0] == {"$match": {"enabled": True}}


def test_the_parts_of_a_union_stay_in_their_place():
    names = stages(Task.objects.queued().union(Task.objects.started()).order_by("-id")[:5])
    assert names.index("$unionWith") < names.index("$sort", names.index("$unionWith")) < names.index("$limit")


def test_conditions_that_must_all_hold_are_one_document():
    """SecantusDB finds no index for an `$and`; and who reads a slow query's log is spared it."""
    queued = Task.objects.of_robot("R2").queued().filter(pk="01a2086c-7fd6-7083-99ba-21efd0e94812")
    assert [*pipeline(queued)[0]["$match"]] == ["robot", "status", "_id"]


def test_several_conditions_on_one_field_all_hold():
    early = Task.objects.filter(priority__gte=2, robot="R2").filter(priority__lt=5)
    assert pipeline(early)[0]["$match"] == {"priority": {"$gte": 2, "$lt": 5}, "robot": "R2"}
    for priority in (1, 2, 4, 5):
        make_task(robot="R2", priority=priority)
    assert sorted(task.priority for task in early) == [2, 4]
