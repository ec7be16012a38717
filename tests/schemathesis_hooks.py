"""What schemathesis needs to be told of this API, beside its document."""

from typing import Any

import schemathesis
from schemathesis import Case, HookContext
from schemathesis.core.failures import Failure
from schemathesis.core.transport import Response
from schemathesis.openapi.checks import RejectedPositiveData

#: Refusals of input that the document allows, by their `type`; a schema could say them only in each string and number.
EVERYWHERE = {"number_too_large", "too_deep", "null_characters_not_allowed"}
#: Others, by the end of their `loc` and their `type`; no JSON Schema can say them.
UNSPEAKABLE = {
    ("robot", "unknown_robot"): "whether a robot exists",
    ("handler", "enum"): "which handlers there are: an enum would break generated clients with each new one",
    ("Idempotency-Key", "reused"): "whether the key was used before",
    ("cursor", "value_error"): "that a cursor comes from this list",
    ("last_event_id", "value_error"): "that an id comes from this stream",
    ("Last-Event-ID", "value_error"): "that an id comes from this stream",
    ("expires_at", "value_error"): "that one time comes after another",
    ("name", "immutable"): "that the body's name is the path's",
}


@schemathesis.hook
def filter_failure(context: HookContext, failure: Failure, case: Case, response: Response) -> bool:
    """Keep every failure but the refusal of what no schema could have told."""
    if not isinstance(failure, RejectedPositiveData) or response.status_code != 422:
        return True
    return not all(_is_unspeakable(problem) for problem in response.json()["detail"])


def _is_unspeakable(problem: dict[str, Any]) -> bool:
    loc = [part for part in problem["loc"] if isinstance(part, str)]
    # What params may be depends on the handler that the body names.
    return "params" in loc or problem["type"] in EVERYWHERE or (loc[-1], problem["type"]) in UNSPEAKABLE


@schemathesis.hook
def before_load_schema(context: HookContext, raw_schema: dict[str, Any]) -> None:
    """Say what each event of a stream looks like: only OpenAPI 3.2 has a place for that."""
    task = _event("task", {"$ref": "#/components/schemas/Task"})
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
