"""Query parameters on every route of the API: a misspelt one is refused, because scripts act on what comes back."""

import datetime as dt

import pytest
from drf_spectacular.generators import SchemaGenerator

from fmv.errors import did_you_mean
from tests.support.api import Api, assert_refused, problems, stored
from tests.support.factories import make_robot, make_task, make_token

pytestmark = pytest.mark.django_db

OPERATIONS = [
    (
        method.upper(),
        path,
        {each["name"]: each["schema"] for each in found.get("parameters", []) if each["in"] == "query"},
    )
    for path, item in SchemaGenerator().get_schema(public=True)["paths"].items()
    for method, found in item.items()
]
VALUES = {
    "limit": "5",
    "is_great": "true",
    "enabled": "true",
    "online": "true",
    "state": "true",
    "status": "QUEUED",
    "created_after": "2026-01-01T00:00:00Z",
    "created_before": "2026-01-01T00:00:00Z",
    "by": "robot",
    "span": "day",
    "until": "2026-01-01T00:00:00Z",
    "from": f"{dt.datetime.now(dt.UTC) - dt.timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}",
    "to": "2026-01-01T00:00:00Z",
}


def url(path: str, query: str, task: object) -> str:
    name = "wait" if path.startswith("/handler") else "R2"
    return f"{path.format(name=name, task_id=task)}?{query}"


@pytest.fixture
def api(settings):
    settings.ENVIRONMENT.anonymous = "manager"
    return Api(None)


@pytest.mark.parametrize(("method", "path", "known"), OPERATIONS)
def test_an_unknown_parameter_is_refused_on_every_route(api, method, path, known):
    task = make_task(robot=make_robot(name="R2"), status="FAILURE")
    caller = Api(make_token(robot="R2")) if path.startswith("/agent/") else api
    before = stored()
    for query in ("zzz=1", "zzz", "limit[]=1", "%00=1", "zzz=1&zzz=2"):
        answer = caller(method, url(path, query, task.pk))
        assert_refused(answer, 422)
        assert len(problems(answer)) == 1
        assert answer.json()["detail"][0]["type"] == "extra_forbidden"
    assert stored() == before


@pytest.mark.parametrize(("method", "path", "known"), [each for each in OPERATIONS if each[2]])
def test_every_parameter_of_the_document_is_known_and_heard_twice_only_if_it_is_a_list(api, method, path, known):
    task = make_task(robot=make_robot(name="R2"), status="FAILURE")
    method = "HEAD" if path.endswith("events") else method  # a stream would not end
    for name, schema in known.items():
        value = "" if name == "last_event_id" else VALUES.get(name, "x")
        once, twice = (api(method, url(path, "&".join([f"{name}={value}"] * n), task.pk)) for n in (1, 2))
        assert once.status_code in ((422,) if name == "cursor" else (200, 204)), name
        assert name != "cursor" or problems(once) == ["query.cursor"]
        assert (twice.status_code == 422) == (schema["type"] != "array"), name


@pytest.mark.parametrize(("method", "path", "known"), [each for each in OPERATIONS if each[2]])
def test_an_empty_text_is_refused_where_the_document_wants_a_character(api, method, path, known):
    task = make_task(robot=make_robot(name="R2"), status="FAILURE")
    method = "HEAD" if path.endswith("events") else method  # a stream would not end
    for name, schema in known.items():
        if schema["type"] == "string" and "format" not in schema:
            answer = api(method, url(path, f"{name}=", task.pk))
            assert (answer.status_code == 422) == (schema.get("minLength") == 1), name


def test_the_nearest_name_is_suggested(api):
    make_task(robot=make_robot(name="Bender"), status="SUCCESS")
    for query, hint in {
        "/task/?state=FAILURE": "Did you mean status?",
        "/task/?statuss=FAILURE": "Did you mean status?",
        "/task/?Robot=Bender": "Did you mean robot?",
        "/robot/?enable=false": "Did you mean enabled?",
        "/robot/?lim=5": "Did you mean limit?",
        "/events?robots=Nobody": "Did you mean robot?",
        "/robot/?zzz=1": "Known are location, is_great, enabled, label, q, online, state, limit, cursor.",
        "/stats?zzz=1": "This route takes none.",
    }.items():
        answer = api("GET", query)
        assert_refused(answer, 422)
        assert answer.json()["detail"][0]["msg"] == f"Unknown parameter. {hint}"


def test_what_is_given_twice_is_heard_twice_or_refused(api):
    tasks = [
        make_task(robot=make_robot(name=name), status=status) for name, status in (("R2", "QUEUED"), ("C3", "RETRY"))
    ]
    both = api("GET", "/task/?status=QUEUED&status=RETRY").json()["tasks"]
    assert {task["task_id"] for task in both} == {str(task.pk) for task in tasks}
    answer = api("GET", "/task/?robot=R2&robot=C3")
    assert_refused(answer, 422)
    assert answer.json()["detail"] == [{"loc": ["query", "robot"], "msg": "Can be given only once", "type": "repeated"}]
    assert problems(api("GET", "/task/?limit=1&limit=2&cursor=&cursor=")) == ["query.limit", "query.cursor"]


def test_who_may_not_read_learns_nothing_of_parameters():
    assert Api(None)("GET", "/task/?zzz=1").status_code == 401
    assert Api("viewer")("POST", "/robot/?zzz=1").status_code == 403
    assert Api("viewer")("DELETE", "/task/?zzz=1").status_code == 405


def test_a_name_like_no_other_is_not_guessed():
    assert did_you_mean("FMV_RETENTION_DAY", ["FMV_RETENTION_DAYS", "FMV_HOST"]) == " Did you mean FMV_RETENTION_DAYS?"
    assert did_you_mean("zzz", ["status"]) == did_you_mean("x" * 100_000, ["status"]) == did_you_mean("a", []) == ""
