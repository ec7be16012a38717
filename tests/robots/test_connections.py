"""Which robots are online or need somebody, and whose sessions are replaced: robots.connections and the doctor."""

import datetime as dt

import pytest
from django.core.checks import Error, Info
from django.core.checks import Warning as Warn

from fmv.mongodb.server import server_now
from robots import agents, connections
from robots.models import RobotState
from tasks.models import Task
from tasks.reports import diagnostics
from tests.support.factories import make_robot, make_task
from tests.support.probes import listening

pytestmark = pytest.mark.django_db(transaction=True)


def test_counts_and_names_are_of_the_same_robots():
    kinds = {"low_battery": {"battery": {"charge": 5.0}}, "with_errors": {"errors": [{"type": "a", "level": "fatal"}]}}
    for name, state in kinds.items():
        session = agents.open_session(make_robot(name=name).name)
        agents.report(name, session.id, state)
    agents.open_session(make_robot(name="offline").name)
    agents.close_session("offline")
    assert {kind: connections.names(kind) for kind in kinds} == {kind: [kind] for kind in kinds}
    assert connections.names("offline") == ["offline"]
    assert sorted(connections.names("online")) == sorted(kinds)
    with listening() as commands:
        assert connections.counts() == {"online": 2, "offline": 1, "low_battery": 1, "with_errors": 1}
    assert commands.sent == ["aggregate robots_robotstate"]


def test_sessions_replaced_within_an_hour_are_counted_by_robot():
    make_robot(name="R2"), make_robot(name="R3")
    for boot in ("a", "b", "a"):
        agents.open_session("R2", boot_id=boot)
        agents.open_session("R3", boot_id="same")
    assert connections.replaced() == {"R2": 2}
    RobotState.objects.filter(pk="R2").update(replaced_at=[server_now() - dt.timedelta(hours=2)])
    assert connections.replaced() == {}


def test_the_doctor_warns_of_two_agents_with_one_token():
    agents.open_session(make_robot(name="R2").name, boot_id="a")
    assert [type(found) for found in diagnostics.agents()] == [Info]
    agents.open_session("R2", boot_id="b")
    assert [type(found) for found in diagnostics.agents()] == [Info]  # it was perhaps started again
    agents.open_session("R2", boot_id="a")
    warning, number = diagnostics.agents()
    assert isinstance(warning, Warn)
    assert warning.msg == "R2: The session of its agent was replaced 2 times within an hour."
    assert number.msg == "Robots that are online: 1; that had an agent and are offline: 0."


def test_the_doctor_warns_of_tasks_that_only_robots_believe_in():
    old = server_now() - dt.timedelta(minutes=1)
    for name, attempt in (("Right", 2), ("Wrong", 1), ("Late", 1)):
        task = make_task(robot=make_robot(name=name), status="STARTED", attempt=2, lane=f"{name}/0")
        session = agents.open_session(name)
        agents.report(name, session.id, {"task": {"task_id": str(task.pk), "attempt": attempt}})
        Task.objects.filter(pk=task.pk).update(changed_at=server_now() if name == "Late" else old)
    error, _ = diagnostics.agents()
    assert isinstance(error, Error)
    assert error.msg.startswith("Wrong: It says that it runs task ")


def test_the_doctor_warns_of_tasks_without_an_agent_that_runs_them():
    for name, agent in (("Fine", ["drive"]), ("Other", ["lift"]), ("Gone", ["drive"]), ("None", None), ("Out", None)):
        make_task(robot=make_robot(name=name, enabled=name != "Out"), handler="drive", runs_on="robot")
        if agent:
            agents.open_session(name, handlers=agent)
    make_task(robot=make_robot(name="Worker"), handler="wait")
    agents.close_session("Gone")
    gone, none, other, _ = diagnostics.agents()
    assert gone.msg.startswith("Gone: Its agent is offline, because it said goodbye, and tasks wait for it, since 20")
    assert none.msg == "None: No agent has connected yet, and tasks wait for it."
    assert other.msg.startswith("Other: Its agent does not know drive: tasks wait, and so do those behind them")
