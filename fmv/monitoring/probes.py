"""What probes and Prometheus ask of a web server: /livez, /readyz, /metrics."""

import threading
import time
from collections.abc import Callable

import kombu
import pymongo
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pymongo.errors import PyMongoError

from fmv.mongodb.server import server_now
from fmv.monitoring.metrics import exposition
from fmv.monitoring.servers import PATIENCE, ask_broker

CLOCK_SKEW = 5.0  # seconds of difference between this machine's clock and MongoDB's that are worth a line


def livez(request: HttpRequest) -> HttpResponse:
    """Answer as long as the process can answer at all."""
    return HttpResponse("OK", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """Answer 200 when MongoDB and the broker do, else 503 with a line for each that does not; within 3 seconds.

    A clock that is wrong gets a line too, but the server stays ready: no promise rests on it, only the ids' order,
    and taking every web server out of service would mend no clock.
    """
    broker = _Beside(_ask_broker)
    lines = {"mongodb": _ask_mongodb(), "broker": broker.answer()}
    status = 200 if set(lines.values()) == {"OK"} else 503
    if lines["mongodb"] == "OK" and (skew := _clock_skew()):
        lines["clock"] = f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} MongoDB's"
    text = "".join(f"{name}: {line}\n" for name, line in lines.items())
    return HttpResponse(text, status=status, content_type="text/plain")


def metrics(request: HttpRequest) -> HttpResponse:
    """Answer with all metrics in Prometheus' text format."""
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_PLAIN_0_0_4)


def _ask_mongodb() -> str:
    try:
        with pymongo.timeout(PATIENCE):
            server_now()
    except (PyMongoError, DatabaseError) as error:
        return f"cannot be reached: {type(error).__name__}"
    return "OK"


def _clock_skew() -> float:
    """Return the seconds that our clock is ahead of MongoDB's, as far as they are worth telling; else 0."""
    try:
        with pymongo.timeout(PATIENCE / 2):
            before = timezone.now()
            theirs = server_now()
            ours = before + (timezone.now() - before) / 2
    except (PyMongoError, DatabaseError):
        return 0.0
    skew = (ours - theirs).total_seconds()
    return skew if abs(skew) > CLOCK_SKEW else 0.0


def _ask_broker() -> str:
    try:
        ask_broker()
    except (kombu.exceptions.KombuError, OSError, PyMongoError) as error:
        return f"cannot be reached: {type(error).__name__}"
    return "OK"


class _Beside:
    """Asks in a thread of its own, which is left behind when the answer takes too long: looking up a host name may."""

    def __init__(self, ask: Callable[[], str]) -> None:
        self._said = f"no answer within {PATIENCE:g} s"
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._run, args=(ask,), daemon=True)
        self._thread.start()

    def _run(self, ask: Callable[[], str]) -> None:
        self._said = ask()

    def answer(self) -> str:
        self._thread.join(max(0.0, self._begun + PATIENCE + 0.5 - time.monotonic()))
        return self._said
