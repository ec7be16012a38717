"""The OpenAPI document: complete, compatible with the first backend's clients, and true."""

import json
import re
from typing import Any

import jsonschema
import openapi_spec_validator
import pytest
from drf_spectacular.generators import SchemaGenerator

from fmv.http.fields import read_body
from fmv.http.json import Renderer
from fmv.http.openapi_hooks import as_openapi_3_0, schemas
from robots import agents
from robots.models import Robot
from robots.state_serializers import STATE_EXAMPLE, StateInputSerializer
from tests.support.api import Api
from tests.support.factories import make_robot, make_task
from tests.support.probes import PAST

pytestmark = pytest.mark.django_db
FIRST_BACKEND = {
    ("get", "/robot/"): "list_robot__get",
    ("post", "/robot/"): "create_robot__post",
    ("get", "/robot/{name}"): "find_robot__name__get",
    ("post", "/robot/{name}/run"): "run_robot__name__run_post",
    ("post", "/auth/login"): "login_session_auth_login_post",
    ("post", "/auth/logout"): "logout_auth_logout_post",
    ("get", "/health"): "health_health_get",
}


@pytest.fixture(scope="module", params=["/openapi.json", "/openapi-3.0.json"])
def document(request, django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        answer = Api(None)("GET", request.param)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    return answer.json()


@pytest.fixture(scope="module")
def newest(django_db_setup, django_db_blocker):
    with django_db_blocker.unblock():
        answer = Api(None)("GET", "/openapi.json")
    assert answer.status_code == 200, answer.content
    return answer.json()


@pytest.fixture(scope="module")
def operations(document):
    return {(method, path): found for path, item in document["paths"].items() for method, found in item.items()}


def contents(document):
    """Yield each JSON content of a request or an answer, with where it is."""
    for path, item in document["paths"].items():
        for method, operation in item.items():
            parts = {"request": operation.get("requestBody", {})} | operation["responses"]
            for name, part in parts.items():
                for media_type, content in part.get("content", {}).items():
                    yield f"{method} {path} {name}", media_type, content


def validator(document, schema) -> Any:
    return jsonschema.Draft202012Validator(
        schema | {"components": document["components"]}, format_checker=jsonschema.FormatChecker()
    )


def test_it_is_served_as_it_is_generated():
    generated = json.loads(Renderer().render(SchemaGenerator().get_schema(public=True)))
    for path in ("/openapi.json", "/openapi.json/"):
        assert Api(None)("GET", path).json() == generated
    for path in ("/openapi-3.0.json", "/openapi-3.0.json/"):
        assert Api(None)("GET", path).json() == as_openapi_3_0(generated)


def test_there_is_one_for_tools_of_openapi_3_1_and_one_for_those_of_3_0():
    new, old = (Api(None)("GET", path).json() for path in ("/openapi.json", "/openapi-3.0.json"))
    assert (new["openapi"], new["info"].pop("license")) == ("3.1.0", {"name": "MIT", "identifier": "MIT"})
    assert (old["openapi"], old["info"].pop("license")) == (
        "3.0.3",
        {"name": "MIT", "url": "https://spdx.org/licenses/MIT.html"},
    )
    assert new["info"] == old["info"]
    assert new["info"]["version"] == "1.0.0"
    assert new["servers"] == [{"url": "/api/v1"}]
    assert new["paths"].keys() == old["paths"].keys()
    assert new["components"]["schemas"].keys() == old["components"]["schemas"].keys()


def test_it_is_valid(document):
    openapi_spec_validator.validate(document)


def test_the_first_backends_operations_keep_their_names(operations):
    assert {where: operations[where]["operationId"] for where in FIRST_BACKEND} == FIRST_BACKEND


def test_every_operation_has_a_name_of_its_own_that_a_generator_can_use(operations):
    names = [operation["operationId"] for operation in operations.values()]
    assert len(set(names)) == len(names)
    for (method, _), operation in operations.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", operation["operationId"])
        assert operation["operationId"].endswith(f"_{method}")
        assert operation["description"]
        assert 0 < len(operation["summary"]) <= 80
        assert operation["description"].startswith(operation["summary"])


def test_every_parameter_header_and_way_to_sign_in_is_explained(document, operations):
    described = [parameter for operation in operations.values() for parameter in operation.get("parameters", [])]
    described += document["components"]["headers"].values()
    described += document["components"]["securitySchemes"].values()
    assert all(each["description"] for each in described)


def test_every_answer_names_the_headers_of_its_kind(operations):
    for where, operation in operations.items():
        for status, response in operation["responses"].items():
            wanted = {"X-Request-ID"}
            wanted |= {"Retry-After"} if status in ("429", "503") else set()
            wanted |= {"WWW-Authenticate"} if status == "401" else set()
            assert wanted <= response["headers"].keys(), (where, status)


def test_every_operation_has_one_tag_that_is_explained(document, operations):
    tags = {tag["name"] for tag in document["tags"]}
    assert all(tag["description"] for tag in document["tags"])
    for where, operation in operations.items():
        assert len(operation["tags"]) == 1, where
        assert operation["tags"][0] in tags, where


def test_every_path_is_there_once(operations):
    paths = {path for _, path in operations}
    assert len({path.rstrip("/") for path in paths}) == len(paths)
    assert {"/robot/", "/task/", "/handler/", "/robot/{name}", "/task/{task_id}/cancel"} <= paths


def test_every_operation_tells_its_errors(operations):
    for (method, path), operation in operations.items():
        assert "422" in operation["responses"], (method, path)  # for an unknown query parameter
        if path.startswith(("/health", "/auth/")):
            continue
        wanted = {"401", "403", "429", "503"}
        wanted |= {"404"} if "{" in path else set()
        wanted |= {"411", "413"} if "requestBody" in operation else set()
        assert wanted <= operation["responses"].keys(), (method, path)
        assert operation["security"], (method, path)


def test_everything_has_an_example_that_its_schema_allows(newest):
    for where, _, content in contents(newest):
        assert content["examples"], where
        for example in content["examples"].values():
            validator(newest, content["schema"]).validate(example["value"])


def test_every_example_of_a_request_can_be_sent_as_it_is_for_any_robot(newest, settings):
    settings.ENVIRONMENT.anonymous = "manager"
    sent = set()
    make_robot(name="Wall-E")
    for where, _, content in contents(newest):
        method, path, part = where.split()
        if part != "request" or path.startswith("/agent/"):  # whose sessions and attempts nobody can know
            continue
        for example in content["examples"].values():
            Robot.objects.update(enabled=True, held_since=None, labels=["forklift"])
            answer = Api(None)(method.upper(), path.format(name="Wall-E", task_id=make_task().pk), example["value"])
            assert answer.status_code in (200, 201), (where, answer.content)
            sent.add((method, path))
    assert len(sent) == 9


def test_every_reference_leads_somewhere(document):
    for name in re.findall(r'"#/components/(schemas/[^"]+)"', json.dumps(document)):
        kind, _, schema = name.partition("/")
        assert schema in document["components"][kind]


def test_every_error_has_the_one_shape_of_its_status(document):
    shapes = {"422": "HTTPValidationError", "409": "Conflict"}
    for where, _, content in contents(document):
        status = where.split()[-1]
        if status.startswith(("4", "5")):
            name = "AgentConflict" if status == "409" and " /agent/" in where else shapes.get(status, "HTTPError")
            assert content["schema"] == {"$ref": f"#/components/schemas/{name}"}, where


# --- Every client generator can read it ------------------------------------------------------------------------------


def test_types_are_written_in_the_words_that_all_generators_know(document):
    for schema in schemas(document):
        assert isinstance(schema.get("type", ""), str), schema
        assert not schema.keys() & {"exclusiveMinimum", "exclusiveMaximum", "const", "examples", "example"}, schema
        if "$ref" in schema:
            assert schema.keys() == {"$ref"} or document["openapi"] == "3.1.0"


def test_patterns_have_no_escape_that_a_language_does_not_know(document):
    patterns = {schema["pattern"] for schema in schemas(document) if "pattern" in schema}
    assert len(patterns) > 3
    for pattern in patterns:
        re.compile(pattern)
        assert pattern.isascii()
        assert not re.findall(r"\\[^x.\w]|\\[upPkQEAzZ]|\(\?", pattern), pattern


def test_only_null_differs_between_3_1_and_3_0():
    new, old = (Api(None)("GET", path).json() for path in ("/openapi.json", "/openapi-3.0.json"))
    can_be_null = [schema for schema in schemas(new) if {"type": "null"} in schema.get("anyOf", [])]
    assert len(can_be_null) == len([schema for schema in schemas(old) if schema.get("nullable")]) > 20
    assert not any("nullable" in schema for schema in schemas(new))
    assert '"null"' not in json.dumps(old["components"])


def test_bodies_have_no_defaults_that_a_client_would_send_unasked(document):
    for name, schema in document["components"]["schemas"].items():
        assert "default" not in json.dumps(schema), name
    lanes = [
        document["components"]["schemas"][name]["properties"]["lanes"]
        for name in ("RobotInputRequest", "RobotReplacementRequest", "PatchedRobotChangeRequest")
    ]
    assert ["Default: `1`." in each["description"] for each in lanes] == [True, True, False]


def test_a_partial_body_requires_nothing(document):
    partial = [schema for name, schema in document["components"]["schemas"].items() if name.startswith("Patched")]
    assert len(partial) == 1
    assert all("required" not in schema for schema in partial)
    bodies = [item["patch"]["requestBody"] for item in document["paths"].values() if "patch" in item]
    for body in bodies:
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert name.startswith("Patched")


def test_a_list_in_a_partial_body_can_be_null_because_some_clients_else_send_an_empty_one(newest):
    for name, schema in newest["components"]["schemas"].items():
        if name.startswith("Patched"):
            assert all(field.get("type") not in ("array", "object") for field in schema["properties"].values())
            assert {"type": "null"} in schema["properties"]["labels"]["anyOf"]


def test_an_object_that_can_be_null_is_never_required(newest):
    for name, schema in newest["components"]["schemas"].items():
        for field in schema.get("required", []):
            options = schema["properties"][field].get("anyOf", [])
            assert not ({"type": "null"} in options and any("$ref" in each for each in options)), (name, field)


def test_the_status_of_tasks_is_one_enum(document):
    with_statuses = [schema for schema in schemas(document) if "SCHEDULED" in schema.get("enum", [])]
    assert with_statuses == [document["components"]["schemas"]["Status"]]


def test_names_are_those_of_the_first_backend_and_none_is_a_generators_own(document):
    names = document["components"]["schemas"].keys()
    first = {"Robot", "RobotCollection", "RobotProfile", "RobotTask", "HealthCheckResponse"}
    assert names >= first | {"HTTPValidationError", "ValidationError"}
    assert not names & {"Error", "Handler", "Task", "Location", "Response", "Request", "Client", "Configuration"}
    assert not any(f"New{name}" in names for name in names)  # Go's constructors


def test_a_body_of_which_one_property_must_be_given_is_required(document):
    for path in ("/task/{task_id}/move", "/task/{task_id}/priority"):
        assert document["paths"][path]["post"]["requestBody"]["required"]
    assert "required" not in document["paths"]["/task/{task_id}/cancel"]["post"]["requestBody"]


def test_a_v1_client_may_make_a_profile_itself(newest):
    profile = newest["components"]["schemas"]["RobotProfile"]
    assert set(profile["required"]) == {"name", "is_great", "location", "description", "tasks"}
    mine = {"name": "R2", "is_great": False, "location": "x", "description": "y", "tasks": None}
    validator(newest, profile).validate(mine)


def test_parameters_of_an_operation_have_different_names_in_every_language(operations):
    for where, operation in operations.items():
        names = [re.sub("[^a-z]", "", each["name"].lower()) for each in operation.get("parameters", [])]
        assert len(set(names)) == len(names), where


def test_one_scheme_covers_all_bearer_tokens(document, operations):
    schemes = document["components"]["securitySchemes"]
    assert schemes.keys() == {"bearer", "session"}
    assert all(word in schemes["bearer"]["description"] for word in ("API token", "OpenID Connect"))
    assert operations["post", "/auth/login"]["security"] == [{"bearer": []}]
    assert operations["get", "/robot/"]["security"] == [{"bearer": []}, {"session": []}]


def test_security_says_where_nobody_need_sign_in(settings):
    free = {("get", "/health"), ("post", "/auth/logout")}
    writes = {("delete", "/robot/{name}"), ("post", "/robot/"), ("put", "/robot/{name}")}
    for role in ("none", "viewer", "operator", "manager"):
        settings.ENVIRONMENT.anonymous = role
        document = Api(None)("GET", "/openapi.json").json()
        for path, item in document["paths"].items():
            for method, operation in item.items():
                security, where = operation["security"], (method, path)
                assert (security == []) == (where in free)
                reads = method == "get" and path != "/health"
                allowed = {"none": False, "viewer": reads, "operator": where not in writes, "manager": True}[role]
                if path.startswith("/agent/"):
                    assert {} not in security, where
                elif where not in free | {("post", "/auth/login")}:
                    assert ({} in security) == allowed, (role, where)


def test_the_docs_page_needs_nothing_from_elsewhere(settings):
    settings.STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    answer = Api(None)("GET", "/docs")
    assert answer.status_code == 200
    assert b"swagger-ui" in answer.content
    assert not re.findall(rb'(?:src|href)="(?:https?:)?//', answer.content)


# --- It is true ------------------------------------------------------------------------------------------------------


def test_real_answers_are_as_it_says(newest, settings):
    settings.ENVIRONMENT.anonymous = "manager"
    checked = set()
    for method, path, url, body, status in real_calls():
        answer = Api(None)(method, url, body)
        assert answer.status_code == status, (method, url, answer.content)
        operation = newest["paths"][path][method.lower()]
        described = operation["responses"][str(status)]
        if answer.content:
            schema = described["content"]["application/json"]["schema"]
            validator(newest, schema).validate(answer.json())
            _no_more_than(newest, schema, answer.json())
        if body != b"" and status < 300:
            validator(newest, operation["requestBody"]["content"]["application/json"]["schema"]).validate(body)
        checked.add((method.lower(), path))
    streams = ("/events", "/task/{task_id}/events")  # see test_events_api.py
    ours = {(method, path) for path, item in newest["paths"].items() for method in item if path not in streams}
    assert {
        where
        for where in ours
        if where[1].startswith(("/robot", "/task/{", "/handler", "/health", "/stats", "/attention", "/compare"))
    } <= checked


def report_state(robot):
    session = agents.open_session(robot, agent="fmv-agent", version="1", boot_id="b", handlers=["drive"])
    agents.report(robot, session.id, read_body(StateInputSerializer, STATE_EXAMPLE))


def real_calls():
    """Yield method, path as documented, URL, body and the status to expect."""
    robot = {
        "name": "R2",
        "location": "Tatooine",
        "description": "beep",
        "labels": ["a"],
        "endpoint": "http://r2.example",
    }
    over = {"error": {"type": "E", "message": "m", "traceback": "t"}, "result": {"any": [1, None]}, "progress": 50.0}
    bender = make_robot(name="Bender")
    report_state("Bender")
    waits, runs = make_task(robot=bender), make_task(robot=bender, status="STARTED", attempt=1, lane="Bender/0")
    done = make_task(robot=make_robot(name="C3"), status="FAILURE", labels=["x"], **over)
    done.log_lines().model.objects.create(task=done.pk, attempt=1, text="a line")
    silent = make_task(robot=make_robot(), status="STARTED", attempt=1, lane="a/0", out_of_contact_since=PAST)
    blocks = make_task(robot=make_robot(), status="REVOKED", attempt=1, lane="b/0")
    unknown = "00000000-0000-0000-0000-000000000000"
    yield "GET", "/health", "/health", b"", 200
    yield "POST", "/auth/login", "/auth/login", b"", 401
    yield "POST", "/auth/logout", "/auth/logout", b"", 200
    yield "POST", "/robot/", "/robot/", robot, 201
    yield "POST", "/robot/", "/robot/", robot, 409
    yield "POST", "/robot/", "/robot/", robot | {"is_great": True}, 400
    yield "POST", "/robot/", "/robot/", {"name": 1}, 422
    yield "GET", "/robot/", "/robot/?limit=1", b"", 200
    yield "GET", "/robot/", "/robot/?state=true", b"", 200
    yield "GET", "/robot/", "/robot/?limit=0", b"", 422
    yield "GET", "/robot/{name}", "/robot/Bender", b"", 200
    yield "GET", "/robot/{name}", "/robot/nobody", b"", 404
    yield "POST", "/robot/{name}/hold", "/robot/Bender/hold", {"why": "because"}, 200
    yield "GET", "/robot/{name}", "/robot/Bender", b"", 200
    yield "POST", "/robot/{name}/hold", "/robot/Bender/hold", b"", 409
    yield "POST", "/robot/{name}/hold", "/robot/Bender/hold", {"reason": 1}, 422
    yield "POST", "/robot/{name}/release", "/robot/Bender/release", b"", 200
    yield "POST", "/robot/{name}/release", "/robot/nobody/release", b"", 404
    mine = f"/task/{make_task(robot=bender).pk}"
    yield "POST", "/task/{task_id}/priority", f"{mine}/priority", {"priority": 9}, 200
    yield "POST", "/task/{task_id}/priority", f"{mine}/priority", {"front": True}, 200
    yield "POST", "/task/{task_id}/priority", f"{mine}/priority", {}, 422
    yield "POST", "/task/{task_id}/priority", f"/task/{done.pk}/priority", {"priority": 9}, 409
    yield "POST", "/task/{task_id}/move", f"{mine}/move", {"robot": "C3"}, 200
    yield "POST", "/task/{task_id}/move", f"{mine}/move", {"label": "nothing"}, 409
    yield "POST", "/task/{task_id}/move", f"{mine}/move", {"robot": "nobody"}, 422
    yield "PUT", "/robot/{name}", "/robot/R2", {"location": "x", "description": "y"}, 200
    yield "PUT", "/robot/{name}", "/robot/R3", {"location": "x", "description": "y"}, 201
    yield "PATCH", "/robot/{name}", "/robot/R3", {"labels": ["x"]}, 200
    yield "PATCH", "/robot/{name}", "/robot/R3", {"is_great": True}, 400
    yield "POST", "/robot/{name}/run", "/robot/R3/run", {}, 200
    yield "POST", "/robot/{name}/run", "/robot/R2/run", {"run_at": "2100-01-01T00:00:00Z", "timeout": None}, 200
    yield "POST", "/robot/{name}/run", "/robot/R2/run", {"handler": "nope"}, 422
    yield "POST", "/robot/{name}/run", "/robot/nobody/run", {}, 404
    yield "DELETE", "/robot/{name}", "/robot/Bender", b"", 409
    yield "GET", "/task/", "/task/?limit=2", b"", 200
    yield "GET", "/task/{task_id}", f"/task/{done.pk}", b"", 200
    yield "GET", "/task/{task_id}", f"/task/{unknown}", b"", 404
    yield "GET", "/task/{task_id}/log", f"/task/{done.pk}/log", b"", 200
    yield "GET", "/task/{task_id}/waiting", f"/task/{waits.pk}/waiting", b"", 200
    yield "GET", "/task/{task_id}/waiting", f"/task/{done.pk}/waiting", b"", 200
    yield "GET", "/attention", "/attention", b"", 200
    yield "POST", "/task/{task_id}/cancel", f"/task/{waits.pk}/cancel", b"", 200
    yield "POST", "/task/{task_id}/cancel", f"/task/{runs.pk}/cancel", b"", 202
    yield "POST", "/task/{task_id}/cancel", f"/task/{done.pk}/cancel", b"", 409
    yield "POST", "/task/{task_id}/retry", f"/task/{done.pk}/retry", b"", 200
    yield "POST", "/task/{task_id}/retry", f"/task/{runs.pk}/retry", b"", 409
    yield "POST", "/task/{task_id}/end", f"/task/{silent.pk}/end", b"", 200
    yield "POST", "/task/{task_id}/end", f"/task/{runs.pk}/end", b"", 409
    yield "POST", "/task/{task_id}/free", f"/task/{blocks.pk}/free", b"", 200
    yield "POST", "/task/{task_id}/free", f"/task/{done.pk}/free", b"", 409
    yield "GET", "/handler/", "/handler/", b"", 200
    yield "GET", "/handler/{name}", "/handler/http", b"", 200
    yield "GET", "/handler/{name}", "/handler/nope", b"", 404
    yield "GET", "/stats", "/stats", b"", 200
    yield (
        "GET",
        "/robot/{name}/timeline",
        "/robot/Bender/timeline?from=2020-01-01T00:00:00Z&to=2020-01-02T00:00:00Z",
        b"",
        200,
    )
    yield "GET", "/robot/{name}/timeline", "/robot/nobody/timeline", b"", 404
    yield "GET", "/compare", "/compare?by=robot&span=day", b"", 200
    make_robot(name="Idle")
    yield "DELETE", "/robot/{name}", "/robot/Idle", b"", 204


def _no_more_than(document, schema, value):
    """Fail when an object of a described type has keys that the document does not name, or another order of them."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    for option in schema.get("oneOf", []) + schema.get("anyOf", []):
        if value is not None and "$ref" in option:
            _no_more_than(document, option, value)
    if isinstance(value, list):
        for item in value:
            _no_more_than(document, schema.get("items", {}), item)
    elif isinstance(value, dict) and "properties" in schema:
        names = [name for name in schema["properties"] if name in value or name != "state"]  # only if it is asked for
        assert list(value) == names
        for key, part in value.items():
            _no_more_than(document, schema["properties"][key], part)
