"""Who may do what: every role on every route."""

import uuid

import pytest
from django.urls import URLResolver, get_resolver

from fmv.accounts.permissions import NOT_FOR_AGENTS, Role
from fmv.accounts.sessions import Session
from robots.models import Robot
from tasks.models import Task
from tests.support.api import Api, stored
from tests.support.factories import PASSWORD, make_robot, make_task, make_token, make_user
from tests.support.probes import PAST

pytestmark = pytest.mark.django_db

ROBOT = {"name": "R2", "location": "Tatooine", "description": "beep"}

#: route: the least role that may, "open" for everybody
ROUTES = {
    ("GET", "/health"): "open",
    ("GET", "/openapi.json"): "open",
    ("POST", "/auth/logout"): "open",
    ("GET", "/robot/"): "viewer",
    ("GET", "/robot/{robot}"): "viewer",
    ("GET", "/task/"): "viewer",
    ("GET", "/task/{task}"): "viewer",
    ("GET", "/task/{task}/log"): "viewer",
    ("GET", "/task/{task}/waiting"): "viewer",
    ("GET", "/handler/"): "viewer",
    ("GET", "/handler/primes"): "viewer",
    ("GET", "/stats"): "viewer",
    ("GET", "/attention"): "viewer",
    ("GET", "/compare"): "viewer",
    ("GET", "/robot/{robot}/timeline"): "viewer",
    ("HEAD", "/events"): "viewer",  # as GET, whose stream would not end
    ("HEAD", "/task/{task}/events"): "viewer",
    ("POST", "/robot/{robot}/run"): "operator",
    ("POST", "/robot/{robot}/hold"): "operator",
    ("POST", "/robot/{robot}/release"): "operator",
    ("POST", "/task/{task}/cancel"): "operator",
    ("POST", "/task/{over}/retry"): "operator",
    ("POST", "/task/{silent}/end"): "operator",
    ("POST", "/task/{blocking}/free"): "operator",
    ("POST", "/task/{task}/priority"): "operator",
    ("POST", "/task/{task}/move"): "operator",
    ("POST", "/task/batch"): "operator",
    ("PATCH", "/robot/{robot}"): "operator",
    ("POST", "/robot/"): "manager",
    ("PUT", "/robot/{robot}"): "manager",
    ("DELETE", "/robot/{idle}"): "manager",
}


def calls(robot=None):
    """Yield each route with things that exist, anew for each caller: those of a new robot, or of this one."""
    for (method, path), least in ROUTES.items():
        robot, idle = robot or make_robot(), make_robot()
        task, over = make_task(robot=robot), make_task(robot=robot, status="FAILURE")
        silent = make_task(robot=make_robot(), status="STARTED", attempt=1, out_of_contact_since=PAST)
        blocking = make_task(robot=make_robot(), status="REVOKED", lane="a lane")
        ids = {"task": task.pk, "over": over.pk, "silent": silent.pk, "blocking": blocking.pk}
        url = path.format(robot=robot.name, idle=idle.name, **ids).replace(" ", "%20")
        body = {
            ("POST", "/robot/"): ROBOT | {"name": uuid.uuid4().hex},
            ("PUT", "/robot/{robot}"): {"location": "x", "description": "y"},
            ("PATCH", "/robot/{robot}"): {"enabled": False},
            ("POST", "/task/{task}/priority"): {"priority": 9},
            ("POST", "/task/{task}/move"): {"robot": idle.name},
            ("POST", "/task/batch"): {"runs": [{"robot": robot.name}]},
        }.get((method, path), b"")
        yield method, url, least, body


def test_the_routes_above_are_all_there_are():
    def names(resolver):
        for pattern in resolver.url_patterns:
            if isinstance(pattern, URLResolver):
                yield from names(pattern)
            elif pattern.name:
                yield pattern.name

    parts = [part for part in get_resolver().url_patterns if str(part.pattern).startswith("api/v1/")]
    wanted = (
        "health login logout openapi openapi_3_0 docs stats robots robot run batch tasks task cancel retry end free log"
    )
    wanted += " handlers handler events task_events waiting attention compare timeline hold release priority move"
    wanted += " agent_session agent_claim agent_renew agent_log agent_finish agent_release agent_state"
    assert sorted(name for part in parts for name in names(part)) == sorted(wanted.split(" "))


@pytest.mark.parametrize("role", list(Role))
def test_a_user_may_do_what_the_role_includes_and_nothing_else(role):
    api = Api(make_user(role, password=None))
    for method, path, least, body in calls():
        if "logout" in path:
            continue
        before = stored()
        answer = api(method, path, body)
        if least == "open" or role.includes(Role(least)):
            assert answer.status_code < 300, (method, path, answer.content)
        else:
            assert answer.status_code == 403, (method, path)
            assert method == "HEAD" or list(answer.json()) == ["detail"]
            assert stored() == before


def test_a_superuser_may_do_everything():
    api = Api(make_user(Role.NONE, is_superuser=True, password=None))
    for method, path, _, body in calls():
        if "logout" not in path:
            assert api(method, path, body).status_code < 300, (method, path)


@pytest.mark.parametrize("anonymous", ["none", "viewer", "operator", "manager"])
def test_a_caller_who_has_not_signed_in_may_do_what_the_setting_says(settings, anonymous):
    settings.ENVIRONMENT.anonymous = anonymous
    role = Role.NONE if anonymous == "none" else Role(anonymous)
    api = Api(None)
    for method, path, least, body in calls():
        before = stored()
        answer = api(method, path, body)
        if least == "open" or role.includes(Role(least)):
            assert answer.status_code < 300, (method, path, answer.content)
        else:
            assert answer.status_code == 401, (method, path)
            assert method == "HEAD" or answer.content == b'{"detail":"Not authenticated"}'
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert stored() == before


@pytest.mark.parametrize("anonymous", ["none", "manager"])
@pytest.mark.parametrize("whose", ["its own", "another"])
def test_an_agent_may_call_no_route_of_people_not_even_for_its_own_robot(settings, anonymous, whose):
    settings.ENVIRONMENT.anonymous = anonymous
    own = make_robot()
    api = Api(make_token(robot=own.name))
    for method, path, least, body in calls(own if whose == "its own" else None):
        before = stored()
        answer = api(method, path, body)
        if least == "open":
            assert answer.status_code < 300, (method, path, answer.content)
            continue
        assert answer.status_code == 403, (method, path)
        assert method == "HEAD" or answer.json() == {"detail": NOT_FOR_AGENTS}
        assert stored() == before
        assert api("OPTIONS", path).status_code == 403
        assert not answer.cookies


def test_an_agent_may_not_call_what_a_route_does_not_offer_either():
    api = Api(make_token(robot="R2"))
    for method, path in [("DELETE", "/robot/"), ("POST", "/stats"), ("PUT", "/task/"), ("DELETE", "/events")]:
        assert api(method, path).status_code == 403
    assert api("GET", "/nothing").status_code == 404


def test_an_agent_opens_no_session():
    answer = Api(make_token(robot="R2"))("POST", "/auth/login")
    assert answer.status_code == 401
    assert not Session.objects.exists()


@pytest.mark.parametrize("anonymous", ["none", "manager"])
def test_an_agent_reads_no_metrics_and_sees_no_page_of_the_admin(settings, anonymous):
    settings.ENVIRONMENT.anonymous = anonymous
    task = make_task(robot=make_robot(name="R2"))
    client = Api(make_token(robot="R2")).client
    assert client.get("/metrics").status_code == 403
    before = stored()
    for page in ["", "robots/robot/", "robots/robot/R2/change/", "robots/robot/R2/live/", "robots/robot/R2/run/"]:
        for answer in (client.get(f"/admin/{page}"), client.post(f"/admin/{page}", {"handler": "noop"})):
            assert (answer.status_code, answer.url.partition("?")[0]) == (302, "/admin/login/"), page
    assert client.post("/admin/tasks/task/act/", {"action": "cancel", "task": str(task.pk)}).status_code == 302
    assert stored() == before


@pytest.mark.parametrize(("who", "status"), [("operator", 403), (None, 401)])
def test_an_operator_takes_a_robot_out_of_service_and_changes_nothing_else(settings, who, status):
    settings.ENVIRONMENT.anonymous = "operator"
    make_robot(name="R2", location="Naboo")
    answer = Api(who)("PATCH", "/robot/R2", {"enabled": False, "location": "Tatooine"})
    assert answer.status_code == status
    assert Robot.objects.filter(pk="R2", location="Naboo", enabled=True).exists()


def test_who_may_not_is_told_so_before_the_input_is_read():
    for body in (b"{", b"[" * 200, b"\xff"):
        assert Api(None)("POST", "/robot/", body).status_code == 401
        assert Api("viewer")("POST", "/robot/", body, content_type="text/plain").status_code == 403
    assert Api(None)("GET", "/task/?limit=-1").status_code == 401
    assert Api(None)("GET", "/robot/Nobody").status_code == 401


def test_options_say_nothing_to_strangers():
    for path in {route for _, route in ROUTES if "{" not in route} - {"/health", "/openapi.json", "/auth/logout"}:
        assert Api(None)("OPTIONS", path).status_code == 401, path
        answer = Api("viewer")("OPTIONS", path)
        assert answer.status_code == 200
        assert "OPTIONS" in answer.headers["Allow"]


def test_a_setting_of_manager_does_not_lift_a_signed_in_user(settings):
    settings.ENVIRONMENT.anonymous = "manager"
    assert Api("viewer")("POST", "/robot/", ROBOT).status_code == 403


def test_a_user_who_was_switched_off_is_a_stranger():
    user = make_user("manager", password=None)
    api = Api(user)
    type(user).objects.filter(pk=user.pk).update(is_active=False)
    assert api("GET", "/robot/").status_code == 401


def test_a_role_counts_from_the_moment_it_changes():
    user = make_user("manager", password=None)
    api = Api(user)
    type(user).objects.filter(pk=user.pk).update(role=Role.VIEWER)
    assert api("POST", "/robot/", ROBOT).status_code == 403


def test_a_new_password_ends_the_sessions_of_the_old_one():
    user = make_user("viewer")
    api = Api(user)
    user.set_password("another long password")
    user.save()
    assert api("GET", "/robot/").status_code == 401


def test_a_forged_or_foreign_session_is_a_stranger():
    for key in ("x", "x" * 5000, "\0", "$ne", "../x"):
        answer = Api(None)("GET", "/robot/", headers={"Cookie": f"sessionid={key}"})
        assert answer.status_code == 401, key


def test_a_session_changes_nothing_without_its_csrf_token():
    api = Api("manager", enforce_csrf_checks=True)
    assert api("GET", "/robot/").status_code == 200
    before = stored()
    for headers in ({}, {"X-CSRFToken": "x" * 64}, {"X-CSRFToken": "\xff"}, {"X-CSRFToken": "y" * 5000}):
        answer = api("POST", "/robot/", ROBOT, headers=headers)
        assert answer.status_code == 403
        assert answer.json()["detail"].startswith("CSRF Failed")
    assert stored() == before


def test_signing_in_at_the_admin_opens_the_api(settings):
    settings.STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    user = make_user("manager", username="Leela")
    api = Api(None, enforce_csrf_checks=True)
    api.client.get("/admin/login/")
    token = api.client.cookies["csrftoken"].value
    form = {"username": "Leela", "password": PASSWORD, "csrfmiddlewaretoken": token}
    assert api.client.post("/admin/login/", form).status_code == 302
    token = api.client.cookies["csrftoken"].value
    answer = api("POST", "/robot/", ROBOT, headers={"X-CSRFToken": token})
    assert answer.status_code == 201, answer.content
    assert api("POST", "/robot/R2/run", headers={"X-CSRFToken": token}).json()["requested_by"] == user.username
    assert api("POST", "/robot/", ROBOT).status_code == 403


def test_the_api_leaves_no_sessions_behind(settings):
    settings.ENVIRONMENT.anonymous = "manager"
    api = Api(None)
    for method, path, _, body in calls():
        assert not api(method, path, body).cookies
    assert not Session.objects.exists()
    assert Robot.objects.exists()
    assert Task.objects.exists()
