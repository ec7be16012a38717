"""The API as a client meets it."""

import json
from typing import Any

from django.conf import settings
from django.http import HttpResponse
from django.test import Client

from fmv.accounts.models import ApiToken, User
from fmv.accounts.permissions import Role
from robots.models import Robot
from tasks.models import LogLine, Task
from tests.support.factories import make_session, make_user

NO_BODY = object()


class Api:
    """Calls as one user, or as nobody: `Api("viewer")("GET", "/task/")`, `Api(None)("POST", "/robot/", {…})`.

    `Api(make_token(robot="R2"))` calls as the robot's agent does.

    Bytes are sent as they are, anything else as JSON. A fault of the server is an answer like any other.
    """

    def __init__(self, who: str | User | ApiToken | None = Role.MANAGER, **options: Any) -> None:
        self.client = Client(raise_request_exception=False, **options)
        if isinstance(who, ApiToken):
            self.client.defaults["HTTP_AUTHORIZATION"] = f"Bearer {who.text}"
        elif who is not None:
            user = who if isinstance(who, User) else make_user(who, password=None)
            self.client.cookies[settings.SESSION_COOKIE_NAME] = make_session(user)

    def __call__(self, method: str, path: str, body: Any = NO_BODY, **options: Any) -> HttpResponse:
        options = {"content_type": "application/json"} | options
        data = b"" if body is NO_BODY else body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.generic(method, f"/api/v1{path}", data, **options)


def problems(answer: HttpResponse) -> list[str]:
    """Return where the answer finds the input at fault: `["body.name", "query.limit"]`."""
    return [".".join(map(str, problem["loc"])) for problem in answer.json()["detail"]]


def assert_refused(answer: HttpResponse, *statuses: int) -> None:
    """The answer is one of these statuses, in the shape every error has."""
    assert answer.status_code in statuses, answer.content
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["X-Request-ID"]
    body = answer.json()
    assert list(body) == ["detail"]
    if isinstance(body["detail"], list):
        assert body["detail"]
        for problem in body["detail"]:
            assert list(problem) == ["loc", "msg", "type"]
            assert problem["loc"][0] in ("body", "query", "path", "header")
            assert problem["msg"]
            assert problem["type"]
    else:
        assert isinstance(body["detail"], str)
        assert body["detail"]


def stored() -> list[Any]:
    """Return all that the API could have changed."""
    return [list(model.objects.order_by("pk").values()) for model in (Robot, Task, LogLine)]
