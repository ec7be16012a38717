"""POST and DELETE /agent/session: what a robot holds when its agent comes back."""

import datetime as dt
import uuid
from unittest.mock import patch

import pytest

from fmv.mongodb.server import server_now
from robots import agents
from robots.models import RobotState
from tasks.agents import services
from tasks.models import Status, Task
from tasks.models.transitions import TIMEOUT_ASKED
from tasks.queue import services as queue
from tests.support.agent_requests import Agent, code, submit
from tests.support.api import Api
from tests.support.factories import make_robot
from tests.support.probes import statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def agent_with(handler: str = "turn", **options) -> Agent:
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, handler, **options)
    return agent.take()


def test_a_session_says_what_an_agent_needs_to_know():
    agent = Agent(make_robot(name="R2"))
    body = agent.sign_in().json()
    assert (body["robot"], body["protocol"], body["lease_seconds"], body["tasks"]) == ("R2", 1, 60, [])
    assert (body["renew_seconds"], body["report_seconds"]) == (20, agents.report_seconds())
    assert agents.session_of("R2").id == body["session"]


def test_a_start_that_signs_in_again_has_the_same_session_and_all_its_tasks():
    agent = agent_with()
    before = agent.task.history
    old = agent.session
    [held] = agent.sign_in().json()["tasks"]
    assert (agent.session, agent.task.history) == (old, before)
    assert (held["task"]["task_id"], held["attempt"], held["resumed"]) == (agent.task_id, 1, False)
    assert (held["lease_seconds"], held["hold_seconds"]) == (30, 130)
    assert agent.renew().status_code == 200


def test_a_new_session_of_the_same_start_keeps_all_tasks():
    agent = agent_with()
    old = agent.session
    agents.close_session(agent.robot, old)
    [held] = agent.sign_in().json()["tasks"]
    assert (held["task"]["task_id"], held["attempt"], held["resumed"]) == (agent.task_id, 1, False)
    assert (held["lease_seconds"], held["hold_seconds"]) == (30, 130)
    agent.session, new = old, agent.session
    assert code(agent.renew()) == "session_replaced"
    agent.session = new
    assert agent.renew().status_code == 200
    assert agent.finish(result={"degrees": 1}).json()["status"] == "SUCCESS"


def test_after_a_restart_a_handler_that_can_goes_on_from_its_checkpoint():
    agent = agent_with("patrol")
    agent.renew(checkpoint={"leg": 3})
    [held] = agent.restarted().json()["tasks"]
    assert (held["attempt"], held["resumed"], held["checkpoint"]) == (1, True, {"leg": 3})
    assert agent.task.history[-1]["note"] == "its agent was started again and goes on"
    assert agent.renew().status_code == 200
    assert agent.finish(result={}).json()["attempt"] == 1


def test_after_a_restart_another_handlers_task_is_tried_again():
    agent = agent_with()
    old = agent.session
    assert agent.restarted().json()["tasks"] == []
    assert agent.task.error["type"] == "AgentRestarted"
    assert agent.task.status == Status.RETRY
    agent.session, new = old, agent.session
    assert code(agent.renew()) == "session_replaced"  # even if both starts live: the older must not win it back
    agent.session = new
    Task.objects.get(pk=agent.task_id).promote()
    assert agent.claim().json()["attempt"] == 2


def test_after_a_restart_a_task_without_attempts_fails_and_a_cancelled_one_ends():
    agent = agent_with(max_attempts=1)
    agent.restarted()
    assert agent.task.status == Status.FAILURE
    agent = agent_with()
    agent.task.request_cancel("cancel asked for by fry")
    agent.restarted()
    assert (agent.task.status, agent.task.lane) == (Status.REVOKED, None)


@pytest.mark.parametrize("handler", ["turn", "patrol"])
@pytest.mark.parametrize("delivers", ["before it signs in", "in the session before", "in the new session"])
def test_an_outcome_from_the_disk_is_taken_after_a_restart(handler, delivers):
    agent = agent_with(handler)
    old = agent.session
    if delivers != "before it signs in":
        agent.restarted()
    if delivers == "in the session before" and handler == "turn":
        agent.session = old
    assert agent.finish(result={"degrees": 1}).json()["status"] == "SUCCESS"
    assert statuses(agent.task)[-1] == "SUCCESS"


@pytest.mark.parametrize("handler", ["turn", "patrol"])
def test_a_task_that_the_agent_never_had_is_handed_back_uncounted_after_a_restart(handler):
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, handler, max_attempts=1)
    agent.claim()
    assert agent.restarted().json()["tasks"] == []
    assert (agent.task.status, agent.task.attempts_left) == (Status.QUEUED, 1)


def test_a_claim_whose_answer_was_lost_is_in_the_answer_to_the_next_session():
    agent = Agent.signed_in(make_robot())
    submit(agent.robot)
    id = uuid.uuid4()
    agent.claim(id)
    [held] = agent.sign_in().json()["tasks"]
    assert held["task"]["task_id"] == agent.task_id
    assert agent.claim(id).json()["task"]["task_id"] == agent.task_id


def test_a_late_sign_in_of_an_earlier_start_ends_no_task():
    earlier = Agent.signed_in(make_robot())
    agent = Agent(earlier.robot, boot_id="boot 2")
    agent.sign_in(earlier_boot_ids=["boot 1"])
    submit(agent.robot)
    agent.take()
    assert code(earlier.sign_in()) == "session_replaced"
    assert agent.renew().status_code == 200
    assert agent.finish(result={"degrees": 1}).json()["attempt"] == 1


def test_a_robot_goes_on_also_if_the_first_answer_after_its_restart_was_lost():
    agent = agent_with("patrol")
    agent.renew(checkpoint={"leg": 3})
    agent.restarted()
    [held] = agent.sign_in().json()["tasks"]
    assert (held["attempt"], held["resumed"], held["checkpoint"]) == (1, True, {"leg": 3})


def test_a_task_does_not_go_on_in_an_agent_that_has_lost_the_skill():
    agent = agent_with("patrol")
    agent.handlers = ["turn"]
    assert agent.restarted().json()["tasks"] == []
    assert agent.task.error["type"] == "AgentRestarted"


@pytest.mark.parametrize("state", ["running", "on its last attempt", "being cancelled", "timed out"])
def test_a_sign_in_ends_no_task_that_a_newer_session_has_taken_meanwhile(state):
    agent = agent_with("patrol", max_attempts=1 if state == "on its last attempt" else 3)
    if state == "being cancelled":
        queue.cancel(agent.task, by="fry")
    elif state == "timed out":
        assert agent.task.request_cancel(f"{TIMEOUT_ASKED}ran longer than 1 s")
    original = services._take_over

    def meanwhile(*args):
        with patch.object(services, "_take_over", original):
            [held] = agent.restarted().json()["tasks"]
        assert held["resumed"]
        return original(*args)

    with patch.object(services, "_take_over", meanwhile):
        without_skill = Agent(agent.robot, boot_id="boot 2", handlers=("turn",))
        assert code(without_skill.sign_in()) == "session_replaced"
    assert (agent.task.status, agent.task.session) == (Status.STARTED, agent.session)
    assert agent.renew().status_code == 200


@pytest.mark.parametrize("moment", ["attempts_held", "_require_session", "_take_over"])
@pytest.mark.parametrize("first_start", ["boot 1", "boot 2", "boot 3"])
def test_of_two_sign_ins_at_once_the_newer_one_has_the_tasks(moment, first_start):
    """An agent that had no answer in time signs in again, while its first request is still being worked on."""
    agent = agent_with("patrol")
    agent.boot_id = "boot 1" if first_start == "boot 1" else "boot 2"
    again, original = [], getattr(services, moment)

    def meanwhile(*args):
        found = original(*args) if moment == "attempts_held" else None
        if not again:
            again.append(None)
            again[0] = agent.sign_in()
        return original(*args) if found is None else found

    with patch.object(services, moment, meanwhile):
        first = Agent(agent.robot, boot_id=first_start).sign_in()
    again = again or [agent.sign_in()]  # its own session is not taken over
    [held] = again[0].json()["tasks"]
    assert held["task"]["task_id"] == agent.task_id
    assert agent.task.session == agent.session
    if first_start == agent.boot_id:  # it is the same session, whichever answer the agent gets
        assert first.json()["session"] == agent.session
    else:
        assert code(first) == "session_replaced"
    assert agent.renew().status_code == 200


def test_a_goodbye_closes_the_session():
    agent = Agent.signed_in(make_robot())
    assert agent.api("DELETE", "/agent/session").status_code == 204
    assert code(agent.claim()) == "session_replaced"
    agent.sign_in()
    assert agent.api("DELETE", "/agent/session", {"session": "another"}).status_code == 409
    assert agent.api("DELETE", "/agent/session", {"session": agent.session}).status_code == 204


@pytest.mark.parametrize("verb", ["claim", "renew", "log", "finish", "release", "state", "goodbye"])
def test_an_agent_that_was_replaced_does_not_make_the_robot_look_alive(verb):
    agent = agent_with("patrol")
    old = agent.session
    agent.restarted()
    before = server_now() - dt.timedelta(seconds=20)
    RobotState.objects.update(last_seen=before, reported_at=before)
    current, agent.session = agent.session, old
    mine = {"session": old}
    calls = {
        "claim": agent.claim,
        "renew": agent.renew,
        "log": lambda: agent.log(0, "x"),
        "finish": lambda: agent.call("finish", outcome="succeeded", attempt=2),
        "release": lambda: agent.call("release", attempt=2),
        "state": lambda: agent.api("PUT", "/agent/state", mine),
        "goodbye": lambda: agent.api("DELETE", "/agent/session", mine),
    }
    assert code(calls[verb]()) in ("session_replaced", "attempt_lost")
    assert RobotState.objects.get().last_seen < before + dt.timedelta(seconds=1)
    agent.session = current
    assert agent.renew().status_code == 200
    assert RobotState.objects.get().last_seen > before + dt.timedelta(seconds=15)


def test_bad_sessions_are_refused():
    agent = Agent(make_robot(), boot_id="")
    refused = agent.sign_in()
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "boot_id"]


def test_an_agent_reports_the_robots_state_and_learns_that_it_is_out_of_service():
    agent = Agent.signed_in(make_robot(enabled=False))
    state = {"session": agent.session, "battery": {"charge": 80}, "mood": "sunny"}
    assert agent.api("PUT", "/agent/state", state).json() == {"report_seconds": 5, "drain": True}
    assert Api("viewer")("GET", f"/robot/{agent.robot}").json()["state"]["battery"]["charge"] == 80
    assert code(agent.api("PUT", "/agent/state", state | {"session": "another"})) == "session_replaced"
