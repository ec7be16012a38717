"""What schemathesis needs to be told of this API, beside its document."""

import os
import uuid
from itertools import count
from typing import Any

import requests
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
    ("from", "year"): "the years of a time",
    ("to", "year"): "the years of a time",
    ("to", "span"): "that one time comes after another, and how long",
    ("name", "name"): "every character that nobody sees",
    ("name", "immutable"): "that the body's name is the path's",
    ("endpoint", "url"): "what is a host",
}
#: Read as generously as v1 did ("yes", 1); the document names the form to send.
BOOLEANS = {"is_great", "enabled", "queue_anyway"}

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
    """Let most of an agent's calls name an open session, and a task that the robot holds: nobody guesses these.

    A claim waits a second at most.
    """
    body, positive = case.body, case.meta is not None and case.meta.generation.mode.is_positive
    if not case.operation.path.startswith("/agent/") or not isinstance(body, dict) or not positive:
        return
    if "session" in body and "FMV_TEST_AGENT" in os.environ and next(_calls) % 5:
        opened = _post(case, "session", boot_id="fuzz", handlers=["drive"])
        body["session"] = opened["session"]
        if "task_id" in case.path_parameters:
            claim = {"session": opened["session"], "claim_id": str(uuid.uuid4())}
            if held := [*opened["tasks"], _post(case, "claim", **claim)][0]:
                case.path_parameters["task_id"] = held["task"]["task_id"]
                body["attempt"] = held["attempt"]
            if "first" in body:
                body["first"] = 0  # the lines that the log has are dropped
    if "wait" in body:
        body["wait"] = min(body["wait"], 1)


def _post(case: Case, route: str, **body: Any) -> Any:
    """Return the answer to an agent's request, which takes part in no check; None if it is empty."""
    headers = {"Authorization": f"Bearer {os.environ['FMV_TEST_AGENT']}"}
    address = f"{case.operation.schema.get_base_url()}/agent/{route}"
    answer = requests.post(address, json=body, headers=headers, timeout=10)
    return answer.json() if answer.content else None


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
