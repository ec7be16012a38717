"""Django's error handlers: JSON on the paths of the API, pages elsewhere."""

import sys

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.defaults import bad_request, server_error

from fmv.http import sent_forms
from fmv.http.errors import describe, error_response


def _is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith("/api/")


def _page(request: HttpRequest, status: int, title: str, text: str) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": title, "text": text}
    return render(request, "admin/message.html", context, status=status)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a form without a valid CSRF token. Django's page has an inline style, which our policy forbids.

    A form of ours has lost its token because somebody has signed in or out in another tab: what it holds is kept.
    """
    if request.method == "POST" and sent_forms.from_our_page(request) and sent_forms.may_be_kept(request):
        return sent_forms.refused(request)
    return _page(
        request, 403, "The form is out of date", "Nothing was changed. Open the page again to fill in the form."
    )


def handle_400(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(400, "Bad Request") if _is_api(request) else bad_request(request, exception)


def handle_403(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return error_response(403, "Forbidden")
    return _page(request, 403, "Not allowed", "Your role does not let you see or do this. A superuser can change it.")


def handle_404(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return error_response(404, "Not Found")
    return _page(
        request,
        404,
        "Page not found",
        "There is no page at this address. Its robot, task or user may have been deleted.",
    )


def handle_500(request: HttpRequest) -> HttpResponse:
    """Answer 503 if MongoDB cannot be reached, else 500."""
    error = sys.exception()
    status, detail, headers = describe(error or RuntimeError("unknown"))
    if _is_api(request):
        return error_response(status, detail, headers)
    if status == 503:
        return HttpResponse(detail, status=503, headers=headers, content_type="text/plain")
    return server_error(request)
