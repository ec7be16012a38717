import pytest
from django.http import HttpResponse
from django.test import RequestFactory

from fmv.http.middleware import Cors
from tasks.models import Task
from tests.support.api import Api
from tests.support.factories import make_robot

FRONT_END = "https://fleet.example.org"
PREFLIGHT = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


@pytest.fixture(autouse=True)
def allowed(settings):
    settings.CORS_ALLOWED_ORIGINS = [FRONT_END]


def call(method, path, origin=FRONT_END, **headers):
    return Api(None)(method, path, headers={"Origin": origin} | headers)


def test_the_front_end_may_ask_and_read():
    answer = call("GET", "/health")
    assert answer.headers["Access-Control-Allow-Origin"] == FRONT_END
    assert "origin" in answer.headers["Vary"].lower()
    assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers  # it sends no cookie


def test_a_preflight_allows_json_and_every_method():
    answer = call("OPTIONS", "/robot/", **PREFLIGHT)
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == FRONT_END
    assert "content-type" in answer.headers["Access-Control-Allow-Headers"]
    for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
        assert method in answer.headers["Access-Control-Allow-Methods"]


def test_errors_can_be_read_too():
    for method, path, status in [
        ("GET", "/robot/", 401),
        ("GET", "/nope", 404),
        ("PUT", "/health", 405),
        ("POST", "/auth/login", 401),
    ]:
        answer = call(method, path)
        assert answer.status_code == status
        assert answer.headers["Access-Control-Allow-Origin"] == FRONT_END, path
    assert call("GET", "/health", **{"Transfer-Encoding": "chunked"}).headers["Access-Control-Allow-Origin"]
    assert call("POST", "/robot/", **{"Content-Length": "9999999"}).headers["Access-Control-Allow-Origin"]


@pytest.mark.django_db
def test_so_can_those_about_the_input():
    answer = Api("manager")("POST", "/robot/", {}, headers={"Origin": FRONT_END})
    assert answer.status_code == 422
    assert answer.headers["Access-Control-Allow-Origin"] == FRONT_END


@pytest.mark.parametrize(
    "origin",
    [
        *("https://evil.example", "null", "http://fleet.example.org", "http://localhost:5173", "http://[::1", ""),
        *(FRONT_END + ":444", FRONT_END + ".evil.example", "https://evil-fleet.example.org", "x" * 5000),
    ],
)
def test_no_other_page_may(origin):
    for answer in (call("GET", "/health", origin), call("OPTIONS", "/robot/", origin, **PREFLIGHT)):
        assert answer.status_code in (200, 401)
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_admin_is_for_no_other_page(client):
    answer = client.get("/livez", headers={"Origin": FRONT_END})
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.django_db
def test_a_page_of_a_foreign_origin_cannot_use_what_anonymous_callers_may(settings):
    settings.ENVIRONMENT.anonymous = "manager"
    make_robot(name="R2")
    for origin in ("https://evil.example", "null", "http://["):
        answer = Api(None)("POST", "/robot/R2/run", HTTP_ORIGIN=origin)
        assert answer.status_code == 401, origin
    assert not Task.objects.exists()
    assert Api(None)("GET", "/robot/", HTTP_ORIGIN="https://evil.example").status_code == 200
    assert Api(None)("POST", "/robot/R2/run", HTTP_ORIGIN="http://testserver").status_code == 200


@pytest.mark.django_db
def test_a_page_of_an_allowed_origin_can(settings):
    settings.ENVIRONMENT.anonymous = "manager"
    settings.CORS_ALLOWED_ORIGINS = ["https://fleet.example"]
    make_robot(name="R2")
    assert Api(None)("POST", "/robot/R2/run", HTTP_ORIGIN="https://fleet.example").status_code == 200


def test_what_else_an_answer_varies_by_is_kept():
    answer = Cors(lambda request: HttpResponse(headers={"Vary": "Accept-Language"}))(
        RequestFactory().get("/api/v1/robot")
    )
    assert {part.strip().lower() for part in answer["Vary"].split(",")} == {"accept-language", "cookie", "origin"}
