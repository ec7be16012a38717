"""The OpenAPI document as a whole: what drf-spectacular generates, in the words that client generators understand.

Generators differ in what they read of JSON Schema, so the document keeps to what all of them do: see
tests/http/test_openapi.py for the rules.
"""

import copy
import json
from collections.abc import Iterator
from typing import Any

JSON = dict[str, Any]
Endpoint = tuple[str, str, str, Any]

#: headers of answers, with the statuses that have them ("" is every one)
HEADERS = {
    "X-Request-ID": ("", "The id of the request in FMV's log: the client's own, if it sent a valid one."),
    "WWW-Authenticate": ("401", "The authentication scheme: `Bearer`."),
    "Retry-After": ("429 503", "Seconds to wait before trying again."),
}
NULL = {"type": "null"}
ABOUT = ("description", "readOnly")  # what a schema says about a value of any type


def only_canonical_paths(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Keep, of the two routes that `both` returns, the one it was given: it comes first."""
    kept: dict[tuple[str, str], Endpoint] = {}
    for endpoint in endpoints:
        kept.setdefault((endpoint[0].rstrip("/"), endpoint[2]), endpoint)
    return list(kept.values())


def operations(document: JSON) -> Iterator[JSON]:
    return (operation for item in document["paths"].values() for operation in item.values())


def add_headers(result: JSON, **_: Any) -> JSON:
    """Add the headers that FMV sends to the answers of all operations."""
    result["components"]["headers"] = {
        name: {"description": description, "required": True, "schema": {"type": "string"}}
        for name, (_, description) in HEADERS.items()
    }
    for operation in operations(result):
        for status, response in operation["responses"].items():
            names = [name for name, (statuses, _) in HEADERS.items() if not statuses or status in statuses.split()]
            headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
            response.setdefault("headers", {}).update(headers)
    return result


def require_bodies(result: JSON, **_: Any) -> JSON:
    """Say of a body that must have properties, none of which is required by itself, that it is required."""
    components = result["components"]["schemas"]
    for operation in operations(result):
        for content in operation.get("requestBody", {}).get("content", {}).values():
            if components.get(content["schema"].get("$ref", "").rpartition("/")[2], {}).get("minProperties"):
                operation["requestBody"]["required"] = True
    return result


def one_bearer(result: JSON, **_: Any) -> JSON:
    """Make one scheme of those that are a bearer token: of two, some generated clients send the header twice."""
    schemes = result["components"]["securitySchemes"]
    bearers = {name: schemes.pop(name) for name in [*schemes] if schemes[name].get("scheme") == "bearer"}
    described = " Or: ".join(each["description"] for each in bearers.values())
    schemes["bearer"] = {"type": "http", "scheme": "bearer", "description": described}
    for operation in operations(result):
        named: list[JSON] = [
            {"bearer" if name in bearers else name: [] for name in each} for each in operation["security"]
        ]
        operation["security"] = [each for number, each in enumerate(named) if each not in named[:number]]
    return result


def schemas(document: JSON) -> Iterator[JSON]:
    """Yield every schema of the document, the inner ones of each before it."""
    for schema in document["components"]["schemas"].values():
        yield from _within(schema)
    for operation in operations(document):
        described = [*operation.get("parameters", [])]
        for part in (operation.get("requestBody", {}), *operation["responses"].values()):
            described += [*part.get("content", {}).values(), *part.get("headers", {}).values()]
        for each in described:
            yield from _within(each.get("schema", {}))


def _within(schema: JSON) -> Iterator[JSON]:
    inner = [*schema.get("properties", {}).values(), schema.get("items"), schema.get("additionalProperties")]
    for part in inner + schema.get("anyOf", []) + schema.get("oneOf", []) + schema.get("allOf", []):
        if isinstance(part, dict):
            yield from _within(part)
    yield schema


def simplify(result: JSON, **_: Any) -> JSON:
    """Write what can be null as `anyOf`, each enum as a reference to its component, and defaults as sentences."""
    components = result["components"]["schemas"]
    enums = {json.dumps(schema["enum"]): name for name, schema in components.items() if "enum" in schema}
    for schema in schemas(result):
        name = enums.get(json.dumps(schema.get("enum")))
        if name and schema is not components[name]:
            _replace(schema, {"$ref": f"#/components/schemas/{name}"})
        schema.pop("example", None)
        _simplify_null(schema)
    for name, schema in components.items():
        _say_defaults(schema, partial=name.startswith("Patched"))
    return result


def _simplify_null(schema: JSON) -> None:
    """Turn a list of types, which generators for OpenAPI 3.0 do not know, and `oneOf` with null into `anyOf`."""
    if isinstance(schema.get("type"), list):
        bare = {key: value for key, value in schema.items() if key not in ABOUT}
        _replace(schema, {"anyOf": [bare | {"type": kind} if kind != "null" else NULL for kind in bare["type"]]})
    elif NULL in schema.get("oneOf", []):
        _replace(schema, {"anyOf": schema["oneOf"]})


def _say_defaults(schema: JSON, *, partial: bool) -> None:
    """Move the defaults of a body into the descriptions.

    Clients send the `default`s that they find. In a partial body these would change what its user did not name.
    """
    for field in schema.get("properties", {}).values():
        if "default" in field:
            default = json.dumps(field.pop("default"))
            if not partial:
                field["description"] = f"{field.get('description', '')} Default: `{default}`.".strip()


def _replace(schema: JSON, new: JSON) -> None:
    """Make a schema the new one, with what it says about values of any type."""
    about = {key: schema[key] for key in ABOUT if key in schema}
    schema.clear()
    schema.update(about | new)


def as_openapi_3_0(document: JSON) -> JSON:
    """Return the document in OpenAPI 3.0.3, for generators that do not know 3.1: only the form of null differs."""
    document = copy.deepcopy(document)
    document["openapi"] = "3.0.3"
    license = document["info"]["license"]
    license["url"] = f"https://spdx.org/licenses/{license.pop('identifier')}.html"
    for schema in schemas(document):
        options = schema.get("anyOf", [])
        if NULL in options:
            rest = [option for option in options if option != NULL]
            plain = len(rest) == 1 and "$ref" not in rest[0]
            # a reference has no room for `nullable`, which wants a `type` beside it; what can be null are objects
            wrapped = {"type": "object", "allOf": rest}
            _replace(schema, {"nullable": True} | (rest[0] if plain else wrapped))
    return document
