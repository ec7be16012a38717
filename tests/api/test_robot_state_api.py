"""What robots' agents report, as the API shows it: in profiles, in the list and in the numbers."""

import datetime as dt

import pytest

from fmv.http.fields import read_body
from fmv.mongodb.server import server_now
from robots import agents
from robots.models import RobotState
from robots.serializers import RobotSerializer
from robots.state_serializers import StateInputSerializer, StateSerializer
from tests.support.api import Api, problems
from tests.support.factories import make_robot, make_task
from tests.support.probes import listening

pytestmark = pytest.mark.django_db

BATTERY = {"charge": 12.5, "charging": False}
JAM = {"type": "jam", "level": "fatal", "description": "Gripper"}


@pytest.fixture
def api() -> Api:
    return Api("viewer")


def connected(name: str, **state) -> str:
    """Store a robot whose agent has opened a session and reported this."""
    make_robot(name=name)
    session = agents.open_session(name, agent="fmv-agent", version="2.1", boot_id="b", handlers=["lift", "drive"])
    agents.report(name, session.id, state)
    return name


def move_back(name: str, seconds: float, *columns: str) -> None:
    state = RobotState.objects.get(pk=name)
    past = {column: getattr(state, column) - dt.timedelta(seconds=seconds) for column in columns}
    RobotState.objects.filter(pk=name).update(**past)


def names(answer) -> list[str]:
    return [robot["name"] for robot in answer.json()["robots"]]


# --- Alarms ----------------------------------------------------------------------------------------------------------


def at_odds() -> dict[str, list[str]]:
    """Robots with what is wrong between them and FMV."""
    for boot in "abc":
        agents.open_session(make_robot(name="Twins").name if boot == "a" else "Twins", boot_id=boot)
    connected("Lost", task={"task_id": "019ab0f3-7c1e-7a31-9d3c-2f6c1b7e4a10", "attempt": 1})
    connected("Unskilled")
    make_task(robot="Unskilled", handler="turn", runs_on="robot")
    make_task(robot="Unskilled", handler="drive", runs_on="robot")
    connected("Fine")
    make_task(robot="Fine", handler="drive", runs_on="robot")
    make_task(robot="Fine", handler="turn", runs_on="robot", priority=0)  # is not its next
    return {"Twins": ["several_agents"], "Lost": ["other_task"], "Unskilled": ["unknown_handler"], "Fine": []}


def test_a_state_shows_what_is_wrong_between_robot_and_fmv(api):
    expected = at_odds()
    make_robot(name="Without")
    assert {name: api("GET", f"/robot/{name}").json()["state"]["alarms"] for name in expected} == expected
    listed = {robot["name"]: robot["state"] for robot in api("GET", "/robot/?state=true").json()["robots"]}
    assert {name: state and state["alarms"] for name, state in listed.items()} == expected | {"Without": None}


def test_alarms_of_a_page_of_robots_cost_as_much_as_those_of_one(api):
    spent = []
    for names in (["A"], ["B", "C", "D", "E"]):
        for name in names:
            connected(name, task={"task_id": str(make_task(robot=name).pk), "attempt": 1})
        with listening() as commands:
            api("GET", "/robot/?state=true")
            spent.append(len(commands.sent))
    assert spent[0] == spent[1]


def test_an_alarm_ends_with_its_cause(api):
    at_odds()
    RobotState.objects.filter(pk="Twins").update(replaced_at=[server_now() - dt.timedelta(hours=2)] * 3)
    move_back("Lost", 31, "reported_at")
    agents.open_session("Unskilled", handlers=["drive", "turn"], boot_id="new")
    for name in ("Twins", "Lost", "Unskilled"):
        assert api("GET", f"/robot/{name}").json()["state"]["alarms"] == [], name


# --- A robot ---------------------------------------------------------------------------------------------------------


def test_a_robot_without_an_agent_has_no_state(api):
    make_robot(name="R2")
    assert api("GET", "/robot/R2").json()["state"] is None


def test_a_profile_shows_what_is_known_and_null_for_the_rest(api):
    connected("R2", battery=BATTERY, errors=[JAM], extra={"wifi": -61})
    state = api("GET", "/robot/R2").json()["state"]
    assert list(state) == list(StateSerializer().fields)
    assert (state["online"], state["stale"]) == (True, False)
    assert state["agent"] == {"name": "fmv-agent", "version": "2.1"}
    assert state["handlers"] == ["drive", "lift"]
    assert state["battery"] == BATTERY | {"voltage": None}
    assert (state["extra"], state["position"], state["driving"]) == (
        {"wifi": -61},
        None,
        None,
    )
    assert state["errors"] == [JAM | {"hint": None, "since": state["reported_at"]}]
    assert state["since"] <= state["reported_at"] <= state["last_seen"]


def test_old_values_are_shown_as_stale(api):
    connected("R2", battery=BATTERY, errors=[])
    move_back("R2", 31, "reported_at")
    state = api("GET", "/robot/R2").json()["state"]
    assert (state["online"], state["stale"], state["battery"]["charge"], state["errors"]) == (True, True, 12.5, [])
    move_back("R2", 31, "last_seen")
    state = api("GET", "/robot/R2").json()["state"]
    assert (state["online"], state["stale"], state["battery"]["charge"]) == (False, True, 12.5)


def test_a_report_changes_neither_etag_nor_location(api):
    make_robot(name="R2", location="Lab")
    before = api("GET", "/robot/R2")
    session = agents.open_session("R2")
    agents.report("R2", session.id, {"position": {"map": "hall 3", "x": 1.0, "y": 2.0}})
    after = api("GET", "/robot/R2")
    assert after["ETag"] == before["ETag"]
    assert after.json()["location"] == "Lab"


def test_a_deleted_robot_leaves_no_state(api):
    connected("R2")
    connected("R2 2")
    assert Api("manager")("DELETE", "/robot/R2").status_code == 204
    make_robot(name="R2")
    assert api("GET", "/robot/R2").json()["state"] is None
    assert api("GET", "/robot/R2 2").json()["state"]["online"]


# --- The list --------------------------------------------------------------------------------------------------------


def test_the_list_shows_states_only_if_asked(api):
    connected("A", battery=BATTERY)
    make_robot(name="B")
    assert api("GET", "/robot/").json()["robots"][0].keys() == {"name", "is_great", "location"}
    first, second = api("GET", "/robot/?state=true").json()["robots"]
    assert list(first) == list(RobotSerializer().fields)
    assert first["state"] == api("GET", "/robot/A").json()["state"]
    assert second["state"] is None


def test_the_list_with_states_has_pages(api, monkeypatch):
    monkeypatch.setattr("robots.models.state.STATES_READ", 2)
    for name in "ABCDE":
        connected(name, battery={"charge": float(ord(name))})
    page = api("GET", "/robot/?state=true&limit=3").json()
    shown = page["robots"] + api("GET", page["next"].partition("/api/v1")[2]).json()["robots"]
    assert [robot["state"]["battery"]["charge"] for robot in shown] == [float(ord(name)) for name in "ABCDE"]


def test_the_list_is_filtered_by_who_is_online(api):
    connected("Online")
    connected("Silent")
    move_back("Silent", 31, "last_seen")
    connected("Gone")
    agents.close_session("Gone")
    make_robot(name="Without")
    assert names(api("GET", "/robot/?online=true")) == ["Online"]
    assert names(api("GET", "/robot/?online=false")) == ["Gone", "Silent"]
    assert names(api("GET", "/robot/?online=false&q=sil&limit=1")) == ["Silent"]
    page = api("GET", "/robot/?online=false&limit=1").json()
    assert names(api("GET", page["next"].partition("/api/v1")[2])) == ["Silent"]
    assert problems(api("GET", "/robot/?online=maybe")) == ["query.online"]


# --- The numbers -----------------------------------------------------------------------------------------------------


def test_stats_count_the_robots_that_are_online_and_need_somebody(api):
    connected("A", battery={"charge": 19.9}, errors=[JAM])
    connected("B", battery={"charge": 20.0}, errors=[])
    connected("C", battery={"charge": 1.0}, errors=[JAM])
    move_back("C", 31, "last_seen")
    connected("D", battery={"charge": 1.0}, errors=[JAM])
    move_back("D", 31, "reported_at")
    connected("E")
    make_robot(name="F")
    numbers = api("GET", "/stats").json()["robots"]
    wanted = {"online": 4, "offline": 1, "low_battery": 1, "with_errors": 1}
    assert {name: numbers[name] for name in wanted} == wanted


# --- What agents may report ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "where"),
    [
        ({"battery": {"charge": 101}}, "battery.charge"),
        ({"battery": {"charge": "50"}}, "battery.charge"),
        ({"battery": {"charge": True}}, "battery.charge"),
        ({"battery": 5}, "battery"),
        ({"position": {"x": "1"}}, "position.x"),
        ({"mode": "turbo"}, "mode"),
        ({"emergency_stop": "yes"}, "emergency_stop"),
        ({"driving": "perhaps"}, "driving"),
        ({"errors": {}}, "errors"),
        ({"errors": [JAM, {"type": "jam"}]}, "errors.1.level"),
        ({"errors": [JAM] * 101}, "errors"),
        ({"task": {"task_id": "x", "attempt": 1}}, "task.task_id"),
        ({"task": {"task_id": "019ab0f3-7c1e-7a31-9d3c-2f6c1b7e4a10", "attempt": 0}}, "task.attempt"),
        ({"extra": []}, "extra"),
        ({"extra": {"a": "x" * 4096}}, "extra"),
        ({"extra": {"a\0": 1}}, "extra"),
        ({"extra": {"a": 2**70}}, "extra.a"),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(report, where):
    from fmv.http.errors import describe

    with pytest.raises(Exception) as raised:  # noqa: PT011 - `describe` below takes no other than those of bad input
        read_body(StateInputSerializer, report)
    status, detail, _ = describe(raised.value)
    assert (status, [".".join(map(str, problem["loc"][1:])) for problem in detail]) == (422, [where])


def test_unknown_fields_and_nulls_are_ignored():
    nulls = dict.fromkeys(StateInputSerializer().fields)
    assert read_body(StateInputSerializer, nulls | {"wings": 2}) == {}
    report = {"battery": {"charge": 5, "charging": None, "cells": 8}, "errors": [JAM | {"hint": None, "code": 7}]}
    assert read_body(StateInputSerializer, report) == {"battery": {"charge": 5.0}, "errors": [JAM]}
