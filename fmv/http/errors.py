"""The one place that turns errors into HTTP answers."""

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from django.core.exceptions import BadRequest, SuspiciousOperation
from django.http import Http404, HttpResponse
from rest_framework import exceptions

from fmv.errors import FmvError, InvalidInput, Problem
from fmv.http.json import answer
from fmv.mongodb.server import trouble

logger = logging.getLogger(__name__)

#: DRF's error codes -> the `type` that v1 clients know from Pydantic
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
    """Return the status, the `detail` of the body and the headers with which to answer this error."""
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
        case _ if sentence := trouble(error):
            logger.warning("%s %s", sentence, error.__cause__ or error)  # Django's own error has no text
            return 503, f"{sentence} Try again soon.", {"Retry-After": "5"}
    logger.error("Unexpected %s", type(error).__name__, exc_info=error)
    return 500, "Internal Server Error", {}


def exception_handler(error: Exception, context: Mapping[str, Any]) -> HttpResponse:
    """DRF's hook: turn every error of a view, expected or not, into JSON, whatever the view itself renders."""
    return error_response(*describe(error), _for_programs(error))


def _for_programs(error: Exception) -> dict[str, Any]:
    if not isinstance(error, FmvError):
        return {}
    return ({"code": error.code} if error.code else {}) | dict(error.extra)


def error_response(
    status: int, detail: Any, headers: Mapping[str, str] | None = None, extra: Mapping[str, Any] | None = None
) -> HttpResponse:
    """Return an error in the format that v1 clients parse. Middleware and the 404 handler use it too.

    `extra`: what the body has beside the `detail`.
    """
    return answer({"detail": detail} | dict(extra or {}), status, headers)
