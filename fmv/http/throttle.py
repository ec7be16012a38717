"""Limits of requests a caller, of refused requests an address, and of wrong passwords an account and address.

FMV_THROTTLE_READ, FMV_THROTTLE_WRITE, FMV_THROTTLE_SIGN_IN.
"""

import datetime as dt
import hashlib
import math
import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.crypto import get_random_string
from rest_framework.exceptions import Throttled
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from fmv.http.client_address import client_address, network
from fmv.http.errors import describe, error_response
from fmv.http.models import ThrottleWindow
from fmv.mongodb.counting import collection, increment
from fmv.mongodb.server import stored_now

KNOWN_BROWSER = "fmv_browser"  # cookie of a browser in which an account has signed in
KNOWN_FOR = 90 * 86_400  # seconds
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


class Window(NamedTuple):
    """A span of time in which one caller's requests of one kind are counted; `end` is a Unix time."""

    key: str
    limit: int
    end: float

    @classmethod
    def now(cls, caller: str, kind: str, rate: str) -> "Window":
        limit, seconds = read_rate(rate)
        end = (stored_now().timestamp() // seconds + 1) * seconds
        return cls(f"{caller} {kind} {end:.0f}", limit, end)

    def add(self) -> int:
        return increment(ThrottleWindow, self.key, "count", expires_at=dt.datetime.fromtimestamp(self.end, dt.UTC))

    def total(self) -> int:
        return int((collection(ThrottleWindow).find_one(self.key) or {"count": 0})["count"])

    def wait(self) -> int:
        return max(1, math.ceil(self.end - stored_now().timestamp()))


class Throttle(BaseThrottle):
    """Counts each caller's requests in fixed windows, in MongoDB, so that all web servers share one count.

    Around a window's end a caller can make twice as many requests in a short time; in return a request costs one write.
    """

    def allow_request(self, request: Request, view: Any) -> bool:
        kind = "read" if request.method in SAFE_METHODS else "write"
        rate = settings.ENVIRONMENT.throttle_read if kind == "read" else settings.ENVIRONMENT.throttle_write
        if not rate:
            return True
        self._window = Window.now(identity(request), kind, rate)
        return self._window.add() <= self._window.limit

    def wait(self) -> float:
        return self._window.wait()


class FailedAuthThrottle:
    """Middleware that answers 429 after too many refused requests, before authentication is tried.

    It counts those of an address, and the wrong passwords for an account from an address. `Throttle` runs after
    authentication and therefore counts only requests that were let in.

    Nobody can lock others out of their account: their address has a count of its own, and so has each browser in which
    the account has signed in before, whatever its address.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        windows: list[Window] = getattr(request, "failed_auth_windows", [])
        if windows and (response.status_code in (401, 403) or _is_failed_login(request, response)):
            for window in windows:
                window.add()
        if _is_login_by_password(request) and response.status_code == 302:
            value = f"{_account(request)} {get_random_string(16)}"
            options: dict[str, Any] = {"max_age": KNOWN_FOR, "httponly": True, "samesite": "Lax"}
            response.set_signed_cookie(
                KNOWN_BROWSER, value, path=request.path, secure=settings.SESSION_COOKIE_SECURE, **options
            )
        return response

    def process_view(self, request: HttpRequest, view: Any, args: Any, kwargs: Any) -> HttpResponse | None:
        windows = [*_windows(request, view)]
        for window in windows:
            if window.total() >= window.limit:
                wait = window.wait()
                return _page(wait) if _is_login(request) else error_response(*describe(Throttled(wait)))
        request.failed_auth_windows = windows  # type: ignore[attr-defined]
        return None


def _windows(request: HttpRequest, view: Any) -> Iterator[Window]:
    if settings.ENVIRONMENT.throttle_write and _authenticates(request, view):
        yield Window.now(address_key(request), "refused", settings.ENVIRONMENT.throttle_write)
    if settings.ENVIRONMENT.throttle_sign_in and _is_login_by_password(request):
        account = _account(request)
        browser = request.get_signed_cookie(KNOWN_BROWSER, "", max_age=KNOWN_FOR) or ""
        place = f"browser {browser.partition(' ')[2]}" if browser.startswith(f"{account} ") else address_key(request)
        yield Window.now(f"{place} {account}", "sign-in", settings.ENVIRONMENT.throttle_sign_in)


def _account(request: HttpRequest) -> str:
    """Return a digest of the user name in the form, in the spelling that the sign-in looks up."""
    name = unicodedata.normalize("NFKC", request.POST.get("username", "")).strip()
    return hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:32]


def _page(seconds: int) -> HttpResponse:
    """Return the page for a browser. It is rendered without the request, whose user would cost queries."""
    text = f"Too many sign-ins have failed. Try again in {seconds:,} seconds."
    answer = render(None, "admin/message.html", {"title": "Too many attempts", "text": text}, status=429)
    answer["Retry-After"] = str(seconds)
    return answer


def _authenticates(request: HttpRequest, view: Any) -> bool:
    return _is_login(request) or bool(getattr(getattr(view, "cls", None), "authentication_classes", ()))


def _is_login_by_password(request: HttpRequest) -> bool:
    return request.method == "POST" and request.path_info == "/admin/login/"


def _is_login(request: HttpRequest) -> bool:
    return _is_login_by_password(request) or request.path_info == "/admin/oidc/callback/"


def _is_failed_login(request: HttpRequest, response: HttpResponse) -> bool:
    form_again = request.method == "POST" and response.status_code == 200
    return _is_login(request) and (form_again or getattr(response, "is_refusal", False))


@lru_cache
def read_rate(rate: str) -> tuple[int, int]:
    """Return the number of requests and the seconds of a rate such as `600/minute`."""
    number, _, unit = rate.partition("/")
    return int(number), SECONDS[unit]


def identity(request: Request) -> str:
    """Return the key that a caller is counted by: the robot or the user, whatever the token, else the address."""
    caller: Any = request.user
    if caller.robot:
        return f"robot {caller.robot}"
    if caller.is_authenticated:
        return f"user {caller.pk}"
    return address_key(request)


def address_key(request: HttpRequest | Request) -> str:
    return f"address {network(client_address(request))}"
