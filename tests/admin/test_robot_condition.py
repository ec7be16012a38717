"""What robots report, in the admin: badges, filters, battery, errors, the charts of the day, a task that FMV denies."""

import datetime as dt
import re

import pytest

from fmv.accounts.permissions import Role
from fmv.mongodb.server import server_now
from robots import agents
from robots.models import RobotSamples, RobotState
from tasks.admin import robot_day
from tasks.models import Task
from tests.support.factories import make_robot, make_task
from tests.support.pages import ROBOTS, admin, robot_url, text

pytestmark = pytest.mark.django_db(transaction=True)

JAM = {"type": "gripper jam", "level": "fatal", "description": "<b>Stuck</b>", "hint": "Open it"}
MINUTE = dt.timedelta(minutes=1)


def connected(name: str, **state) -> str:
    session = agents.open_session(make_robot(name=name).name, agent="fmv-agent", version="2.1", handlers=["drive"])
    agents.report(name, session.id, state)
    return name


def silence(name: str) -> None:
    past = server_now() - dt.timedelta(seconds=300)
    RobotState.objects.filter(pk=name).update(last_seen=past, reported_at=past)


def shown(name: str) -> str:
    return text(admin(Role.VIEWER).get(robot_url(name)))


# --- The list --------------------------------------------------------------------------------------------------------


def test_the_list_shows_who_is_online_and_how_full_the_batteries_are():
    connected("Full", battery={"charge": 80.4, "charging": True})
    connected("Low", battery={"charge": 12.0}, errors=[JAM])
    silence(connected("Silent", battery={"charge": 55.0}, errors=[JAM]))
    make_robot(name="Without")
    table = text(admin().get(ROBOTS)).split("</table>")[0]
    rows = {row.split("</a>")[0].split(">")[-1]: row for row in table.split("<tr data-key")[1:]}
    assert [part in rows["Full"] for part in ("state-online", "80 %", "charging", "battery low")] == [True] * 3 + [
        False
    ]
    assert all(part in rows["Low"] for part in ("state-online", "12 %", "battery low", "reports errors"))
    assert all(part in rows["Silent"] for part in ("state-offline", "55 %", "5 min ago"))
    assert "reports errors" not in rows["Silent"]
    assert not any(part in rows["Without"] for part in ("online", "offline", "%"))


def test_operators_find_the_robots_that_need_them():
    connected("Fine", battery={"charge": 20.0}, errors=[])
    connected("Low", battery={"charge": 19.9})
    connected("Sick", errors=[JAM])
    silence(connected("Silent", battery={"charge": 5.0}, errors=[JAM]))
    make_robot(name="Without")
    client = admin(Role.VIEWER)
    for state, there in {
        "online": {"Fine", "Low", "Sick"},
        "offline": {"Silent"},
        "low_battery": {"Low"},
        "with_errors": {"Sick"},
    }.items():
        statuses = client.get(f"{ROBOTS}?state={state}").context["robot_statuses"]
        assert {status.robot.name for status in statuses} == there, state


# --- A robot's page --------------------------------------------------------------------------------------------------


def test_a_page_shows_what_the_robot_reports():
    connected(
        "R2",
        battery={"charge": 71.5, "voltage": 48.2},
        mode="manual",
        emergency_stop="remote",
        position={"map": "hall 3", "x": 1.25, "y": 2.5, "localized": False},
        driving=True,
        errors=[JAM],
    )
    page = shown("R2")
    parts = "fmv-agent 2.1|72 %|48.2 V|manual|remote|hall 3|x = 1.25 m|not localized|gripper jam|Open it|drive"
    for part in parts.split("|"):
        assert part in page, part
    assert "<b>Stuck" not in page
    assert "so this is old" not in page
    silence("R2")
    assert "so this is old" in shown("R2")


def test_a_robot_without_an_agent_has_a_page_as_before():
    make_robot(name="R2")
    page = shown("R2")
    assert "The robot reports" not in page
    assert "Battery" not in page


def test_a_page_warns_of_a_task_that_only_the_robot_believes_in():
    task = make_task(robot=make_robot(name="R2"), status="STARTED", attempt=1, lane="R2/0")
    session = agents.open_session("R2")
    Task.objects.filter(pk=task.pk).update(changed_at=server_now() - MINUTE)
    for attempt, warned in ((1, False), (2, True)):
        held = {"task_id": str(task.pk), "attempt": attempt}
        RobotState.objects.filter(pk="R2").update(reported_at=None)
        agents.report("R2", session.id, {"task": held})
        assert ("It says that it runs attempt" in shown("R2")) == warned
    Task.objects.filter(pk=task.pk).update(changed_at=server_now())  # the report was on its way
    assert "It says that it runs attempt" not in shown("R2")


# --- The charts of the day -------------------------------------------------------------------------------------------


def test_the_page_shows_battery_and_way_of_the_last_day():
    name = connected("R2", battery={"charge": 60.0})
    hour = server_now().replace(minute=0, second=0, microsecond=0) - dt.timedelta(hours=3)
    minutes = {f"{m:02}": {"charge": 70.0 - m, "map": "hall 3", "x": m / 10, "y": 0.0} for m in range(30)}
    RobotSamples.objects.create(id=f"{name}/{hour:%Y-%m-%dT%H}", hour=hour, minutes=minutes)
    page = shown("R2")
    for part in ("lowest 41 %, latest 41 %", "Position on hall 3", "Battery, the last 24 hours"):
        assert part in page, part
    part = text(admin().get(robot_url("R2").replace("change", "day")))
    assert part.count("<svg") == part.count("Show as a table") == 2
    rows = re.findall(r"<tr data-key.*?</tr>", part)
    assert [re.sub("<[^>]+>", " ", row).split() for row in rows] == [
        [*f"{hour:%d %b, %H:00}".split(), "41", "41"],
        [*f"{hour:%d %b, %H:00}".split(), "hall", "3", "2.90", "0.00"],
    ]


def test_a_line_is_broken_where_the_robot_was_silent():
    now = server_now()
    charges = [(600, 50.0), (599, 50.0), (30, 25.0), (1, 0.0)]
    found = [(now - minutes * MINUTE, {"charge": charge}) for minutes, charge in charges]
    chart = robot_day.battery(found, now)
    assert chart is not None
    assert (chart.lowest, chart.latest, chart.path.count("M"), chart.path.count("L")) == (0.0, 0.0, 3, 1)
    assert chart.path.endswith(f"M{600 * (1 - 1 / 1440):.1f} 96.0h0")


def test_a_way_is_of_the_latest_map_to_scale_and_y_points_up():
    now = server_now()
    places = [("other", 99.0, 99.0), ("hall", 0.0, 0.0), ("hall", 10.0, 0.0), ("hall", 10.0, 5.0)]
    found = [(now - (9 - n) * MINUTE, {"map": map, "x": x, "y": y}) for n, (map, x, y) in enumerate(places)]
    way = robot_day.track(found)
    assert way is not None
    assert (way.map, way.x, way.y) == ("hall", 10.0, 5.0)
    begin, *rest = way.path.replace("h0", "").removeprefix("M").split("L")
    points = [tuple(map(float, point.split())) for point in (begin, *rest)]
    (x0, y0), (x1, y1), (x2, y2) = points
    assert (round(x1 - x0), y1 - y0) == (552, 0)
    assert (x2, y2) == (x1, pytest.approx(y1 - 276, abs=0.2))
    assert (robot_day.track([]), robot_day.battery([], now)) == (None, None)


def test_a_robot_that_stood_still_has_a_way_too():
    way = robot_day.track([(server_now(), {"x": 3.0, "y": 4.0})])
    assert way is not None
    assert (way.map, way.here, way.across) == ("", (300.0, 150.0), 1.0)
