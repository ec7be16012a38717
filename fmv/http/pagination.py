"""Lists in pages, ordered by key."""

from collections.abc import Callable
from typing import Any, ClassVar

from django.core.exceptions import ValidationError as DjangoValidationError
from django.http import HttpResponse
from rest_framework import exceptions
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request

from fmv.errors import InvalidInput, Problem
from fmv.http.json import answer


class Pages(CursorPagination):
    """Pages by key with `?limit=` and an opaque `?cursor=`: stable while rows are added, without offset or count.

    Subclasses set `ordering`, the unique key that orders the rows, and `key`, the name of the list in the answer.
    """

    key: ClassVar[str]
    page_size = 100
    max_page_size = 1000
    page_size_query_param = "limit"
    page_size_query_description = "Rows per page, 1-1,000."
    cursor_query_description = "Where the page begins, as in `next` or `previous` of another page."

    def get_schema_operation_parameters(self, view: Any) -> list[dict[str, Any]]:
        parameters = super().get_schema_operation_parameters(view)
        for parameter in parameters:
            if parameter["name"] == "limit":
                parameter["schema"] |= {"minimum": 1, "maximum": self.max_page_size, "default": self.page_size}
            elif parameter["name"] == "cursor":
                parameter["schema"] |= {"minLength": 1}
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
            problem = Problem(("query", "cursor"), "Not a cursor of this list", "value_error")
            raise InvalidInput([problem]) from None
        return cursor

    def check_position(self, position: str) -> None:
        """Raise ValueError if no row's key can look like this."""
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
    """Return an answer with one page of the queryset's documents, each rendered by `render`."""
    rows: Any = pages.paginate_queryset(queryset.documents(), request)
    return pages.get_paginated_response([render(row) for row in rows])
