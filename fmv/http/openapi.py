"""What each operation of the OpenAPI document says of its errors, its callers and its media types."""

import re
from collections.abc import Callable
from typing import Any

from django.urls import URLPattern, path
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, PolymorphicProxySerializer, extend_schema_field
from rest_framework import serializers

SENTENCES = {
    400: "Not possible",
    401: "Not authenticated",
    403: "The caller's role does not allow it",
    404: "Not Found",
    409: "Conflict with the current state of the robot or task",
    412: "The robot does not match If-Match or If-None-Match",
    411: "The request has a body without Content-Length",
    413: "The body is too large",
    422: "Invalid input",
    429: "Too many requests; Retry-After says how many seconds to wait",
    503: "MongoDB or the identity provider cannot be reached; Retry-After says how many seconds to wait",
}
FORBIDDEN_TO_USERS = "The token is not one of a robot"  # 403 of routes for agents
PROBLEM = {"loc": ["body", "name"], "msg": "This field is required.", "type": "missing"}


class HTTPError(serializers.Serializer):
    """An error, explained in one sentence."""

    detail = serializers.CharField()


@extend_schema_field({"type": "array", "items": {"anyOf": [{"type": "string"}, {"type": "integer"}]}})
class Location(serializers.ListField):
    """The path to a part of the input."""


class ValidationError(serializers.Serializer):
    """A problem with one part of the input."""

    loc = Location(help_text="The path to that part; it begins with `body`, `query`, `path` or `header`.")
    msg = serializers.CharField()
    type = serializers.CharField()


class HTTPValidationError(serializers.Serializer):
    """All problems with the input."""

    detail = ValidationError(many=True)


#: a conflict with what is stored: for a taken name the problem with the input, else one sentence. In this order,
#: because clients for Python take the first that fits, and read any `detail` as a sentence.
CONFLICT = PolymorphicProxySerializer("Conflict", [HTTPValidationError, HTTPError], resource_type_field_name=None)


def error_schema(status: int, sentence: str | None = None) -> OpenApiResponse:
    """Return the document's entry for this status whose `detail` is a sentence, by default the one of SENTENCES."""
    sentence = sentence or SENTENCES[status]
    example = OpenApiExample("a refusal", {"detail": sentence})
    return OpenApiResponse(HTTPError, description=sentence, examples=[example])


def input_error_schema() -> OpenApiResponse:
    """Return the document's entry whose `detail` lists the problems of the input."""
    example = OpenApiExample("a problem", {"detail": [PROBLEM]})
    return OpenApiResponse(HTTPValidationError, SENTENCES[422], examples=[example])


def conflict_schema(detail: Any = SENTENCES[409], description: str = SENTENCES[409]) -> OpenApiResponse:
    """Return the document's entry for 409, with `detail` as the example: a sentence or a list of problems."""
    return OpenApiResponse(CONFLICT, description, examples=[OpenApiExample("a conflict", {"detail": detail})])


def both(route: str, view: Callable[..., Any], name: str) -> list[URLPattern]:
    """Return two routes, with and without a trailing slash, so that neither form redirects."""
    other = route.removesuffix("/") if route.endswith("/") else f"{route}/"
    return [path(route, view, name=name), path(other, view)]


class Schema(AutoSchema):
    """Adds to each operation a summary, and the errors that every operation like it can answer."""

    def get_summary(self) -> str:
        """Return the beginning of the description, up to the first punctuation mark."""
        return re.split(r"[.,:;](?:\s|$)", self.get_description(), maxsplit=1)[0]

    def get_paginated_name(self, serializer_name: str) -> str:
        return f"{serializer_name}Collection"

    def map_parsers(self) -> list[str]:
        """Name the type that clients should send, though the parser reads any as JSON."""
        return ["application/json"]

    def get_auth(self) -> list[dict[str, Any]]:
        """Add `{}`, which means "no sign-in", where FMV_ANONYMOUS lets such callers in."""
        view: Any = self.view
        permissions = view.get_permissions()
        free = permissions and all(each.lets_anonymous_in(self.view, self.method) for each in permissions)
        return [*super().get_auth(), *([{}] if free else [])]

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
            operation.setdefault("security", [])  # nobody need sign in
            for status in self._common_errors(operation):
                response = input_error_schema() if status == 422 else error_schema(status, self._sentence(status))
                operation["responses"].setdefault(str(status), self._get_response_for_code(response, str(status)))
            operation["responses"] = dict(sorted(operation["responses"].items()))
        return operation

    def _sentence(self, status: int) -> str:
        return FORBIDDEN_TO_USERS if status == 403 and getattr(self.view, "agent", False) else SENTENCES[status]

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
            errors += [411, 413]
        return errors
