"""Agents' sessions, and what they report: robots.agents."""

import datetime as dt
import uuid

import pytest

from fmv.mongodb.server import clock, server_now
from fmv.monitoring import counters
from robots import agents, services
from robots.errors import SessionReplaced, UnknownRobot
from robots.models import RobotState
from tests.support.factories import make_robot
from tests.support.probes import at_once, before_nth, listening

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _nothing_seen():
    agents._seen_at.clear()
    yield
    agents._seen_at.clear()


def opened(boot_id: str = "boot 1", robot: str = "", **values) -> agents.Session:
    return agents.open_session(robot or make_robot().name, boot_id=boot_id, agent="fmv-agent", version="1", **values)


def state_of(robot: str) -> RobotState:
    state = RobotState.objects.find(robot)
    assert state is not None
    return state


def let_pass(robot: str, seconds: float) -> None:
    """Move all times of the robot's state into the past."""
    state = state_of(robot)
    names = ("last_seen", "since", "reported_at", "changed_at")
    past = {name: at - dt.timedelta(seconds=seconds) for name in names if (at := getattr(state, name))}
    past["replaced_at"] = [at - dt.timedelta(seconds=seconds) for at in state.replaced_at]
    RobotState.objects.filter(pk=robot).update(**past)
    agents._seen_at.clear()


# --- Sessions --------------------------------------------------------------------------------------------------------


def test_a_session_makes_the_robot_online() -> None:
    session = opened(handlers=["drive", "lift"])
    assert agents.session_of(session.robot) == session
    state = state_of(session.robot)
    assert (state.online, state.signed_off, state.reported_at, state.errors) == (True, False, None, None)
    assert abs((server_now() - state.last_seen).total_seconds()) < 30
    assert state.since == state.last_seen == state.changed_at
    assert session.handlers == {"drive", "lift"}


def test_a_late_sign_in_of_a_start_that_has_ended_changes_nothing() -> None:
    first = opened("boot 1")
    opened("boot 2", first.robot, earlier_boot_ids=["boot 1"])
    current = opened("boot 3", first.robot, earlier_boot_ids=["boot 1", "boot 2"])
    before = RobotState.objects.filter(pk=first.robot).values().get()
    for late in ("boot 1", "boot 2"):
        with pytest.raises(SessionReplaced):
            opened(late, first.robot)
    assert RobotState.objects.filter(pk=first.robot).values().get() == before
    assert opened("boot 3", first.robot, earlier_boot_ids=["boot 1", "boot 2"]).id == current.id
    other = opened("another agent", first.robot)  # which knows nothing of these
    assert agents.session_of(first.robot) == other


def test_the_first_sign_ins_of_two_starts_at_once_leave_one_session() -> None:
    robot = make_robot().name
    sessions = at_once(*[lambda boot=boot: opened(boot, robot) for boot in ("boot 1", "boot 2", "boot 3")])
    assert agents.session_of(robot) in sessions


def test_a_robot_without_an_agent_has_no_session() -> None:
    assert agents.session_of(make_robot().name) is None


def test_a_newer_session_ends_the_older() -> None:
    old = opened("boot 1")
    new = opened("boot 2", old.robot)
    assert agents.session_of(old.robot) == new
    with pytest.raises(SessionReplaced):
        agents.report(old.robot, old.id, {})
    with pytest.raises(SessionReplaced):
        agents.close_session(old.robot, old.id)
    assert state_of(old.robot).online


def test_a_start_of_an_agent_gets_its_session_again_while_it_has_one() -> None:
    first = opened("boot 1")
    again = opened("boot 1", first.robot, handlers=["drive"])
    assert again.id == first.id
    assert agents.session_of(first.robot) == again
    agents.close_session(first.robot, first.id)
    assert opened("boot 1", first.robot).id != first.id


def test_session_ids_say_whether_the_same_start_of_an_agent_opened_both() -> None:
    first = opened("boot 1")
    other, again = opened("boot 2", first.robot), opened("boot 1", first.robot)
    assert first.id != again.id
    assert agents.same_start(first.id, again.id)
    assert not agents.same_start(first.id, other.id)


@pytest.mark.parametrize(
    ("boot_id", "ago", "replaced"),
    [
        pytest.param("boot 2", 0, 1, id="another start, while the agent was online"),
        pytest.param("boot 1", 0, 0, id="the same start, whose answer was lost"),
        pytest.param("boot 2", 31, 0, id="another start, long after the agent was last heard"),
    ],
)
def test_a_session_counts_as_replaced_only_if_its_agent_seemed_to_live(boot_id, ago, replaced) -> None:
    before = counters.read().get("sessions_replaced", 0)
    session = opened("boot 1")
    let_pass(session.robot, ago)
    opened(boot_id, session.robot)
    assert len(state_of(session.robot).replaced_at) == replaced
    assert counters.read().get("sessions_replaced", 0) == before + replaced


def test_replaced_sessions_are_forgotten_after_an_hour() -> None:
    session = opened("boot 1")
    opened("boot 2", session.robot)
    let_pass(session.robot, 3601)
    opened("boot 3", session.robot)
    assert state_of(session.robot).replaced_at == []


def test_a_goodbye_makes_the_robot_offline_at_once_and_can_be_repeated() -> None:
    session = opened()
    agents.close_session(session.robot, session.id)
    before = state_of(session.robot)
    assert (before.online, before.signed_off, before.session) == (False, True, None)
    agents.close_session(session.robot, session.id)
    assert state_of(session.robot).changed_at == before.changed_at
    with pytest.raises(SessionReplaced):
        agents.report(session.robot, session.id, {})


def test_a_session_after_a_goodbye_replaces_none() -> None:
    session = opened("boot 1")
    agents.close_session(session.robot)
    opened("boot 2", session.robot)
    state = state_of(session.robot)
    assert (state.online, state.replaced_at) == (True, [])


@pytest.mark.parametrize("moment", ["findAndModify robots_robotstate", "find robots_robot"])
def test_a_sign_in_while_the_robot_is_deleted_leaves_nothing_of_it(moment) -> None:
    robot = make_robot().name
    with (
        listening(before_nth(1, moment, lambda: services.delete(robot, by="amy"))),
        pytest.raises(UnknownRobot),
    ):
        opened(robot=robot)
    assert RobotState.objects.find(robot) is None


def test_a_report_while_the_robot_is_deleted_leaves_nothing_of_it() -> None:
    session = opened()
    with (
        listening(before_nth(1, "update robots_robotstate", lambda: services.delete(session.robot, by="amy"))),
        pytest.raises(SessionReplaced),
    ):
        agents.report(session.robot, session.id, {"battery": {"charge": 50.0}})
    assert RobotState.objects.find(session.robot) is None


# --- Reports ---------------------------------------------------------------------------------------------------------


def test_a_report_replaces_all_that_the_one_before_said() -> None:
    session = opened()
    battery = {"charge": 71.5, "charging": False}
    agents.report(session.robot, session.id, {"battery": battery, "driving": True, "extra": {"$a": {"b.c": 1}}})
    let_pass(session.robot, 5)
    answer = agents.report(session.robot, session.id, {"mode": "automatic", "errors": []})
    state = state_of(session.robot)
    assert (state.reported, state.errors) == ({"mode": "automatic"}, [])
    assert answer == agents.Reported(stored=True, report_seconds=5.0, drain=False)


def test_extra_values_are_stored_as_they_are() -> None:
    session = opened()
    extra = {"$a": {"b.c": "$now"}, "": [None, {"$literal": 1}]}
    agents.report(session.robot, session.id, {"extra": extra})
    assert state_of(session.robot).reported == {"extra": extra}


def test_a_report_within_a_second_is_not_stored_and_asked_for_again() -> None:
    session = opened()
    agents.report(session.robot, session.id, {"driving": True})
    answer = agents.report(session.robot, session.id, {"driving": False})
    assert (answer.stored, answer.report_seconds) == (False, 1.0)
    assert state_of(session.robot).reported == {"driving": True}


def test_a_report_is_stored_after_the_clock_was_put_back() -> None:
    session = opened()
    agents.report(session.robot, session.id, {"driving": True})
    let_pass(session.robot, -3600)
    assert agents.report(session.robot, session.id, {"driving": False}).stored


def test_a_goodbye_in_a_report_is_never_too_early() -> None:
    session = opened()
    agents.report(session.robot, session.id, {"driving": True})
    assert agents.report(session.robot, session.id, {"online": False}).stored
    state = state_of(session.robot)
    assert (state.online, state.signed_off) == (False, True)
    let_pass(session.robot, 2)
    agents.report(session.robot, session.id, {})
    state = state_of(session.robot)
    assert (state.online, state.signed_off) == (True, False)


def test_an_error_keeps_the_time_since_which_the_robot_reports_it() -> None:
    session = opened()
    jam = {"type": "jam", "level": "fatal", "description": "Gripper"}
    agents.report(session.robot, session.id, {"errors": [jam]})
    let_pass(session.robot, 60)
    first = state_of(session.robot).errors
    agents.report(session.robot, session.id, {"errors": [{"type": "dust", "level": "warning", "description": ""}, jam]})
    dust, again = state_of(session.robot).errors
    assert again == first[0] == jam | {"since": first[0]["since"]}
    assert dust["since"] > again["since"] or dust["since"] == state_of(session.robot).reported_at.replace(tzinfo=None)


@pytest.mark.parametrize(
    ("state", "changes"),
    [
        ({"battery": {"charge": 3.0}, "driving": True}, False),
        ({"mode": "manual"}, True),
        ({"emergency_stop": "manual"}, True),
        ({"errors": []}, False),
        ({"errors": [{"type": "jam", "level": "warning", "description": "$x"}]}, True),
        ({"online": False}, True),
    ],
)
def test_what_people_should_know_is_a_change(state, changes) -> None:
    session = opened()
    agents.report(session.robot, session.id, {})
    let_pass(session.robot, 5)
    before = state_of(session.robot).changed_at
    agents.report(session.robot, session.id, state)
    after = state_of(session.robot).changed_at
    assert (after > before) == changes
    let_pass(session.robot, 5)
    agents.report(session.robot, session.id, state)
    assert state_of(session.robot).changed_at == after - dt.timedelta(seconds=5)


def test_a_report_needs_a_session() -> None:
    robot = make_robot().name
    with pytest.raises(SessionReplaced):
        agents.report(robot, "", {})
    with pytest.raises(UnknownRobot):
        agents.report("nobody", "", {})
    assert RobotState.objects.find(robot) is None


def test_the_answer_says_that_the_robot_is_out_of_service() -> None:
    session = opened(robot=make_robot(enabled=False).name)
    assert agents.report(session.robot, session.id, {}).drain


# --- Being seen ------------------------------------------------------------------------------------------------------


def test_a_call_is_noted_once_in_some_seconds() -> None:
    session = opened()
    let_pass(session.robot, 20)
    before = state_of(session.robot)
    with listening() as commands:
        agents.seen(session.robot, session.id)
        agents.seen(session.robot, session.id)
    assert commands.sent == ["update robots_robotstate"]
    after = state_of(session.robot)
    assert after.last_seen >= before.last_seen + dt.timedelta(seconds=19)
    assert (after.since, after.changed_at) == (before.since, before.changed_at)


def test_a_call_brings_back_a_silent_robot_but_not_one_that_said_goodbye() -> None:
    silent, gone = opened(), opened()
    agents.report(gone.robot, gone.id, {"online": False})
    for session in (silent, gone):
        let_pass(session.robot, 60)
        RobotState.objects.filter(pk=session.robot).update(online=False)
        agents.seen(session.robot, session.id)
    assert state_of(silent.robot).online
    assert not state_of(gone.robot).online


def test_a_call_of_a_session_that_was_replaced_is_no_sign_of_life() -> None:
    old = opened("boot 1")
    new = opened("boot 2", old.robot)
    let_pass(new.robot, 20)
    before = state_of(new.robot).last_seen
    agents.seen(old.robot, old.id)
    assert state_of(new.robot).last_seen == before
    agents.seen(new.robot, new.id)  # which does not wait because the other one has called
    assert state_of(new.robot).last_seen > before


def test_silence_is_noticed_once(monkeypatch) -> None:
    silent, heard = opened(), opened()
    let_pass(silent.robot, 31)
    monkeypatch.setattr(clock, "even_for", lambda: 29.0)
    assert agents.notice_silent() == 0
    monkeypatch.setattr(clock, "even_for", lambda: 31.0)
    assert agents.notice_silent() == 1
    state = state_of(silent.robot)
    assert not state.online
    assert state.since == state.changed_at
    assert agents.notice_silent() == 0
    assert state_of(heard.robot).online


def test_only_robots_heard_of_lately_are_online() -> None:
    online, silent, gone = opened().robot, opened().robot, opened().robot
    make_robot()
    let_pass(silent, 31)
    agents.close_session(gone)
    now = server_now()
    assert set(RobotState.objects.online(now).values_list("pk", flat=True)) == {online}
    assert set(RobotState.objects.offline(now).values_list("pk", flat=True)) == {silent, gone}


def test_sessions_in_quick_succession_leave_one() -> None:
    robot = make_robot().name
    sessions = {agents.open_session(robot, boot_id=str(uuid.uuid4())).id for _ in range(3)}
    assert len(sessions) == 3
    assert len(state_of(robot).replaced_at) == 2
