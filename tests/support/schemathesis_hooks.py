"""What schemathesis needs to be told of this API, beside its document."""

from itertools import count
from typing import Any

import schemathesis
from schemathesis import Case, HookContext
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.transport import Response
from schemathesis.openapi.checks import RejectedPositiveData

#: Refusals of input that the document allows, by their `type`; a schema could say them only in each string and number.
EVERYWHERE = {"number_too_large", "too_deep", "null_characters_not_allowed", "overflow"}  # the last: before the year 1
#: Others, by the end of their `loc` and their `type`; no JSON Schema can say them.
UNSPEAKABLE = {
    ("robot", "unknown_robot"): "whether a robot exists",
    ("robot", "out_of_service"): "whether a robot of a batch is in service",
    ("handler", "enum"): "which handlers there are: an enum would break generated clients with each new one",
    ("Idempotency-Key", "reused"): "whether the key was used before",
    ("cursor", "value_error"): "that a cursor comes from this list",
    ("last_event_id", "value_error"): "that an id comes from this stream",
    ("Last-Event-ID", "value_error"): "that an id comes from this stream",
    ("expires_at", "value_error"): "that one time comes after another",
    ("name", "name"): "every character that nobody sees",
    ("name", "immutable"): "that the body's name is the path's",
    ("endpoint", "url"): "what is a host",
}
#: Read as generously as v1 did ("yes", 1); the document names the form to send.
BOOLEANS = {"is_great", "enabled", "queue_anyway"}

#: the session, task and attempt that the agent was answered last
_held: dict[str, Any] = {}
_calls = count()


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Keep every failure but what no schema could have told."""
    if isinstance(failure, RejectedPositiveData) and response.status_code in (400, 422):
        return not _is_unspeakable(response.json()["detail"])
    if isinstance(failure, AcceptedNegativeData) and isinstance(case.body, dict):
        return all(isinstance(case.body.get(name, True), bool) for name in BOOLEANS)
    return True


def _is_unspeakable(detail: str | list[dict[str, Any]]) -> bool:
    if isinstance(detail, str):
        return detail == "Not possible"  # only Bender is great
    return all(_depends(problem["loc"], problem["type"]) for problem in detail)


def _depends(loc: list[str | int], kind: str) -> bool:
    if "params" in loc or kind in EVERYWHERE:  # what params may be depends on the handler that the body names
        return True
    return ([part for part in loc if isinstance(part, str)][-1], kind) in UNSPEAKABLE


@schemathesis.hook
def before_call(context: HookContext, case: Case, kwargs: dict[str, Any]) -> None:
    """Let most of an agent's calls name what answers gave it: nobody guesses a session, or a task that the robot holds.

    A claim waits a second at most, and a goodbye keeps its invented session, or most sessions would end at once.
    """
    if not _is_of_agents(case) or not isinstance(case.body, dict) or case.meta is None:
        return
    if case.meta.generation.mode.is_positive and case.method != "DELETE" and next(_calls) % 5:
        case.body.update({name: value for name, value in _held.items() if name in case.body})
        if "task_id" in case.path_parameters and "task_id" in _held:
            case.path_parameters["task_id"] = _held["task_id"]
    wait = case.body.get("wait")
    if isinstance(wait, int | float) and 1 <= wait <= 25:
        case.body["wait"] = 1


@schemathesis.hook
def after_call(context: HookContext, case: Case, response: Response) -> None:
    if _is_of_agents(case) and response.status_code == 200:
        answer = response.json()
        if case.operation.path == "/agent/session":
            _held["session"] = answer["session"]
        if case.operation.path == "/agent/claim":
            _held.update(attempt=answer["attempt"], task_id=answer["task"]["task_id"])


def _is_of_agents(case: Case) -> bool:
    return str(case.operation.path).startswith("/agent/")


@schemathesis.hook
def before_load_schema(context: HookContext, raw_schema: dict[str, Any]) -> None:
    """Say what each event of a stream looks like: only OpenAPI 3.2 has a place for that."""
    task = _event("task", {"$ref": "#/components/schemas/RobotTask"})
    gap = _event("gap", {"type": "object", "required": ["before"]})
    for path in raw_schema["paths"].values():
        for operation in path.values():
            content = operation["responses"].get("200", {}).get("content", {})
            if "text/event-stream" in content:
                content["text/event-stream"] = {"itemSchema": {"oneOf": [task, gap]}}


def _event(kind: str, schema: dict[str, Any]) -> dict[str, Any]:
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": schema}
    properties = {"event": {"const": kind}, "data": data, "id": {"type": "string"}}
    return {"type": "object", "required": [*properties], "properties": properties}
