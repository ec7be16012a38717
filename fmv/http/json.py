"""JSON in and out: parsing and checking bodies, and rendering answers."""

from collections.abc import Mapping
from typing import Any

import orjson
from django.http import HttpResponse
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from fmv.errors import InvalidInput, Problem

MAX_DEPTH = 32  # levels of nesting in a body
MAX_INTEGER = 2**63 - 1  # the largest that MongoDB can store


class Renderer(BaseRenderer):
    """Compact JSON in UTF-8."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, media_type: str | None = None, context: Mapping[str, Any] | None = None) -> bytes:
        return b"" if data is None else orjson.dumps(data)


class Parser(BaseParser):
    """Strict JSON: UTF-8, no NaN, at most MAX_DEPTH levels, and only numbers that MongoDB can store."""

    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, context: Mapping[str, Any] | None = None) -> Any:
        try:
            data = orjson.loads(stream.read())
        except orjson.JSONDecodeError as error:
            raise InvalidInput(
                [Problem(("body", error.pos), f"JSON decode error: {error.msg}", "json_invalid")]
            ) from None
        check_json(data, ("body",))
        return data


def check_json(value: Any, loc: tuple[str | int, ...]) -> None:
    """Raise InvalidInput if the value is nested too deep or holds numbers that MongoDB cannot store."""
    if isinstance(value, int | float) and abs(value) > MAX_INTEGER and not isinstance(value, bool):
        raise InvalidInput([Problem(loc, "Numbers beyond 64 bits are not supported", "number_too_large")])
    if not isinstance(value, dict | list):
        return
    if len(loc) > MAX_DEPTH:
        raise InvalidInput([Problem(("body",), f"Nested deeper than {MAX_DEPTH} levels", "too_deep")])
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        check_json(part, (*loc, key))


class AlwaysJSON(DefaultContentNegotiation):
    """Answers JSON whatever `Accept` says, as v1 always has."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Return a JSON answer. Every answer is JSON, so there is no negotiation and no deferred rendering."""
    return HttpResponse(orjson.dumps(data), status=status, headers=headers, content_type="application/json")


def nothing() -> HttpResponse:
    """Return an answer without a body."""
    response = HttpResponse(status=204)
    del response["Content-Type"]
    return response
