"""Samples of battery and position: robots.samples."""

import datetime as dt

import pytest

from fmv.mongodb.server import server_now
from robots import agents, samples, services
from robots.models import RobotSamples, RobotState
from tests.support.factories import make_robot
from tests.support.probes import before_nth, listening

pytestmark = pytest.mark.django_db(transaction=True)

HOUR = dt.timedelta(hours=1)


def reporting(**state) -> str:
    session = agents.open_session(make_robot().name)
    agents.report(session.robot, session.id, state)
    return session.robot


@pytest.fixture
def at(monkeypatch):
    """Let samples be taken at a minute of the last full hour, while all reports count as fresh."""

    def set_clock(minute: int, hours_ago: int = 1) -> dt.datetime:
        now = server_now().replace(minute=minute, second=30, microsecond=0) - hours_ago * HOUR
        monkeypatch.setattr(samples, "recent_now", lambda: now)
        return now.replace(second=0)

    return set_clock


def test_a_sample_holds_battery_and_position(at):
    robot = reporting(battery={"charge": 71.5, "charging": True}, position={"map": "hall 3", "x": 1.0, "y": 2.0})
    reporting(driving=True)
    time = at(7)
    assert samples.take() == 1
    assert samples.since(robot, time - HOUR) == [(time, {"charge": 71.5, "map": "hall 3", "x": 1.0, "y": 2.0})]


def test_samples_of_an_hour_are_one_document_and_the_latest_of_a_minute_counts(at):
    robot = reporting(battery={"charge": 70.0})
    first = at(7)
    samples.take()
    second = at(58)
    samples.take()
    RobotState.objects.filter(pk=robot).update(reported={"battery": {"charge": 60.0}})
    samples.take()
    third = at(0, hours_ago=0)
    samples.take()
    assert RobotSamples.objects.count() == 2
    assert [(time, sample["charge"]) for time, sample in samples.since(robot, first - HOUR)] == [
        *((first, 70.0), (second, 60.0), (third, 60.0))
    ]
    assert [time for time, _ in samples.since(robot, second)] == [second, third]


def test_samples_of_another_robot_are_not_among_them(at):
    names = [make_robot(name=name).name for name in ("R2", "R2 0", "R20", "R")]
    for name in names:
        session = agents.open_session(name)
        agents.report(name, session.id, {"battery": {"charge": float(len(name))}})
    time = at(7)
    assert samples.take() == 4
    assert [sample["charge"] for _, sample in samples.since("R2", time)] == [2.0]
    RobotSamples.objects.of("R2").delete()
    assert RobotSamples.objects.count() == 3


def test_silent_and_stale_robots_have_no_samples():
    silent, stale = reporting(battery={"charge": 1.0}), reporting(battery={"charge": 1.0})
    past = server_now() - dt.timedelta(seconds=31)
    RobotState.objects.filter(pk=silent).update(last_seen=past)
    RobotState.objects.filter(pk=stale).update(reported_at=past)
    assert samples.take() == 0


def test_any_number_of_robots_takes_three_commands():
    for _ in range(5):
        reporting(battery={"charge": 1.0})
    with listening() as commands:
        assert samples.take() == 5
    assert commands.sent == ["find robots_robotstate", "update robots_robotsamples", "find robots_robotstate"]


def test_a_robot_that_is_deleted_meanwhile_leaves_no_sample():
    robot, other = reporting(battery={"charge": 1.0}), reporting(battery={"charge": 2.0})
    with listening(before_nth(1, "update robots_robotsamples", lambda: services.delete(robot, by="amy"))):
        samples.take()
    assert not RobotSamples.objects.of(robot).exists()
    assert RobotSamples.objects.of(other).exists()


def test_samples_are_kept_for_some_days(settings):
    settings.ENVIRONMENT.state_days = 2
    now = server_now()
    for hours in (1, 47, 48, 50, 200):
        hour = (now - hours * HOUR).replace(minute=0, second=0, microsecond=0)
        RobotSamples.objects.create(id=f"R2/{hour:%Y-%m-%dT%H}", hour=hour, minutes={})
    samples.forget()
    assert RobotSamples.objects.count() == 3
