import datetime as dt
import re
from unittest.mock import patch

import pytest
from django.core.management import call_command
from pymongo.collection import Collection

from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import id_at
from robots.models import Robot
from tasks.models import Status, Tally, Task
from tasks.reports import queue_stats, tallies
from tests.support.api import Api, assert_refused
from tests.support.commands import run
from tests.support.factories import make_robot, make_task

pytestmark = pytest.mark.django_db

MINUTE = dt.timedelta(minutes=1)
NOTHING = {status.value: 0 for status in Status}
NO_AGENTS = {"online": 0, "offline": 0, "low_battery": 0, "with_errors": 0}


def ask():
    answer = Api("viewer")("GET", "/stats")
    assert answer.status_code == 200
    return answer.json()


def finish(status=Status.SUCCESS, ago=dt.timedelta(), handler="wait", took=2.0, **fields):
    finished_at = server_now() - ago
    started_at = finished_at - dt.timedelta(seconds=took)
    fields = {"robot": "R2", "attempt": 1, "finished_at": finished_at, "started_at": started_at} | fields
    return make_task(status=status, handler=handler, **fields)


def test_an_empty_fleet():
    assert ask() == {
        "tasks": NOTHING,
        "handlers": {},
        "queue_age": 0.0,
        "last_hour": {"SUCCESS": 0, "FAILURE": 0, "REVOKED": 0},
        "robots": {"in_service": 0, "out_of_service": 0, "busy": 0} | NO_AGENTS,
        "behind": 0.0,
    }


def test_who_may_ask():
    assert_refused(Api(None)("GET", "/stats"), 401)
    assert_refused(Api("")("GET", "/stats"), 403)
    assert Api("viewer")("GET", "/stats/").status_code == 200
    assert_refused(Api("manager")("POST", "/stats"), 405)


def test_unfinished_tasks_by_status_and_handler():
    for status, handler in [("QUEUED", "primes"), ("QUEUED", "wait"), ("QUEUED", "wait"), ("SCHEDULED", "wait")]:
        make_task(robot="R2", status=status, handler=handler)
    make_task(robot="R2", status="STARTED", lane="R2/0")
    make_task(robot="R2", status="RETRY")
    answer = ask()
    assert answer["tasks"] == NOTHING | {"QUEUED": 3, "SCHEDULED": 1, "STARTED": 1, "RETRY": 1}
    assert answer["handlers"] == {
        "primes": NOTHING | {"QUEUED": 1},
        "wait": NOTHING | {"QUEUED": 2, "SCHEDULED": 1, "STARTED": 1, "RETRY": 1},
    }


def test_finished_tasks_count_at_once():
    finish("SUCCESS"), finish("FAILURE", handler="primes"), finish("REVOKED", started_at=None)
    answer = ask()
    assert answer["last_hour"] == {"SUCCESS": 1, "FAILURE": 1, "REVOKED": 1}
    assert answer["tasks"] == NOTHING | {"SUCCESS": 1, "FAILURE": 1, "REVOKED": 1}
    assert answer["handlers"]["primes"] == NOTHING | {"FAILURE": 1}


def test_the_last_hour_ends_a_minute_before_it_at_most():
    for ago in (0, 1, 30, 59, 59.9):
        finish(ago=ago * MINUTE)
    for ago in (61.1, 90, 1000):
        finish(ago=ago * MINUTE)
    for _ in range(2):
        assert ask()["last_hour"]["SUCCESS"] == 5
        tallies.roll_up()
    assert ask()["tasks"]["SUCCESS"] == 8


def test_what_was_purged_stays_counted():
    finish(ago=10 * MINUTE)
    tallies.roll_up()
    Task.objects.all().delete()
    finish("FAILURE", ago=5 * MINUTE)
    finish("FAILURE")
    answer = ask()
    assert answer["tasks"] == NOTHING | {"SUCCESS": 1, "FAILURE": 2}
    assert answer["last_hour"] == {"SUCCESS": 1, "FAILURE": 2, "REVOKED": 0}


# --- Tallies ---------------------------------------------------------------------------------------------------------


def test_each_minute_is_added_up_once_and_the_present_one_not_yet():
    for ago in (3, 3, 2):
        finish(ago=ago * MINUTE)
    finish()
    minutes = {task.finished_at.replace(second=0, microsecond=0) for task in Task.objects.all()} - {
        server_now().replace(second=0, microsecond=0)
    }
    assert tallies.roll_up() in (len(minutes), len(minutes) - 1)  # the last may be over since seconds only
    assert tallies.roll_up() == 0
    assert {tally.until - MINUTE for tally in Tally.objects.all()} <= minutes


def test_totals_hold_attempts_and_seconds():
    finish(ago=5 * MINUTE, attempt=3, took=1.5)
    finish(ago=5 * MINUTE, attempt=1, took=2.5)
    finish("REVOKED", ago=5 * MINUTE, attempt=0, started_at=None)
    tallies.roll_up()
    assert Tally.objects.latest("until").totals == [
        {"status": "REVOKED", "handler": "wait", "count": 1, "attempts": 0, "seconds": 0},
        {"status": "SUCCESS", "handler": "wait", "count": 2, "attempts": 4, "seconds": pytest.approx(4)},
    ]


def test_two_that_add_up_the_same_minute_come_to_the_same_sum():
    finish(ago=5 * MINUTE)
    save = Tally.save

    def late(tally, *args, **kwargs):
        with patch.object(Tally, "save", save):
            tallies.roll_up()  # another process is faster
        save(tally, *args, **kwargs)

    with patch.object(Tally, "save", late):
        tallies.roll_up()
    assert [tally.totals[0]["count"] for tally in Tally.objects.all()] == [1]


def test_a_crash_before_the_insert_loses_nothing():
    finish(ago=5 * MINUTE)
    with patch.object(Tally, "save", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        tallies.roll_up()
    assert tallies.roll_up() == 1
    assert ask()["tasks"]["SUCCESS"] == 1


def test_old_tallies_are_deleted_except_the_one_that_the_oldest_span_needs():
    until = server_now().replace(second=0, microsecond=0)
    days = [20, 9, 8.5, 2]
    for day in days:
        Tally.objects.create(until=until - dt.timedelta(days=day), totals=[])
    tallies.roll_up()
    assert Tally.objects.count() == 2


def test_the_command_says_how_many_minutes(capsys):
    finish(ago=5 * MINUTE)
    call_command("count_finished")
    assert capsys.readouterr().out == "1 minutes rolled up\n"


# --- Queue and robots ------------------------------------------------------------------------------------------------


def queued(robot, age, **fields):
    id = id_at(server_now() - dt.timedelta(seconds=age))
    return make_task(robot=robot, id=id, **fields)


def test_the_queue_is_as_old_as_its_oldest_task_of_a_robot_in_service():
    make_robot(name="R2"), make_robot(name="off", enabled=False)
    assert ask()["queue_age"] == 0
    queued("off", 1000), queued("gone", 900), queued("R2", 100), queued("R2", 50, priority=9)
    assert ask()["queue_age"] == pytest.approx(100, abs=5)


def test_a_long_queue_of_a_robot_out_of_service_is_stepped_over():
    make_robot(name="R2"), make_robot(name="off", enabled=False)
    for age in range(20):
        queued("off", 1000 + age)
    queued("R2", 100)
    with patch.object(queue_stats, "FIRST_BATCH", 7):
        assert queue_stats.queue_age() == pytest.approx(100, abs=5)


def test_a_task_that_waited_for_its_time_is_queued_since_then():
    make_robot(name="R2")
    queued("R2", 86_400, run_at=server_now() - dt.timedelta(seconds=40))
    assert ask()["queue_age"] == pytest.approx(40, abs=5)
    queued("R2", 70)
    assert ask()["queue_age"] == pytest.approx(70, abs=5)


def test_robots_in_and_out_of_service_and_busy():
    make_robot(name="R2", lanes=2), make_robot(name="R3"), make_robot(name="off", enabled=False)
    for lane in range(2):
        make_task(robot="R2", status="STARTED", lane=f"R2/{lane}")
    assert ask()["robots"] == {"in_service": 2, "out_of_service": 1, "busy": 1} | NO_AGENTS


# --- What it costs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def sent(db):
    """The collections and pipelines that are asked for meanwhile."""
    seen = []
    aggregate = Collection.aggregate

    def recording(collection, pipeline, *args, **options):
        seen.append((collection.name, list(pipeline)))
        return aggregate(collection, pipeline, *args, **options)

    with patch.object(Collection, "aggregate", recording):
        yield seen


INDEXED = ("status", "finished_at", "enabled", "_id", "online", "hours")


def test_every_question_is_narrowed_by_an_index_or_limited(sent):
    make_robot(name="R2")
    queued("R2", 5), finish(ago=5 * MINUTE), finish()
    tallies.roll_up()
    queue_stats.overview()
    assert len(sent) > 10
    for collection, pipeline in sent:
        first = pipeline[0]
        if "$match" in first:
            keys = set(re.findall(r"\w+", str(first["$match"])))
            assert keys & set(INDEXED), (collection, pipeline)
        else:
            assert collection == "tasks_tally", (collection, pipeline)
            assert [*first] == ["$sort"]
            assert "$limit" in pipeline[1], (collection, pipeline)


def test_unfinished_tasks_are_counted_up_to_a_bound_by_the_fields_of_one_index(sent):
    for _ in range(5):
        make_task(robot="R2")
    make_task(robot="R2", status="SCHEDULED", run_at=server_now())
    group = {"$group": {"_id": {"status": "$status", "handler": "$handler"}, "count": {"$sum": 1}}}
    statuses = ["SCHEDULED", "QUEUED", "RETRY", "STARTED"]
    assert queue_stats.unfinished() == {("QUEUED", "wait"): 5, ("SCHEDULED", "wait"): 1}
    whole = [{"$match": {"status": {"$in": statuses}}}, {"$limit": queue_stats.MAX_COUNTED}, group]
    assert [pipeline for _, pipeline in sent] == [whole]
    sent.clear()
    with patch.object(queue_stats, "MAX_COUNTED", 3):
        assert queue_stats.unfinished() == {("QUEUED", "wait"): 3, ("SCHEDULED", "wait"): 1}
    assert [pipeline for _, pipeline in sent][1:] == [
        [{"$match": {"status": status}}, {"$limit": 3}, group] for status in statuses
    ]
    fields = [index.fields for index in Task._meta.indexes if index.name == "task_by_status"]
    assert fields == [["status", "-id", "handler"]]


def test_it_costs_as_many_questions_with_many_tasks_as_with_few(sent):
    make_robot(name="R2")
    finish(ago=5 * MINUTE), queued("R2", 5)
    tallies.roll_up()
    sent.clear()
    queue_stats.overview()
    few = len(sent)
    for _ in range(50):
        finish(ago=5 * MINUTE), queued("R2", 5)
    sent.clear()
    queue_stats.overview()
    assert len(sent) == few


def test_robots_are_counted_by_their_index():
    assert ["enabled", "name"] in [index.fields for index in Robot._meta.indexes]


def test_while_nothing_rolls_up_it_reads_a_bounded_number_of_tasks_and_says_that_it_is_behind(monkeypatch):
    for hours in (4, 3, 2):
        finish(ago=dt.timedelta(hours=hours))
        if hours == 4:
            tallies.roll_up()
    finish()
    assert (ask()["tasks"]["SUCCESS"], ask()["last_hour"]["SUCCESS"], ask()["behind"]) == (4, 1, 0.0)
    for _ in range(4):
        finish(ago=dt.timedelta(hours=2))
    monkeypatch.setattr(queue_stats, "MAX_RECENT", 3)
    answer = ask()
    assert answer["tasks"]["SUCCESS"] == 1 + 3 + 1  # rolled up, the oldest of those before, the last hour
    assert answer["last_hour"]["SUCCESS"] == 1
    assert 4 * 3600 - 120 <= answer["behind"] <= 4 * 3600 + 120
    assert "Finished tasks are not all counted: the last rollup was 14," in run("stats").out
    tallies.roll_up()
    answer = ask()
    assert (answer["tasks"]["SUCCESS"], answer["behind"]) == (8, 0.0)
