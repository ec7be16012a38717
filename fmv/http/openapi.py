"""How the OpenAPI document is made: both forms of a path are one, and every operation lists its errors."""

import re
from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, path
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema_field
from rest_framework import serializers

Endpoint = tuple[str, str, str, Any]

SENTENCES = {
    400: "Not possible",
    401: "Not authenticated",
    403: "The caller's role does not allow it",
    404: "Not Found",
    409: "Conflict with the current state of the robot or task",
    412: "The robot does not match If-Match or If-None-Match",
    411: "The request has a body without Content-Length",
    413: "The body is too large",
    415: "The body is not JSON",
    422: "Invalid input",
    429: "Too many requests; Retry-After says how many seconds to wait",
    503: "MongoDB or the identity provider cannot be reached; Retry-After says how many seconds to wait",
}


PROBLEM = {"loc": ["body", "name"], "msg": "This field is required.", "type": "missing"}


class Error(serializers.Serializer):
    """An error, explained in one sentence."""

    detail = serializers.CharField()


@extend_schema_field({"type": "array", "items": {"type": ["string", "integer"]}})
class Location(serializers.ListField):
    """The path to a part of the input."""


class InputProblem(serializers.Serializer):
    """A problem with one part of the input."""

    loc = Location(help_text="The path to that part; it begins with `body`, `query`, `path` or `header`.")
    msg = serializers.CharField()
    type = serializers.CharField()


class InputError(serializers.Serializer):
    """All problems with the input."""

    detail = InputProblem(many=True)


def error_schema(status: int) -> OpenApiResponse:
    """Return the document's entry for this status whose `detail` is a sentence."""
    example = OpenApiExample("a refusal", {"detail": SENTENCES[status]})
    return OpenApiResponse(Error, description=SENTENCES[status], examples=[example])


def input_error_schema(description: str = SENTENCES[422]) -> OpenApiResponse:
    """Return the document's entry whose `detail` lists the problems of the input."""
    return OpenApiResponse(InputError, description, examples=[OpenApiExample("a problem", {"detail": [PROBLEM]})])


def both(route: str, view: Callable[..., Any], name: str) -> list[URLPattern]:
    """Return two routes, with and without a trailing slash, so that neither form redirects."""
    other = route.removesuffix("/") if route.endswith("/") else f"{route}/"
    return [path(route, view, name=name), path(other, view)]


def only_canonical_paths(endpoints: list[Endpoint]) -> list[Endpoint]:
    """Keep, of the two routes that `both` returns, the one it was given: it comes first."""
    kept: dict[tuple[str, str], Endpoint] = {}
    for endpoint in endpoints:
        kept.setdefault((endpoint[0].rstrip("/"), endpoint[2]), endpoint)
    return list(kept.values())


#: headers of answers, with the statuses that have them ("" is every one)
HEADERS = {
    "X-Request-ID": ("", "The id of the request in FMV's log: the client's own, if it sent a valid one."),
    "WWW-Authenticate": ("401", "The authentication scheme: `Bearer`."),
    "Retry-After": ("429 503", "Seconds to wait before trying again."),
}


def add_headers(result: dict[str, Any], **_: Any) -> dict[str, Any]:
    """Add the headers that FMV sends to the answers of all operations."""
    result["components"]["headers"] = {
        name: {"description": description, "required": True, "schema": {"type": "string"}}
        for name, (_, description) in HEADERS.items()
    }
    for operation in (operation for item in result["paths"].values() for operation in item.values()):
        for status, response in operation["responses"].items():
            names = [name for name, (statuses, _) in HEADERS.items() if not statuses or status in statuses.split()]
            headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
            response.setdefault("headers", {}).update(headers)
    return result


class Schema(AutoSchema):
    """Adds to each operation a summary, and the errors that every operation like it can answer."""

    def get_summary(self) -> str:
        """Return the beginning of the description, up to the first punctuation mark."""
        return re.split(r"[.,:;](?:\s|$)", self.get_description(), maxsplit=1)[0]

    def _map_serializer_field(self, field: Any, direction: str, bypass_extensions: bool = False) -> dict[str, Any]:
        """Add the `json_schema` of a field; the next method does the same for a serializer."""
        schema: dict[str, Any] = super()._map_serializer_field(field, direction, bypass_extensions)
        return schema | getattr(field, "json_schema", {})

    def _map_basic_serializer(self, serializer: Any, direction: str) -> dict[str, Any]:
        schema: dict[str, Any] = super()._map_basic_serializer(serializer, direction)
        return schema | getattr(serializer, "json_schema", {})

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        operation = super().get_operation(*args, **kwargs)
        if operation is not None:
            for status in self._common_errors(operation):
                response = input_error_schema() if status == 422 else error_schema(status)
                operation["responses"].setdefault(str(status), self._get_response_for_code(response, str(status)))
            operation["responses"] = dict(sorted(operation["responses"].items()))
        return operation

    def _common_errors(self, operation: dict[str, Any]) -> list[int]:
        errors = [422]  # an unknown query parameter, see fmv.http.query
        if self.view.throttle_classes:
            errors.append(429)
        if not self.view.permission_classes:
            return errors
        errors += [401, 403, 503]
        if "{" in self.path:
            errors.append(404)
        if "requestBody" in operation:
            errors += [411, 413, 415]
        return errors
