"""The API's common ground: JSON in and out, errors, pages, strict fields."""

import datetime as dt
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, TypeVar

import orjson
from django.core.exceptions import BadRequest, SuspiciousOperation
from django.core.exceptions import ValidationError as DjangoValidationError
from django.http import Http404, HttpResponse
from rest_framework import exceptions, serializers
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from fmv.http.errors import FmvError, InvalidInput, Problem
from fmv.mongodb.server import is_unreachable

logger = logging.getLogger(__name__)

MAX_DEPTH = 32  # levels of nesting in a body
MAX_INTEGER = 2**63 - 1  # what MongoDB can store

# --- JSON ------------------------------------------------------------------------------------------------------------


class Renderer(BaseRenderer):
    """Compact JSON in UTF-8."""

    media_type = "application/json"
    format = "json"
    charset = None

    def render(self, data: Any, media_type: str | None = None, context: Mapping[str, Any] | None = None) -> bytes:
        return b"" if data is None else orjson.dumps(data)


class Parser(BaseParser):
    """JSON by the book: UTF-8, no NaN, at most MAX_DEPTH levels, integers that MongoDB can store."""

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
    """Raise InvalidInput for what is nested too deep or holds numbers that MongoDB cannot store."""
    if isinstance(value, int | float) and abs(value) > MAX_INTEGER and not isinstance(value, bool):
        raise InvalidInput([Problem(loc, "Numbers beyond 64 bits are not supported", "number_too_large")])
    if not isinstance(value, dict | list):
        return
    if len(loc) > MAX_DEPTH:
        raise InvalidInput([Problem(("body",), f"Nested deeper than {MAX_DEPTH} levels", "too_deep")])
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        check_json(part, (*loc, key))


class AlwaysJSON(DefaultContentNegotiation):
    """Answers JSON whatever `Accept` says, as v1 always did."""

    def select_renderer(self, request: Request, renderers: Any, format_suffix: str | None = None) -> Any:
        return renderers[0], renderers[0].media_type


def answer(data: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Return the data as JSON, as every answer is: there is nothing to negotiate, or to render later."""
    return HttpResponse(orjson.dumps(data), status=status, headers=headers, content_type="application/json")


def nothing() -> HttpResponse:
    """Return an answer without a body."""
    response = HttpResponse(status=204)
    del response["Content-Type"]
    return response


# --- Errors ----------------------------------------------------------------------------------------------------------

#: DRF's codes in the words that v1 clients know from Pydantic
TYPES = {
    "required": "missing",
    "null": "none_not_allowed",
    "blank": "string_too_short",
    "max_length": "string_too_long",
    "min_value": "greater_than_equal",
    "max_value": "less_than_equal",
    "not_a_list": "list_type",
    "not_a_dict": "dict_type",
    "invalid_choice": "enum",
    "invalid": "value_error",
}


def flatten(detail: Any, loc: tuple[str | int, ...]) -> Iterator[Problem]:
    """Yield a Problem for each message in a DRF error's nested detail."""
    if isinstance(detail, dict):
        for key, part in detail.items():
            yield from flatten(part, loc if key == "non_field_errors" else (*loc, key))
    elif isinstance(detail, list):
        for index, part in enumerate(detail):
            yield from flatten(part, loc if isinstance(part, str) else (*loc, index))
    else:
        yield Problem(loc, str(detail), TYPES.get(detail.code, detail.code))


def describe(error: BaseException) -> tuple[int, Any, dict[str, str]]:
    """Return the status, the body's `detail` and the headers that tell a client of this error."""
    match error:
        case InvalidInput():
            return error.status, [problem.as_dict() for problem in error.problems], {}
        case FmvError():
            return error.status, str(error), {}
        case exceptions.ValidationError():
            return 422, [problem.as_dict() for problem in flatten(error.detail, ("body",))], {}
        case Http404() | exceptions.NotFound():
            return 404, "Not Found", {}
        case exceptions.AuthenticationFailed():
            return 401, str(error.detail), {"WWW-Authenticate": "Bearer"}
        case exceptions.NotAuthenticated():
            return 401, "Not authenticated", {"WWW-Authenticate": "Bearer"}
        case SuspiciousOperation() | BadRequest():
            return 400, "Bad Request", {}
        case exceptions.APIException():
            wait = getattr(error, "wait", None)
            return error.status_code, str(error.detail), {"Retry-After": f"{math.ceil(wait)}"} if wait else {}
        case _ if is_unreachable(error):
            logger.warning("MongoDB cannot be reached: %s", error)
            return 503, "The database cannot be reached. Try again soon.", {"Retry-After": "5"}
    logger.error("Unexpected %s", type(error).__name__, exc_info=error)
    return 500, "Internal Server Error", {}


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """DRF's hook: every error of a view, expected or not, becomes JSON, whatever the view itself renders."""
    return error_response(*describe(error))


def error_response(status: int, detail: Any, headers: Mapping[str, str] | None = None) -> HttpResponse:
    """Return an error in the shape that v1 clients parse; middleware and unknown paths answer so too."""
    return answer({"detail": detail}, status, headers)


# --- Fields and input ------------------------------------------------------------------------------------------------

NOT_BLANK = r"[^\s\u001c-\u001f\u0085]"  # a character that `trim_whitespace` leaves, in JSON Schema's words


class Text(serializers.CharField):
    """A string and nothing that could be made into one. Outer blanks are trimmed.

    `pattern` is for the document alone: what validators check is theirs to say there too.
    """

    default_error_messages = {"invalid": "Input should be a valid string"}

    def __init__(self, *, pattern: str = NOT_BLANK, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.json_schema = {"pattern": pattern} if self.trim_whitespace else {}

    def run_validation(self, data: Any = serializers.empty) -> Any:
        if data is not serializers.empty and data is not None and not isinstance(data, str):
            self.fail("invalid")
        return super().run_validation(data)


class Whole(serializers.IntegerField):
    """A whole number and nothing that could be made into one. To JSON, 4.0 is one."""

    default_error_messages = {"invalid": "Input should be a valid integer"}

    def to_internal_value(self, data: Any) -> int:
        if isinstance(data, bool) or not isinstance(data, int | float) or data != int(data):
            self.fail("invalid")
        return int(data)


RFC_3339 = re.compile(r"[0-9]{4}(-[0-9]{2}){2}[Tt ]([0-9]{2}:){2}[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})")


def moment(value: dt.datetime | None) -> str | None:
    """Return a time of UTC, whether it says so or not, as the API writes it."""
    return None if value is None else value.isoformat("T", "milliseconds")[:23] + "Z"


class Moment(serializers.DateTimeField):
    """RFC 3339; in UTC with milliseconds on the way out, with an offset on the way in."""

    default_error_messages = {"invalid": "Input should be a time as in 2027-01-31T08:00:00Z, with its offset"}

    def to_internal_value(self, value: Any) -> Any:
        if not isinstance(value, str) or not RFC_3339.fullmatch(value):
            self.fail("invalid")
        return super().to_internal_value(value.upper())

    def to_representation(self, value: Any) -> Any:
        return moment(value)


class StrictSerializer(serializers.Serializer):
    """Refuses fields it does not know: a misspelt option would do harm."""

    json_schema = {"additionalProperties": False}

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        if unknown := sorted(set(data) - set(self.fields)):
            raise exceptions.ValidationError(
                {key: exceptions.ErrorDetail("Extra inputs are not permitted", "extra_forbidden") for key in unknown}
            )
        return values


@cache
def _reader(serializer_class: type[serializers.Serializer]) -> serializers.Serializer:
    """Return a serializer that only ever reads, and so can be anybody's: making one copies all of its fields."""
    return serializer_class()


def read_body(serializer_class: type[serializers.Serializer], data: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the body as the serializer reads it; raises DRF's ValidationError that names each wrong field."""
    serializer = serializer_class(**kwargs) if kwargs else _reader(serializer_class)
    values: dict[str, Any] = serializer.run_validation(data)
    return values


@cache
def _unasked(serializer_class: type[serializers.Serializer]) -> dict[str, Any]:
    values: dict[str, Any] = _reader(serializer_class).run_validation({})
    return values


def read_query(serializer_class: type[serializers.Serializer], request: Request) -> dict[str, Any]:
    """Return the query parameters as the serializer reads them; raises InvalidInput that names each wrong one."""
    params = request.query_params
    if not params:
        return dict(_unasked(serializer_class))
    serializer = _reader(serializer_class)
    fields: dict[str, serializers.Field] = dict(serializer.fields)
    many = {name for name, field in fields.items() if isinstance(field, serializers.ListField)}
    # A plain dict: DRF takes a QueryDict for an HTML form, in which a missing boolean means False.
    data = {name: params.getlist(name) if name in many else params[name] for name in fields if name in params}
    try:
        values: dict[str, Any] = serializer.run_validation(data)
    except exceptions.ValidationError as error:
        raise InvalidInput(list(flatten(error.detail, ("query",)))) from None
    return values


# --- Pages -----------------------------------------------------------------------------------------------------------

T = TypeVar("T")


class Pages(CursorPagination):
    """Pages by key, `?limit=` and an opaque `?cursor=`: stable while rows are added, never an offset or a count.

    Subclasses name the unique key that orders the rows (`ordering`) and the list in the answer (`key`).
    """

    key: ClassVar[str]
    page_size = 100
    max_page_size = 1000
    page_size_query_param = "limit"
    page_size_query_description = "Rows on a page, 1-1,000."
    cursor_query_description = "Where the page begins: taken from `next` or `previous` of another."

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        parameters = super().get_schema_operation_parameters(view)
        for parameter in parameters:
            if parameter["name"] == "limit":
                parameter["schema"] |= {"minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
        return parameters

    def get_page_size(self, request: Request) -> int:
        text = request.query_params.get("limit", str(self.page_size))
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= self.max_page_size:
            problem = Problem(("query", "limit"), f"Input should be from 1 to {self.max_page_size}", "value_error")
            raise InvalidInput([problem])
        return int(text)

    def decode_cursor(self, request: Request) -> Cursor | None:
        try:
            cursor = super().decode_cursor(request)
            if cursor is not None:
                self.check_position(str(cursor.position or ""))
                cursor = cursor._replace(offset=0)
        except (exceptions.NotFound, DjangoValidationError, ValueError):
            problem = Problem(("query", "cursor"), "Not a cursor that this list gave", "value_error")
            raise InvalidInput([problem]) from None
        return cursor

    def check_position(self, position: str) -> None:
        """Raise ValueError when a row's key could not look like this."""
        if not position or "\x00" in position:
            raise ValueError(position)

    def _get_position_from_instance(self, instance: Any, ordering: Any) -> str:
        return str(instance["_id"])

    def get_paginated_response(self, data: Any) -> HttpResponse:  # type: ignore[override]
        return answer({self.key: data, "next": self.get_next_link(), "previous": self.get_previous_link()})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": ["string", "null"], "format": "uri", "example": None}
        return {
            "type": "object",
            "required": [self.key, "next", "previous"],
            "properties": {self.key: schema, "next": link, "previous": link},
        }


def page(
    pages: Pages, queryset: Any, render: Callable[[dict[str, Any]], dict[str, Any]], request: Request
) -> HttpResponse:
    """Answer with one page of the queryset's documents, each as `render` makes it."""
    rows: Any = pages.paginate_queryset(queryset.documents(), request)
    return pages.get_paginated_response([render(row) for row in rows])
