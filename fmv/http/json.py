"""JSON in and out: parsing and checking bodies, and rendering answers."""

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson
from django.http import HttpResponse
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from fmv.errors import InvalidInput, Problem

MAX_DEPTH = 32  # levels of nesting in a body
MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1  # what MongoDB can store
LONG_NUMBERS = re.compile("[0-9]{19}"), re.compile(rb"[0-9]{19}")  # in a text, and in bytes
MAX_DIGITS = 400  # of a whole number that is worth reading


class Renderer(BaseRenderer):
    """Compact JSON in UTF-8."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, media_type: str | None = None, context: Mapping[str, Any] | None = None) -> bytes:
        return b"" if data is None else orjson.dumps(data)


class Parser(BaseParser):
    """Strict JSON in UTF-8 of any `Content-Type`, see `parse`."""

    media_type = "*/*"  # curl and urllib announce a form, and fetch announces text

    def parse(self, stream: Any, media_type: str | None = None, context: Mapping[str, Any] | None = None) -> Any:
        text = stream.read()
        value = parse(text, ("body",))
        if LONG_NUMBERS[1].search(text):
            check_json(_outside_params(value), ("body",), to_store=True)
        return value


def _outside_params(value: Any) -> Any:
    """Return the value without any `params`: a handler's model decides what a long number becomes there."""
    if isinstance(value, dict):
        return {key: _outside_params(part) for key, part in value.items() if key != "params"}
    return [_outside_params(part) for part in value] if isinstance(value, list) else value


def parse(text: str | bytes, loc: tuple[str | int, ...]) -> Any:
    """Return the value of a JSON text; whole numbers of any length are exact.

    Raises InvalidInput, which names the value that is at fault, or the position where the text is no JSON.
    """
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        with suppress(ValueError, RecursionError):  # NaN, 1e400 and lone surrogates have a place, so name it
            check_json(_loads(text), loc)
        raise InvalidInput([Problem((*loc, error.pos), f"JSON decode error: {error.msg}", "json_invalid")]) from None
    check_json(value, loc)
    if LONG_NUMBERS[isinstance(text, bytes)].search(text):  # type: ignore[arg-type]
        value = _loads(text)  # orjson makes an inexact float of a whole number that is beyond 64 bits
    return value


def _loads(text: str | bytes) -> Any:
    return json.loads(text, parse_int=lambda digits: int(digits) if len(digits) < MAX_DIGITS else math.inf)


def check_json(value: Any, loc: tuple[str | int, ...], *, to_store: bool = False) -> None:
    """Raise InvalidInput, which names the place, if the value is no JSON that FMV can handle.

    With `to_store` whole numbers are refused that MongoDB cannot store; before, one may still become a float.
    """
    if message := _fault(value, to_store):
        raise InvalidInput([Problem(loc, *message)])
    if not isinstance(value, dict | list):
        return
    if len(loc) > MAX_DEPTH:
        raise InvalidInput([Problem(("body",), f"Nested deeper than {MAX_DEPTH} levels", "too_deep")])
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        if message := _fault(key, to_store):
            raise InvalidInput([Problem((*loc, ascii(key)[1:-1]), *message)])
        check_json(part, (*loc, key), to_store=to_store)


def _fault(value: Any, to_store: bool) -> tuple[str, str] | None:
    """Return the message and the type of the problem with a single value."""
    match value:
        case int() if to_store and not MIN_INTEGER <= value <= MAX_INTEGER:
            return "Whole numbers beyond 64 bits are not supported", "number_too_large"
        case float() if not math.isfinite(value):
            return "NaN, Infinity and numbers beyond 1.8e308 are not supported", "finite_number"
        case str() if not _is_unicode(value):
            return "Lone surrogates are not supported, because they are no Unicode text", "string_unicode"
    return None


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


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
