"""What each robot is doing, for many of them, in few queries."""

import datetime as dt
import re

import pytest
from django.db import connection

from robots import agents
from robots.models import Robot
from tasks.models import LastOutcomes, Status, Task
from tasks.queue import services
from tasks.reports import outcomes, queue_stats, tallies
from tasks.reports.robot_status import STATES, in_state, queue_lengths, robot_statuses
from tests.support.factories import make_robot, make_task
from tests.support.probes import listening

pytestmark = pytest.mark.django_db(transaction=True)

NOON = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)


def ended(robot, status, minutes=0, **fields):
    moment = NOON + dt.timedelta(minutes=minutes)
    return make_task(robot=robot, status=status, finished_at=moment, started_at=moment, **fields)


def status_of(robot):
    [seen] = robot_statuses([robot])
    return seen


def names(state):
    return sorted(robot.name for robot in in_state(Robot.objects.all(), state))


def test_a_new_robot_is_idle_and_has_done_nothing():
    seen = status_of(make_robot())
    assert (seen.state, seen.queue, seen.failing, seen.running) == ("idle", "0", False, [])
    assert seen.outcomes == outcomes.NO_OUTCOMES


def test_a_robot_that_runs_a_task_is_busy_and_says_with_what():
    robot = make_robot()
    task = make_task(robot=robot, status="STARTED", progress=40.0, lane=f"{robot.name}/0")
    seen = status_of(robot)
    assert seen.state == "busy"
    assert [(run.pk, run.progress, run.handler) for run in seen.running] == [(task.pk, 40.0, "wait")]


def test_a_robot_out_of_service_is_out_even_while_it_ends_what_it_had_begun():
    robot = make_robot(enabled=False)
    make_task(robot=robot, status="STARTED", lane=f"{robot.name}/0")
    assert status_of(robot).state == "out"
    assert names("busy") == names("out") == [robot.name]


def test_the_queue_is_counted_up_to_a_bound():
    few, many = make_robot(), make_robot()
    for _ in range(3):
        make_task(robot=few, status="QUEUED")
    make_task(robot=few, status="SCHEDULED", run_at=NOON)
    for _ in range(102):
        make_task(robot=many, status="QUEUED")
    assert [seen.queue for seen in robot_statuses([few, many])] == ["3", "100+"]


def test_beyond_the_bound_of_a_page_each_robot_is_counted_by_itself(monkeypatch):
    for name, count in (("a", 5), ("b", 2), ("c", 0)):
        make_robot(name=name)
        for _ in range(count):
            make_task(robot=name, status="QUEUED")
    monkeypatch.setattr("tasks.reports.queue_stats.MAX_IN_QUEUES", 4)
    monkeypatch.setattr("tasks.reports.robot_status.QUEUE_CAP", 3)
    assert queue_lengths(["a", "b", "c"]) == {"a": 3, "b": 2}
    assert queue_lengths(["a"]) == {"a": 3}


@pytest.mark.parametrize(("most", "commands"), [(50_000, 1), (10, 2)])
def test_the_queues_of_many_robots_are_read_by_an_index_and_at_once(monkeypatch, most, commands):
    """Neither the finished tasks that are kept are read, nor is there a command or a stage for each robot."""
    names = [make_robot(name=f"R{number}").name for number in range(8)]
    for name in [*names, "R3 of others"]:
        for priority in (0, 5, 0):
            make_task(robot=name, priority=priority)
            make_task(robot=name, status="SUCCESS", finished_at=NOON)
    monkeypatch.setattr("tasks.reports.queue_stats.MAX_IN_QUEUES", most)
    with listening() as sent:
        rows = queue_stats.by_queue(names, 1, first={"$first": "$_id"})
    assert {row["_id"] for row in rows} == {*names}
    first = Task.objects.filter(pk__in=[row["first"] for row in rows]).values_list("robot", "priority")
    assert sorted(first) == [(name, 5) for name in names]
    if commands == 1:
        assert {row["count"] for row in rows} == {3}
    assert len(sent.bodies) == commands
    for body in sent.bodies:
        assert len(body["pipeline"]) <= 4
        assert "$unionWith" not in str(body)
    first, *_ = sent.bodies
    asked = {"aggregate": first["aggregate"], "pipeline": first["pipeline"], "cursor": {}}
    plan = str(connection.database.command("explain", asked, verbosity="executionStats"))
    assert "task_next" in plan
    assert "COLLSCAN" not in plan
    assert re.search(r"'totalDocsExamined': (\d+)", plan)[1] in {"0", "27"}


@pytest.mark.parametrize("tallied", [False, True])
def test_the_last_success_and_the_last_failure_are_the_last_by_their_end(tallied):
    robot = make_robot()
    late = ended(robot, Status.SUCCESS, 5)
    ended(robot, Status.SUCCESS, 1)
    failure = ended(robot, Status.FAILURE, 3)
    ended(robot, Status.REVOKED, 9)
    if tallied:
        assert tallies.roll_up() > 0
    found = status_of(robot).outcomes
    assert found.success == outcomes.Ending(late.finished_at, late.pk)
    assert found.failure == outcomes.Ending(failure.finished_at, failure.pk)
    assert not found.failing


def test_what_ended_since_the_last_tally_counts_as_well():
    robot, other = make_robot(), make_robot()
    ended(robot, Status.SUCCESS)
    ended(other, Status.FAILURE)
    tallies.roll_up()
    failure = ended(robot, Status.FAILURE, 2)
    ended(other, Status.SUCCESS, 2)
    assert status_of(robot).outcomes.failure.id == failure.pk
    assert names("failing") == [robot.name]


def test_noting_again_or_out_of_turn_changes_nothing():
    robot = make_robot()
    late, early = ended(robot, Status.FAILURE, 10), ended(robot, Status.FAILURE, 0)
    minute = dt.timedelta(minutes=1)
    outcomes.roll_up(late.finished_at, late.finished_at + minute)
    outcomes.roll_up(early.finished_at, early.finished_at + minute)
    outcomes.roll_up(late.finished_at, late.finished_at + minute)
    assert LastOutcomes.objects.get().failure["id"] == late.pk.hex


def test_a_crash_between_outcomes_and_tally_leaves_nothing_wrong(monkeypatch):
    robot = make_robot()
    ended(robot, Status.FAILURE)
    with monkeypatch.context() as patched:
        patched.setattr("tasks.reports.tallies.Tally.save", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            tallies.roll_up()
    assert tallies.roll_up() == 1
    assert status_of(robot).failing


def test_a_robot_that_is_gone_leaves_no_outcomes_to_another_of_its_name():
    robot = make_robot(name="R2")
    ended(robot, Status.FAILURE)
    tallies.roll_up()
    services.delete_robot(robot.name, by="fry")
    assert not LastOutcomes.objects.exists()
    assert not status_of(make_robot(name="R2")).failing


def test_each_state_finds_its_robots():
    make_robot(name="idle"), make_robot(name="out", enabled=False), make_robot(name="busy"), make_robot(name="sick")
    make_robot(name="held", held_since=NOON)
    make_task(robot="busy", status="STARTED", lane="busy/0")
    ended("sick", Status.FAILURE)
    ended("idle", Status.FAILURE)
    ended("idle", Status.SUCCESS, 1)
    connect("idle", battery={"charge": 19.0}), connect("busy", errors=[{"type": "a", "level": "fatal"}]), connect("out")
    agents.close_session("out")
    found = {state: names(state) for state in STATES}
    assert found == {
        "busy": ["busy"],
        "idle": ["held", "idle", "sick"],
        "out": ["out"],
        "held": ["held"],
        "failing": ["sick"],
        "online": ["busy", "idle"],
        "offline": ["out"],
        "low_battery": ["idle"],
        "with_errors": ["busy"],
    }


def connect(robot, **state):
    session = agents.open_session(robot)
    agents.report(robot, session.id, state)


def test_fifty_robots_cost_as_many_queries_as_one():
    robots = [make_robot() for _ in range(50)]
    for robot in robots:
        make_task(robot=robot, status="STARTED", lane=f"{robot.name}/0")
        ended(robot, Status.SUCCESS)
    tallies.roll_up()
    robot_statuses(robots[:1])
    with listening() as one:
        robot_statuses(robots[:1])
    with listening() as fifty:
        assert all(seen.running and seen.outcomes.success for seen in robot_statuses(robots))
    assert len(one.sent) == len(fifty.sent) == 6, fifty.sent
