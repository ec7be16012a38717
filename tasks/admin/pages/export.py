"""The lists of the admin as files: CSV or JSON lines, sent while they are read."""

import datetime as dt
from collections.abc import Iterator
from itertools import chain
from threading import BoundedSemaphore
from typing import Any

from django.core.exceptions import PermissionDenied
from django.http import (
    Http404,
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseNotAllowed,
    HttpResponseRedirect,
    StreamingHttpResponse,
)
from django.urls import URLPattern, path, reverse
from django.utils.http import content_disposition_header
from django.utils.text import slugify
from django.utils.timezone import get_current_timezone, localtime

from fmv import audit
from fmv.admin_base import FleetAdmin
from fmv.errors import InvalidInput
from fmv.export import FORMS, Piece
from fmv.export import pieces as pieces_of
from fmv.mongodb.server import recent_now
from tasks.admin.base import username

TIMES = ("utc", "local")
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the second stops nginx from buffering


def pages(site: Any) -> list[URLPattern]:
    def page(request: HttpRequest, app: str, model: str) -> HttpResponseBase:
        found = (admin for each, admin in site._registry.items() if each._meta.label_lower == f"{app}.{model}")
        admin = next(found, None)
        if not isinstance(admin, FleetAdmin) or not admin.export_columns:
            raise Http404
        return download(request, admin)

    return [path("export/<str:app>/<str:model>/", site.admin_view(page), name="export")]


def download(request: HttpRequest, admin: FleetAdmin) -> HttpResponseBase:
    """Return the file of the list. A filter that is wrong leads to the list, which says what is wrong."""
    if request.method != "GET":
        return HttpResponseNotAllowed(["GET"])
    if not (admin.has_module_permission(request) and admin.has_view_or_change_permission(request)):
        raise PermissionDenied
    query = request.GET.copy()
    form, times = "".join(query.pop("format", ["csv"])), "".join(query.pop("times", ["utc"]))
    title = admin.heading or str(admin.opts.verbose_name_plural)
    request.GET = query  # type: ignore[assignment]  # the list knows no other parameters
    if form not in FORMS or times not in TIMES:
        wanted = f"format should be one of: {', '.join(FORMS)}; times one of: {', '.join(TIMES)}."
        return HttpResponse(wanted, status=400, content_type="text/plain")
    try:
        export = admin.exported(request)
    except InvalidInput:
        changelist = reverse(f"admin:{admin.opts.app_label}_{admin.opts.model_name}_changelist")
        return HttpResponseRedirect(f"{changelist}?{query.urlencode()}")
    zone = get_current_timezone() if times == "local" else dt.UTC
    filters = ", ".join(f"{name} {value}" for name, values in query.lists() for value in values if value)
    sent = Download(request, pieces_of(export, form, zone), slugify(title), FORMS[form].title, filters or "no filter")
    answer = StreamingHttpResponse(sent, content_type=FORMS[form].media_type, headers=HEADERS)
    name = f"fmv-{slugify(title)}-{localtime(recent_now(), zone):%Y-%m-%d}.{form}"
    answer["Content-Disposition"] = content_disposition_header(as_attachment=True, filename=name)
    answer["X-Rows"] = f"{export.count}{'+' if export.is_more else ''}"
    return answer


class Download:
    """The pieces of a file, and an audit entry when it is closed: sent whole, given up by its client, or failed.

    The first piece is read at once, so that a fault of the database is an answer like any other. Later ones are read
    as a request is that works (see fmv.http.middleware.ConcurrencyLimit), and the file ends in the middle if one fails.
    """

    def __init__(self, request: HttpRequest, pieces: Iterator[Piece], name: str, form: str, filters: str) -> None:
        first = [*([piece] if (piece := next(pieces, None)) else [])]
        self._first, self._rest = iter(first), pieces
        self._places = places_of(request)
        self._by, self._name, self._form, self._filters = username(request), name, form, filters
        self._rows, self._taken, self._outcome = 0, 0, ", given up by the client"
        self._is_closed = False

    def __iter__(self) -> "Download":
        return self

    def __next__(self) -> bytes:
        self._rows += self._taken  # the piece before was sent
        self._taken = 0
        try:
            with self._places:
                piece = next(chain(self._first, self._rest))
        except StopIteration:
            self._outcome = ""
            raise
        except BaseException:
            self._outcome = ", then it failed"
            raise
        self._taken = piece.rows
        return piece.content

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        self._rest.close()  # type: ignore[attr-defined]
        rows = f"{self._rows:,} row{'' if self._rows == 1 else 's'}"
        text = f"{rows} as {self._form}{self._outcome}: {self._filters}"
        audit.record("list.export", by=self._by, kind="list", key=self._name, text=text)


def places_of(request: HttpRequest) -> BoundedSemaphore:
    """Return the places of the requests that work: fmv.http.middleware.ConcurrencyLimit."""
    places: BoundedSemaphore = request.places  # type: ignore[attr-defined]
    return places
