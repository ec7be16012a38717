"""Who may call the routes of agents: the agent of a robot, for the tasks of its own robot, and nobody else."""

import uuid
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from django.urls import get_resolver

import robots.services
from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken
from fmv.accounts.permissions import AGENTS_ONLY, Role
from robots.models import Robot, RobotState
from tasks.agents import urls
from tasks.models import Task
from tasks.queue.waiting import number_waiting
from tests.conftest import wait_until
from tests.support.agent_requests import Agent, submit
from tests.support.api import Api, assert_refused, stored
from tests.support.factories import make_robot, make_token, make_user
from tests.support.probes import at_once

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("bells")]

METHODS = {"get", "post", "put", "patch", "delete"}
OF_TASK = {"renew": {}, "log": {"first": 0, "lines": ["x"]}, "finish": {"outcome": "succeeded"}, "release": {}}


@pytest.fixture
def agent() -> Agent:
    """The agent of a robot that can hold several tasks."""
    return Agent.signed_in(make_robot(lanes=8))


def of_task(agent: Agent) -> Iterator[tuple[str, str, Any]]:
    """Yield each route that names a task, of a task that the agent holds."""
    for verb, body in OF_TASK.items():
        submit(agent.robot)
        agent.take()
        mine = {"session": agent.session, "attempt": agent.attempt, "reason": "x"}
        yield "POST", f"/agent/task/{agent.task_id}/{verb}", mine | body


def calls(agent: Agent) -> Iterator[tuple[str, str, Any]]:
    """Yield each route with what the agent would send; the last ends its session."""
    yield from of_task(agent)
    yield "POST", "/agent/claim", {"session": agent.session, "claim_id": str(uuid.uuid4())}
    yield "PUT", "/agent/state", {"session": agent.session, "driving": True}
    yield "DELETE", "/agent/session", {"session": agent.session}
    yield "POST", "/agent/session", {"agent": "x", "version": "1", "boot_id": "2", "handlers": []}


def everything() -> list[Any]:
    """Return all that a call could change, but for when the agent was last seen."""
    return [*stored(), *RobotState.objects.order_by("pk").values("pk", "session", "reported", "online")]


def assert_nobody_else(api: Api, agent: Agent, *statuses: int) -> None:
    for method, path, body in calls(agent):
        before = everything()
        answer = api(method, path, body)
        assert_refused(answer, *statuses)
        if answer.status_code == 403:
            assert answer.json() == {"detail": AGENTS_ONLY}
        for other in ("GET", "OPTIONS", "PATCH"):
            assert api(other, path).status_code in statuses
        assert everything() == before, path


def test_these_are_all_routes_of_agents(agent):
    found = {(each.callback.cls, method) for each in urls.urlpatterns for method in dir(each.callback.cls)}
    assert len([method for _, method in found if method in METHODS]) == len([*calls(agent)])


def test_every_view_whose_path_begins_with_agent_is_for_agents():
    found = [(route, view) for route, view in walk(get_resolver().url_patterns) if route.startswith("api/v1/")]
    of_agents = {route for route, view in found if getattr(getattr(view, "cls", None), "agent", False)}
    assert of_agents == {route for route, _ in found if route.startswith("api/v1/agent/")}
    assert len(of_agents) == len(urls.urlpatterns)


def walk(patterns: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for each in patterns:
        if hasattr(each, "url_patterns"):
            yield from walk(each.url_patterns, prefix + str(each.pattern))
        else:
            yield prefix + str(each.pattern), each.callback


def test_an_agent_may_call_every_route_of_agents(agent):
    for method, path, body in calls(agent):
        answer = agent.api(method, path, body)
        assert answer.status_code < 300, (method, path, answer.content)


@pytest.mark.parametrize("role", list(Role))
def test_no_role_allows_a_route_of_agents(agent, role):
    user = make_user(role, password=None)
    assert_nobody_else(Api(make_token(user)), agent, 403)
    assert_nobody_else(Api(user), agent, 401, 403)


def test_no_superuser_may_call_a_route_of_agents(agent):
    root = make_user(Role.NONE, is_superuser=True, password=None)
    assert_nobody_else(Api(make_token(root)), agent, 403)
    assert_nobody_else(Api(root), agent, 401, 403)


@pytest.mark.parametrize("anonymous", ["none", "viewer", "operator", "manager"])
def test_a_caller_who_has_not_signed_in_may_call_no_route_of_agents(agent, settings, anonymous):
    settings.ENVIRONMENT.anonymous = anonymous
    assert_nobody_else(Api(None), agent, 401)


@pytest.mark.parametrize("own_session", [True, False])
def test_an_agent_may_do_nothing_with_the_task_of_another_robot(agent, own_session):
    other = Agent.signed_in(make_robot(name="Other"))
    for method, path, body in of_task(agent):
        before = everything()
        answer = other.api(method, path, body | ({"session": other.session} if own_session else {}))
        assert answer.status_code in (404, 409), (path, answer.content)
        assert str(agent.task_id) not in answer.content.decode()
        assert everything() == before, path


def test_an_agent_may_not_use_the_session_of_another_robot(agent):
    other = Agent.signed_in(make_robot(name="Other"))
    submit(agent.robot), submit("Other")
    other.session = agent.session
    before = everything()
    assert other.claim().status_code == 409
    assert other.api("PUT", "/agent/state", {"session": agent.session, "driving": True}).status_code == 409
    assert other.api("DELETE", "/agent/session", {"session": agent.session}).status_code == 409
    assert everything() == before


def test_a_revoked_token_stops_at_the_next_request(agent):
    for method, path, body in calls(agent):
        token = make_token(robot=agent.robot)
        api = Api(token)
        api_tokens.revoke(token, by="test")
        before = everything()
        assert_refused(api(method, path, body), 401)
        assert everything() == before
        token.delete()


@pytest.mark.parametrize("act", ["revoke", "delete"])
def test_a_claim_that_waits_gets_no_task_when_its_token_ends_meanwhile(agent, act):
    def end() -> None:
        wait_until(lambda: number_waiting() == 1)
        if act == "revoke":
            api_tokens.revoke_all_of(agent.robot, by="test")
        else:
            robots.services.delete(agent.robot, by="test")
            make_robot(name=agent.robot)
        submit(agent.robot)

    answer, _ = at_once(partial(agent.claim, wait=20), end)
    assert_refused(answer, 401)
    assert Task.objects.get().status == "QUEUED"


def test_the_agent_of_a_deleted_robot_stops_at_the_next_request():
    agent = Agent.signed_in(make_robot(name="R2"))
    robots.services.delete("R2", by="test")
    for method, path in [("POST", "/agent/claim"), ("PUT", "/agent/state"), ("POST", "/agent/session")]:
        assert_refused(agent.api(method, path, {"session": agent.session, "boot_id": "2"}), 401)
    assert not Robot.objects.exists()
    assert {token.state for token in ApiToken.objects.all()} == {"revoked"}


def test_a_new_robot_of_the_same_name_does_not_let_the_old_ones_agent_in():
    agent = Agent.signed_in(make_robot(name="R2"))
    robots.services.delete("R2", by="test")
    make_robot(name="R2")
    assert_refused(agent.sign_in(), 401)


def test_both_tokens_of_a_robot_work_while_one_replaces_the_other(agent):
    successor = make_token(robot=agent.robot)
    first = agent.api
    agent.api = Api(successor)
    submit(agent.robot)
    assert agent.claim().status_code == 200
    agent.api = first
    assert agent.renew().status_code == 200
    api_tokens.revoke(ApiToken.objects.exclude(pk=successor.pk).get(), by="test")
    assert_refused(agent.renew(), 401)
    agent.api = Api(successor)
    assert agent.finish().status_code == 200


def test_the_requests_of_two_robots_are_counted_apart(settings, agent):
    settings.ENVIRONMENT.throttle_write = "3/day"
    other = Agent(make_robot(name="Other"))
    for _ in range(3):
        assert agent.sign_in().status_code == 200
    assert agent.sign_in().status_code == 429
    assert other.sign_in().status_code == 200
    assert Api(make_token(robot=agent.robot))("POST", "/agent/session", {"boot_id": "2"}).status_code == 429


def test_the_document_says_that_a_robots_token_alone_opens_the_routes_of_agents():
    paths = Api(None)("GET", "/openapi.json").json()["paths"]
    found = {
        path: each for path, operations in paths.items() if path.startswith("/agent/") for each in operations.values()
    }
    assert found
    for path, operation in found.items():
        assert operation["security"] == [{"bearer": []}], path
        assert operation["responses"]["403"]["description"] == "The token is not one of a robot"
    assert (
        "robot's agent"
        in Api(None)("GET", "/openapi.json").json()["components"]["securitySchemes"]["bearer"]["description"]
    )
