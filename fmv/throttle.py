"""How many requests a caller may make: FMV_THROTTLE_READ, FMV_THROTTLE_WRITE."""

import datetime as dt
import math
import time
from functools import lru_cache
from typing import Any

from django.conf import settings
from rest_framework.permissions import SAFE_METHODS
from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from fmv.address import client_address, network
from fmv.models import ThrottleWindow
from fmv.mongodb.counting import increment

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


class Throttle(BaseThrottle):
    """Counts each caller's requests in fixed windows, in MongoDB: one number for all web servers.

    At a window's end a caller may come twice as often for a moment; that is the price of one write a request.
    """

    def allow_request(self, request: Request, view: Any) -> bool:
        kind = "read" if request.method in SAFE_METHODS else "write"
        rate = settings.FMV_THROTTLE_READ if kind == "read" else settings.FMV_THROTTLE_WRITE
        if not rate:
            return True
        limit, seconds = read_rate(rate)
        now = time.time()
        end = (now // seconds + 1) * seconds
        self._wait = math.ceil(end - now)
        key = f"{identity(request)} {kind} {end:.0f}"
        expires_at = dt.datetime.fromtimestamp(end, dt.UTC)
        return increment(ThrottleWindow, key, "count", expires_at=expires_at) <= limit

    def wait(self) -> float:
        return max(1, self._wait)


@lru_cache
def read_rate(rate: str) -> tuple[int, int]:
    """Return how many requests in how many seconds: `600/minute`."""
    number, _, unit = rate.partition("/")
    return int(number), SECONDS[unit]


def identity(request: Request) -> str:
    """Name the caller: the user, who would gain nothing by more tokens or sessions, else the address."""
    if request.user.is_authenticated:
        return f"user {request.user.pk}"
    return f"address {network(client_address(request))}"
