"""What robots report, in a real browser."""

import datetime as dt
import math

import pytest

from fmv.mongodb.server import server_now
from robots import agents
from robots.models import RobotSamples, RobotState
from tests.support.browser import assert_fine
from tests.support.factories import make_robot

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]

ERRORS = [
    {"type": "obstacle", "level": "warning", "description": "Waits for a free way"},
    {"type": "gripper jam", "level": "fatal", "description": "The gripper does not open", "hint": "Open it by hand"},
]
STATE = {
    "battery": {"charge": 12.4, "charging": False, "voltage": 23.7},
    "position": {"map": "hall 3", "x": 12.5, "y": 4.25, "theta": 1.57, "localized": True},
    "velocity": {"linear": 0.8, "angular": 0.0},
    "driving": True,
    "mode": "automatic",
    "emergency_stop": "none",
    "errors": ERRORS,
    "load": {"present": True, "description": "Box 17"},
    "extra": {"wifi": -61},
}


def connect(name: str, **state) -> agents.Session:
    session = agents.open_session(name, agent="fmv_agent.py", version="1.0.0", boot_id="1", handlers=["drive", "lift"])
    agents.report(name, session.id, state)
    return session


def store_day(robot: str) -> None:
    """Store samples of a day with a gap: the robot drives around and its battery goes down."""
    now = server_now().replace(minute=0, second=0, microsecond=0)
    for hours in (h for h in range(1, 24) if h not in (9, 10)):
        minutes = {
            f"{minute:02}": {
                "charge": 100 - 3.7 * (24 - hours - minute / 60) % 90,
                "map": "hall 3",
                "x": 9 * math.cos(minute / 9),
                "y": 4 * math.sin(minute / 9 + hours),
            }
            for minute in range(60)
        }
        hour = now - dt.timedelta(hours=hours)
        RobotSamples.objects.create(id=f"{robot}/{hour:%Y-%m-%dT%H}", hour=hour, minutes=minutes)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_an_operator_sees_who_is_online_and_what_the_robot_reports(visit, size):
    for name in ("Bender", "R2-D2", "Wall-E", "Without"):
        make_robot(name=name)
    connect("R2-D2", battery={"charge": 88.0, "charging": True})
    past = server_now() - dt.timedelta(minutes=5)
    connect("Wall-E", battery={"charge": 55.0})
    RobotState.objects.filter(pk="Wall-E").update(last_seen=past, reported_at=past)
    session = connect("Bender", **STATE, task={"task_id": "019ab0f3-7c1e-7a31-9d3c-2f6c1b7e4a10", "attempt": 1})
    store_day("Bender")
    page = visit("operator", size=size)
    page.goto("/admin/robots/robot/")
    page.get_by_text("88 %").wait_for()
    assert_fine(page)
    page.get_by_role("link", name="reports errors").click()
    page.get_by_role("link", name="Bender").click()
    page.get_by_role("heading", name="The robot reports").wait_for()
    page.get_by_text("It says that it runs attempt 1").wait_for()
    assert_fine(page)
    agents.close_session("Bender", session.id)
    page.get_by_text("said goodbye").wait_for()
    assert_fine(page)
