"""What happens to every request before anything else sees it."""

import re
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse

from fmv import request_id, views
from fmv.api import error_response

LENGTH = re.compile("[0-9]{1,15}")
GetResponse = Callable[[HttpRequest], HttpResponse]


class RequestID:
    """Answers with `X-Request-ID`, the client's own when it is sane, and puts it into every log line."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        id = request_id.from_client(request.headers.get("X-Request-ID"))
        token = request_id.current.set(id)
        try:
            response = self.get_response(request)
        finally:
            request_id.current.reset(token)
        response["X-Request-ID"] = id
        return response


class Probes:
    """Answers /livez and /readyz first of all: whoever probes need not know the host names or speak HTTPS."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        probe = {"/livez": views.livez, "/readyz": views.readyz}.get(request.path_info)
        return probe(request) if probe else self.get_response(request)


class BodyLimit:
    """Refuses a body that is too large before it is read, and one of undeclared length, which Django would not see."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        length = request.META.get("CONTENT_LENGTH") or "0"
        if "Transfer-Encoding" in request.headers:
            return error_response(411, "A body needs a Content-Length.")
        if not LENGTH.fullmatch(length) or int(length) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
            return error_response(413, f"A body is at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE} bytes.")
        return self.get_response(request)
