"""Middleware: what happens to every request before and after its view."""

import re
from collections.abc import Callable
from threading import BoundedSemaphore
from typing import Any

from corsheaders.middleware import CorsMiddleware
from django.conf import settings
from django.contrib.auth.middleware import AuthenticationMiddleware
from django.contrib.messages.middleware import MessageMiddleware
from django.contrib.sessions.middleware import SessionMiddleware
from django.core.signals import request_finished
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse, UnreadablePostError
from django.middleware.csrf import CsrfViewMiddleware
from django.utils.cache import patch_vary_headers

from fmv.escaping import visible_html
from fmv.http import request_id, security_headers
from fmv.http.errors import error_response
from fmv.mongodb.migration_state import why_not_ready

LENGTH = re.compile("[0-9]{1,15}")
WITH_BODY = {"POST", "PUT", "PATCH"}
GetResponse = Callable[[HttpRequest], HttpResponse]


class RequestID:
    """Adds `X-Request-ID` to every answer and log line: the client's own id if it is harmless, else a new one."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        id = request_id.from_client(request.META.get("HTTP_X_REQUEST_ID"))
        request_id.current.set(id)
        response = self.get_response(request)
        response["X-Request-ID"] = id
        return response


@receiver(request_finished)
def forget_request_id(**_: Any) -> None:
    """Django logs a request's failure after its middleware, so the id is kept until the response is closed."""
    request_id.current.set("-")


class SecurityHeaders:
    """Adds the headers of `fmv.http.security_headers` that an answer does not have yet."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        for name, value in security_headers.ALWAYS.items():
            response.setdefault(name, value)
        response.setdefault("Content-Security-Policy", security_headers.policy(request.path_info))
        return response


class BodyLimit:
    """Refuses a body that is too large before it is read, and one of undeclared length, which Django would not see."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        length = request.META.get("CONTENT_LENGTH") or "0"
        if "HTTP_TRANSFER_ENCODING" in request.META:
            return error_response(411, "A body needs a Content-Length.")
        most = settings.FMV_BODY_LIMITS.get(request.path_info.rstrip("/"), settings.FMV_BODY_LIMIT)
        if not LENGTH.fullmatch(length) or int(length) > most:
            return error_response(413, f"A body is at most {most} bytes.")
        try:
            _ = request.body if request.method in WITH_BODY else b""
        except UnreadablePostError:
            return error_response(408, "The body did not arrive.")
        return self.get_response(request)


class MigrationsFirst:
    """Answers 503 until the database is migrated: a write before that would be stored without its indexes."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if request.path_info.rstrip("/") == "/api/v1/health" or not (problem := why_not_ready()):
            return self.get_response(request)
        headers = {"Retry-After": "5"}
        if request.path_info.startswith("/api/"):
            return error_response(503, problem, headers)
        return HttpResponse(problem, status=503, headers=headers, content_type="text/plain")


class ConcurrencyLimit:
    """Lets FMV_WEB_THREADS requests work at a time: more running threads only slow each other down (the GIL).

    A request that waits leaves its place meanwhile: fmv.http.waiting.outside_limit.

    Bodies are read before and answers are sent afterwards, so a slow client or an event stream keeps no other waiting.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response
        self.places = BoundedSemaphore(settings.ENVIRONMENT.web_threads)

    def __call__(self, request: HttpRequest) -> HttpResponse:
        request.places = self.places  # type: ignore[attr-defined]
        with self.places:
            return self.get_response(request)


class Cors(CorsMiddleware):
    """Skips the CORS checks of an API request without `Origin`: no web page sent it."""

    def __call__(self, request: HttpRequest) -> Any:
        if "HTTP_ORIGIN" in request.META or not is_plain(request):
            return super().__call__(request)
        response: Any = self.get_response(request)
        patch_vary_headers(response, ("Cookie", "origin"))  # the answer depends on both
        return response


def is_plain(request: HttpRequest) -> bool:
    """Return True for API requests without cookies, which need no session, CSRF or messages."""
    path = request.path_info
    return path.startswith("/api/") and not request.META.get("HTTP_COOKIE") and not path.startswith("/api/v1/auth/")


class BrowserOnly:
    """Mixed into middleware that only browsers need: `is_plain` requests skip it."""

    get_response: Any

    def __call__(self, request: HttpRequest) -> Any:
        return self.get_response(request) if is_plain(request) else super().__call__(request)  # type: ignore[misc]


class Sessions(BrowserOnly, SessionMiddleware):
    def process_response(self, request: HttpRequest, response: HttpResponse) -> HttpResponse:
        answer: HttpResponse = super().process_response(request, response)
        if getattr(answer, "shown_by_back", False):  # see sent_forms; a browser that signs in gets other cookies
            del answer.headers["Vary"]
        return answer


class Csrf(BrowserOnly, CsrfViewMiddleware):
    """Checks forms. For the API `fmv.accounts.authentication.SessionCookie` does it, in REST framework's way."""


class Users(BrowserOnly, AuthenticationMiddleware):
    pass


class Messages(BrowserOnly, MessageMiddleware):
    pass


class VisibleText:
    """Escapes hidden characters in pages, so that a name, log line or message cannot look like something else."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if response.get("Content-Type", "").startswith("text/html") and not response.streaming:
            page = response.content.decode()
            shown = visible_html(page)
            response.content = shown if shown != page else response.content
        return response
