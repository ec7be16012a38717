"""What a request costs besides its MongoDB commands (see test_round_trips_api.py), in calls of Python functions.

A limit is a tenth above what it was when it was set. Who must raise one: PARTS=requests,profile tells what it costs.
"""

import sys
from collections import Counter
from itertools import count

import pytest
from django.core.handlers.wsgi import WSGIHandler

from tests.bench.profile import call, package_of
from tests.bench.requests import Route
from tests.support.api import Api
from tests.support.environment import override_environment
from tests.support.factories import make_robot, make_task, make_token, make_user
from tests.support.probes import recorded_bells

pytestmark = pytest.mark.django_db(transaction=True)

#: the driver; Python's own library, whose versions vary; asgiref, which calls more while a browser's event loop runs;
#: and what a test adds
OF_OTHERS = ("pymongo", "bson", None, "asgiref", "_pytest")
NUMBERS = count()


def calls_of(route: Route) -> Counter[str]:
    """Return how many calls the route makes of the functions of each package, once all caches are full."""
    application = WSGIHandler()
    for _ in range(2):
        call(application, route, NUMBERS)
    calls: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, _: event == "call" and calls.update([package_of(frame.f_code.co_filename)]))
    try:
        call(application, route, NUMBERS)
    finally:
        sys.setprofile(None)
    return calls


LIMITS = {
    "GET /health": 532,  # it stands behind all other routes of the API
    "GET /task/{task}": 432,
    "GET /task/": 525,
    "GET /robot/": 480,
    "GET /robot/Bender": 500,
    "POST /robot/": 868,
    "POST /robot/Bender/run": 935,
}
BODIES = {
    "POST /robot/": '{"name": "R#", "location": "Lab", "description": "New"}',
    "POST /robot/Bender/run": '{"handler": "noop"}',
}


@pytest.mark.parametrize("what", LIMITS)
@override_environment(anonymous="manager")
def test_a_request_calls_no_more_functions_than_it_did(what):
    make_robot(name="Bender")
    method, path = what.format(task=make_task(robot="Bender").pk).split()
    with recorded_bells():
        calls = calls_of(Route(what, path, method=method, body=BODIES.get(what, "")))
    assert calls.total() - sum(calls[package] for package in OF_OTHERS) <= LIMITS[what], calls


# --- What is for browsers alone --------------------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch):
    """The requests that the API's views were asked with."""
    from rest_framework.views import APIView

    requests = []
    initial = APIView.initial

    def remember(self, request, *args, **kwargs):
        requests.append(request._request)
        initial(self, request, *args, **kwargs)

    monkeypatch.setattr(APIView, "initial", remember)
    return requests


def test_a_program_s_request_has_neither_session_nor_messages(seen):
    token = make_token(make_user("viewer"))
    assert Api(None, headers={"Authorization": f"Bearer {token.text}"})("GET", "/task/").status_code == 200
    assert Api(None)("GET", "/task/").status_code == 401
    assert Api(None)("GET", "/health").status_code == 200
    assert [hasattr(request, name) for request in seen for name in ("session", "_messages")] == [False] * 6


def test_one_with_a_session_s_cookie_has(seen):
    assert Api("viewer")("GET", "/task/").status_code == 200
    assert seen[0].session.session_key
    assert seen[0].user.get_username()


def test_answers_say_what_they_depend_on():
    for api, status in ((Api(None), 401), (Api("viewer"), 200)):
        answer = api("GET", "/task/")
        assert answer.status_code == status
        assert {part.strip().lower() for part in answer.headers["Vary"].split(",")} == {"cookie", "origin"}
