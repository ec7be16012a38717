"""Generated requests with the token of a robot: none reads or changes anything but what the robot itself runs.

This is a short run, always the same. With FMV_TEST_CASES, as `make fuzz` sets it, it is another, long one.
"""

import json
import os
import re
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import pytest
from django.apps import apps
from django.urls import get_resolver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fmv.accounts.permissions import NOT_FOR_AGENTS
from robots.models import Robot
from tasks.models import LogLine, Task
from tests.support.agent_requests import Agent, submit
from tests.support.factories import make_robot, make_session, make_task, make_user

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("bells"), pytest.mark.slow]

CASES = int(os.environ.get("FMV_TEST_CASES") or 0)
SECRET = "nobody's business"  # is in everything that the agent must not see
OPEN = re.compile(r"/api/v1/(health|openapi\.json|openapi-3\.0\.json|docs|auth/logout)/?")
METHODS = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "FETCH"]
HEADERS: list[dict[str, str]] = [
    {"HTTP_X_HTTP_METHOD_OVERRIDE": "DELETE"},
    {"HTTP_X_FORWARDED_USER": "root", "HTTP_REMOTE_USER": "root", "REMOTE_USER": "root"},
    {"HTTP_X_FORWARDED_FOR": "127.0.0.1", "HTTP_X_ORIGINAL_URL": "/api/v1/agent/state"},
    {"HTTP_ACCEPT": "text/event-stream", "HTTP_LAST_EVENT_ID": "0"},
    {"HTTP_ACCEPT": "text/html"},
    {"HTTP_ORIGIN": "http://testserver"},
    {"HTTP_IDEMPOTENCY_KEY": "1"},
    {"HTTP_IF_MATCH": "*"},
]
#: columns that a request changes without having been let in anywhere: when a token was last used
OF_USE = {"fmv.ApiToken": {"last_used_at"}}


class Fleet:
    """A robot whose token the requests have, another one, and tasks of both."""

    def __init__(self) -> None:
        self.own = Agent.signed_in(make_robot(name="Own", lanes=8))
        self.other = Agent.signed_in(make_robot(name="Other", location=SECRET, description=SECRET, lanes=8))
        self.people = make_user("manager", username="amy", name=SECRET)
        make_session(self.people)
        #: tasks that the agent must not change: of the other robot, and those of its own that run in workers
        self.foreign = [make_task(robot="Own", labels=[SECRET]), make_task(robot="Own", status="FAILURE", error=ERROR)]
        submit("Other")
        self.foreign += [
            self.other.take().task,
            make_task(robot="Other", handler="turn", runs_on="robot", message=SECRET),
        ]
        self.foreign += [make_task(robot="Other", status="SUCCESS", result={"x": SECRET}), make_task(robot="Other")]
        for task in self.foreign:
            LogLine.objects.create(task=task.pk, attempt=1, text=SECRET)

    def let_it_run(self) -> None:
        """Let the robot hold a task in an open session, whatever the last request did."""
        if not self.own.task_id or self.own.task.status != "STARTED" or self.own.renew().status_code != 200:
            assert self.own.restarted().status_code == 200
            submit("Own", priority=9)
            self.own.take()

    def everything_else(self) -> dict[str, list[Any]]:
        """Return all rows of the database but what the robot runs, its session and its state."""
        own = Task.objects.filter(robot="Own", runs_on="robot").values_list("pk", flat=True)
        found = {}
        for model in apps.get_models():
            name, rows = model._meta.label, model.objects.order_by("pk")
            if name == "tasks.Task":
                rows = rows.exclude(pk__in=own)
            elif name == "tasks.LogLine":
                rows = rows.exclude(task__in=own)
            elif name in ("robots.RobotState", "robots.RobotSamples"):
                rows = rows.exclude(pk="Own")
            elif name in ("fmv.Counter", "fmv.ThrottleWindow"):
                continue
            dropped = OF_USE.get(name, set())
            found[name] = [{key: row[key] for key in row if key not in dropped} for row in rows.values()]
        return found


OWN_SESSION = "own session"  # stands for the session that the agent has, until a request is sent
OWN_TASK = "own-task"
ERROR = {"type": "ValueError", "message": SECRET}


def routes(patterns: Any, prefix: str = "/") -> Iterator[str]:
    """Yield all routes, of the API and of the admin, with the names of their parts in angle brackets."""
    for each in patterns:
        if hasattr(each, "url_patterns"):
            yield from routes(each.url_patterns, prefix + str(each.pattern))
        elif "(?P" not in str(each.pattern):
            yield prefix + str(each.pattern)


ROUTES = sorted(set(routes(get_resolver().url_patterns)))


def bodies(fleet: Fleet) -> list[Any]:
    """Return what the routes take: those of people, and those of agents for each robot's session and attempts."""
    found: list[Any] = [
        b"",
        b"{",
        {},
        [],
        {"enabled": False, "lanes": 1},
        {"name": "Third", "location": "x", "description": "y"},
        {"handler": "noop", "queue_anyway": True},
        {"handler": "turn", "params": {}},
        {"runs": [{"robot": "Other"}]},
        {"username": "amy", "password": "open sesame, robots"},
    ]
    return [*found, *(body for _, _, body in of_agents(fleet, "x"))]


def of_agents(fleet: Fleet, task_id: str) -> Iterator[tuple[str, str, Any]]:
    """Yield what an agent sends about this task, in the session of each robot."""
    yield "POST", "session", {"agent": "x", "version": "1", "boot_id": "2", "handlers": ["turn"], "robot": "Other"}
    for session in (OWN_SESSION, OWN_SESSION, fleet.other.session, "x"):
        body = {"session": session, "attempt": 1, "robot": "Other"}
        yield "POST", "claim", body | {"claim_id": str(uuid.uuid4())}
        yield "PUT", "state", body | {"driving": True, "online": False}
        yield "DELETE", "session", body
        yield "POST", f"task/{task_id}/renew", body | {"progress": 5, "message": "x", "checkpoint": 1}
        yield "POST", f"task/{task_id}/log", body | {"first": 0, "lines": ["x"]}
        yield "POST", f"task/{task_id}/release", body | {"reason": "x"}
        for outcome in ("succeeded", "failed", "cancelled"):
            yield "POST", f"task/{task_id}/finish", body | {"outcome": outcome, "error": {"type": "x", "message": "y"}}


Request = tuple[str, str, Any, dict[str, str], bool]


def requests(fleet: Fleet) -> st.SearchStrategy[Request]:
    """Return requests of all kinds: method, path, body, headers, and whether the body is sent as that of a form."""
    ids = [str(task.pk) for task in fleet.foreign] * 2 + [OWN_TASK] * 6 + [str(uuid.uuid4())]
    names = ["Own", "Other", "Other", "Nobody", "oth%65r", "..", "%2e%2e", "Own/../Other", "Other%00", "*", "$ne"]

    def fill(route: str) -> st.SearchStrategy[str]:
        parts = re.split(r"<([^>]*)>", route)
        wanted = [ids if part.startswith("uuid:") else [*names, *ids] for part in parts[1::2]]
        return st.tuples(*map(st.sampled_from, wanted)).map(
            lambda chosen: "".join(
                fixed + (chosen[place] if place < len(chosen) else "") for place, fixed in enumerate(parts[::2])
            )
        )

    of_api = [route for route in ROUTES if route.startswith("/api/")]
    paths = st.one_of(st.sampled_from(of_api), st.sampled_from(ROUTES)).flatmap(fill)
    changed = st.sampled_from(
        ["", "", "", "?robot=Other", "?_method=DELETE", "?format=json", "//", ";x", "%2f", "?role=manager"]
    )
    headers = st.lists(st.sampled_from(HEADERS), max_size=2).map(
        lambda chosen: {k: v for each in chosen for k, v in each.items()}
    )
    path = st.tuples(paths, changed).map("".join)
    usual = [each for task_id in ids for each in of_agents(fleet, task_id)]
    return st.one_of(
        st.tuples(st.sampled_from(METHODS), path, st.sampled_from(bodies(fleet)), headers, st.booleans()),
        st.tuples(st.sampled_from(usual), headers).map(
            lambda drawn: (drawn[0][0], f"/api/v1/agent/{drawn[0][1]}", drawn[0][2], drawn[1], False)
        ),
    )


@pytest.mark.timeout(0 if CASES else 300)
def test_no_request_of_an_agent_reads_or_changes_what_is_not_its_robots(settings):
    settings.ENVIRONMENT.anonymous = "manager"  # a token of a robot allows less than none
    fleet = Fleet()
    before = fleet.everything_else()
    client, seen = fleet.own.api.client, dict.fromkeys(["403", "its own", "not its own"], 0)

    @fuzzed(fleet)
    def send(request):
        method, path, body, headers, as_form = request
        if "/agent/" in path:
            fleet.let_it_run()
        path = path.replace(OWN_TASK, fleet.own.task_id)
        data = body if isinstance(body, bytes) else json.dumps(body).replace(OWN_SESSION, fleet.own.session).encode()
        kind = "application/x-www-form-urlencoded" if as_form else "application/json"
        answer = client.generic(method, path, data, content_type=kind, **headers)
        content = b"" if answer.streaming else answer.content
        what = (method, path, body, headers, answer.status_code, content[:500])
        assert answer.status_code < 500 or answer.status_code == 501, what
        assert not answer.streaming or not path.startswith("/api/"), what
        assert SECRET.encode() not in content, what
        assert "sessionid" not in client.cookies, what
        assert fleet.everything_else() == before, what
        clean = unquote(path.partition("?")[0])
        if "/api/v1/agent/" in path:
            seen["its own" if answer.status_code < 300 else "not its own"] += 1
            if any(str(task.pk) in path for task in fleet.foreign):
                assert answer.status_code in (400, 403, 404, 405, 409, 415, 422) or method == "OPTIONS", what
        elif answer.status_code == 403:
            seen["403"] += 1
            if method != "HEAD" and clean.startswith("/api/"):
                assert NOT_FOR_AGENTS.encode() in content, what
        elif clean.startswith("/admin/"):
            assert answer.status_code in (302, 404, 405) or clean.startswith(("/admin/login/", "/admin/jsi18n/")), what
        elif clean.startswith("/api/v1/") and not OPEN.fullmatch(clean):
            assert answer.status_code in (404,) or clean.startswith("/api/v1/auth/login"), what

    send()
    assert min(seen.values()) > 5, seen
    assert Robot.objects.count() == 2


def fuzzed(fleet: Fleet) -> Any:
    return lambda test: settings(
        max_examples=CASES or 200,
        deadline=None,
        database=None,
        derandomize=not CASES,
        suppress_health_check=list(HealthCheck),
    )(given(requests(fleet))(test))
