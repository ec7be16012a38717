"""Lists in pages, ordered by key. A page ends at a number of rows, or earlier at a number of bytes."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import orjson
from django.conf import settings
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db.models import Model
from django.http import HttpResponse
from rest_framework import exceptions
from rest_framework.pagination import Cursor, CursorPagination
from rest_framework.request import Request

from fmv.errors import InvalidInput, Problem
from fmv.http.json import answer
from fmv.mongodb.documents import Document, documents

Render = Callable[[Mapping[str, Any]], dict[str, Any]]

#: how a row is rendered -> its mean size in JSON as the latest lists had it. So many rows are fetched at a time that a
#: list of large ones is not read far beyond its end.
_row_sizes: dict[Render, float] = {}


class Rows(NamedTuple):
    """The first rows of a list: their keys, their JSON, and whether there are more."""

    keys: list[Any]
    json: list[orjson.Fragment]
    more: bool


def first_rows(
    model: type[Model],
    criteria: dict[str, Any],
    render: Render,
    most: int,
    read: Callable[..., Iterator[Document]] = documents,
    **options: Any,
) -> Rows:
    """Return the first rows: at most `most`, and at most FMV_PAGE_BYTES of JSON unless the first alone is larger.

    `read` and `options` are `fmv.mongodb.documents.documents` and its options, or what adds to these documents.
    """
    limit = settings.ENVIRONMENT.page_bytes
    size = _row_sizes.get(render, 0.0)
    batch = min(most + 1, 2 + int(limit / size)) if size else most + 1
    keys: list[Any] = []
    parts: list[orjson.Fragment] = []
    total, more = 0, False
    for document in read(model, criteria, limit=most + 1, batch_size=batch, **options):
        part = orjson.dumps(render(document))
        more = len(keys) == most or (bool(keys) and total + len(part) > limit)
        if more:
            break
        keys.append(document["_id"])
        parts.append(orjson.Fragment(part))
        total += len(part) + 1  # a comma
    if keys:
        # A list of small rows may follow one of large ones, and may be followed by another.
        _row_sizes[render] = max(total / len(keys), size / 2)
    return Rows(keys, parts, more)


class Pages(CursorPagination):
    """Pages by key with `?limit=` and an opaque `?cursor=`: stable while rows are added, without offset or count.

    A page has fewer rows than its limit if they would be more than FMV_PAGE_BYTES of JSON, but at least one.
    Rows are ordered by their primary key. Subclasses set `key`, the name of the list in the answer; `newest_first` if
    the highest key comes first; `columns` if `render` needs only these; and `read` as `first_rows` has it.
    """

    key: ClassVar[str]
    newest_first: ClassVar[bool] = False
    columns: ClassVar[Sequence[str] | None] = None
    read: ClassVar[Callable[..., Iterator[Document]]] = staticmethod(documents)
    page_size = 100
    max_page_size = 1000
    page_size_query_param = "limit"
    page_size_query_description = "Rows per page, 1-1,000; fewer if these are large (see `Pages` in the introduction)."
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

    def answer(self, queryset: Any, render: Render, request: Request) -> HttpResponse:
        """Return an answer with one page of the queryset's rows, each rendered from its document by `render`."""
        cursor = self.decode_cursor(request)
        backward, position = bool(cursor and cursor.reverse), cursor and cursor.position
        order = {"descending": self.newest_first is not backward, "beyond": position}
        most = self.get_page_size(request)
        found = first_rows(queryset.model, queryset.criteria(), render, most, self.read, columns=self.columns, **order)
        keys = found.keys or [position]
        rows, before, after = found.json, position is not None, found.more
        if backward:
            keys, rows, before, after = keys[::-1], rows[::-1], after, before
        if before or after:
            self.base_url = request.build_absolute_uri()  # of the links; most lists have one page
        following = self.encode_cursor(Cursor(0, False, keys[-1])) if after else None
        previous = self.encode_cursor(Cursor(0, True, keys[0])) if before else None
        return answer({self.key: rows, "next": following, "previous": previous})

    def get_paginated_response_schema(self, schema: dict[str, Any]) -> dict[str, Any]:
        link = {"type": ["string", "null"], "format": "uri", "example": None}
        return {
            "type": "object",
            "required": [self.key, "next", "previous"],
            "properties": {self.key: schema, "next": link, "previous": link},
        }
