"""Which maps there are, and which robots are on one."""

import datetime as dt

import pytest

from fmv.mongodb.server import server_now
from robots import agents, positions
from robots.condition import Condition
from robots.models import RobotState
from tests.support.factories import make_robot
from tests.support.probes import listening

pytestmark = pytest.mark.django_db(transaction=True)

JAM = [{"type": "jam", "level": "fatal", "description": ""}]


def put(robot: str, x: float = 1.0, y: float = 2.0, *, errors=(), **position) -> str:
    """Store a robot that reports to be there."""
    session = agents.open_session(make_robot(name=robot).name, boot_id="1")
    agents.report(robot, session.id, {"position": {"x": x, "y": y} | position, "errors": list(errors)})
    return robot


def silence(robot: str, **fields) -> None:
    past = server_now() - dt.timedelta(minutes=5)
    RobotState.objects.filter(pk=robot).update(**{"last_seen": past, "reported_at": past} | fields)


def test_the_maps_are_those_of_the_last_reports_that_name_a_place():
    put("A", map="hall")
    put("B", map="hall")
    put("C", map="yard")
    put("D")
    for name, position in (("E", {"map": "hall", "x": 1.0}), ("F", None)):
        session = agents.open_session(make_robot(name=name).name, boot_id="1")
        agents.report(name, session.id, {"position": position} if position else {"driving": True})
    agents.open_session(make_robot(name="G").name)
    assert positions.maps() == {"hall": 2, "": 1, "yard": 1}
    assert [each.robot for each in positions.on("hall")] == ["A", "B"]
    assert [each.robot for each in positions.on("")] == ["D"]
    assert positions.on("nowhere") == []


def test_a_robot_leaves_its_map_when_it_reports_another_or_none():
    put("A", map="hall")
    session = agents.session_of("A")
    for position, maps in (({"map": "yard", "x": 0.0, "y": 0.0}, {"yard": 1}), (None, {})):
        RobotState.objects.update(reported_at=None)
        agents.report("A", session.id, {"position": position} if position else {})
        assert positions.maps() == maps


def test_a_position_is_shown_with_its_age_and_whether_it_is_still_true():
    put("Fresh", 1.5, -2.0, theta=0.5, map="hall", localized=False, errors=JAM)
    put("Old", 3, 4, map="hall", errors=JAM)
    put("Silent", 5, 6, map="hall")
    silence("Old", last_seen=server_now())
    silence("Silent")
    fresh, old, silent = positions.on("hall")
    assert fresh[1:5] == (1.5, -2.0, 0.5, False)
    assert (fresh.online, fresh.fresh, fresh.has_errors) == (True, True, True)
    assert (old.theta, old.online, old.fresh, old.has_errors) == (None, True, False, False)
    assert (silent.online, silent.fresh, silent.localized) == (False, False, True)
    assert server_now() - silent.at > dt.timedelta(minutes=4)
    for state in RobotState.objects.order_by("pk"):
        assert positions.of(Condition(state, server_now())) in (fresh, old, silent)


def test_a_map_costs_one_command_that_reads_no_more_than_it_shows():
    for number in range(20):
        put(f"R{number}", map="hall", errors=[{**JAM[0], "description": "x" * 2000}])
    put("Elsewhere", map="yard")
    with listening() as commands:
        assert len(positions.on("hall")) == 20
        assert commands.sent == ["find robots_robotstate"]
        [find] = commands.bodies
        assert positions.maps() == {"hall": 20, "yard": 1}
    assert (find["filter"], dict(find["sort"]), find["limit"]) == ({"map": "hall"}, {"_id": 1}, positions.MAX_ROBOTS)
    assert len(repr(commands.answers[0])) < 20 * 600
    index = next(each for each in RobotState._meta.indexes if each.name == "state_on_map")
    assert index.fields == ["map", "robot"]
