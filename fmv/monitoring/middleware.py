"""Middleware that logs and counts requests, and answers the health endpoints."""

import hmac
import logging
import re
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.functional import LazyObject, empty

from fmv.http.client_address import client_address
from fmv.monitoring import metrics, views

access = logging.getLogger("fmv.access")

HEALTH_ENDPOINTS = {"/livez": views.livez, "/readyz": views.readyz, "/metrics": views.metrics}
GetResponse = Callable[[HttpRequest], HttpResponse]


class AccessLog:
    """Counts and times each request, and logs one line with its route, never with the values in its path or query."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        begun = time.perf_counter()
        response = self.get_response(request)
        duration = time.perf_counter() - begun
        method, route, status = request.method or "-", route_of(request), response.status_code
        metrics.count_request(method, route, status, duration)
        often = route in HEALTH_ENDPOINTS or "X-Live" in response  # a page that refreshes itself
        if not access.isEnabledFor(level := logging.DEBUG if often and status < 400 else logging.INFO):
            return response
        particulars = {
            "method": method,
            "route": route,
            "status": status,
            "duration_ms": round(duration * 1000, 1),
            "user": user_of(request),
            "address": client_address(request),
        }
        access.log(
            level,
            "%(method)s %(route)s: %(status)d in %(duration_ms)s ms, %(user)s at %(address)s",
            particulars,
            extra=particulars,
        )
        return response


def route_of(request: HttpRequest) -> str:
    """Return the template of the request's path, such as /api/v1/robot/{name}; "-" if no route matches."""
    if request.path_info in HEALTH_ENDPOINTS:
        return request.path_info
    return template(request.resolver_match.route) if request.resolver_match else "-"


@lru_cache(maxsize=512)
def template(route: str) -> str:
    """Write Django's `robot/<str:name>/` as `/robot/{name}`."""
    return "/" + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", route).rstrip("/")


def user_of(request: HttpRequest) -> str:
    """Return the user's name; "-" if nothing has loaded the user, since loading it now would cost a query."""
    user: Any = getattr(request, "user", None)
    unknown = user is None or (isinstance(user, LazyObject) and user._wrapped is empty)
    return "-" if unknown else str(user.get_username() or "anonymous")


class HealthEndpoints:
    """Answers /livez, /readyz and /metrics before the checks of host name and HTTPS, which health probes cannot pass.

    For /metrics this needs FMV_METRICS_TOKEN; without the token the view checks the caller's role.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        view = HEALTH_ENDPOINTS.get(request.path_info)
        if view is None or (view is views.metrics and not _has_metrics_token(request)):
            return self.get_response(request)
        return view(request)


def _has_metrics_token(request: HttpRequest) -> bool:
    token: str = settings.ENVIRONMENT.metrics_token
    given = request.headers.get("Authorization", "")
    return bool(token) and hmac.compare_digest(given.encode("utf-8", "replace"), f"Bearer {token}".encode())
