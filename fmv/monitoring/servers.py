"""Whether MongoDB and the broker answer: the one place that asks, for /readyz, admin pages and `manage.py doctor`."""

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import kombu
import pymongo
from django.conf import settings
from django.db import DatabaseError
from django.utils import timezone
from pymongo.errors import PyMongoError

from fmv.deadline import call_in_thread
from fmv.mongodb.server import database, server_now

TIMEOUT = 2.0  # seconds that a server has to answer
INTERVAL = 10.0  # seconds between two requests to the same server on behalf of pages
FIRST_ANSWER_TIMEOUT = 0.5  # seconds that a page waits for the first answer


class Unreachable(Exception):
    """A server does not answer. The message is the reason on one line, `kind` the name of the client's exception."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(reason(error))
        self.kind = type(error).__name__


def reason(error: BaseException) -> str:
    """Return the error's message on one line, without PyMongo's account of its own settings."""
    text = (
        " ".join((str(error) or str(error.__cause__ or "")).split())
        .partition(" (configured timeouts")[0]
        .partition(", Timeout:")[0]
    )
    return text.partition(", full error:")[0][:300] or type(error).__name__


@dataclass(frozen=True)
class MongoDB:
    """MongoDB's answers to its commands `buildInfo` and `hello`."""

    build: dict[str, Any]
    hello: dict[str, Any]

    def __str__(self) -> str:
        return f"MongoDB {self.build['version']}"


def ask_mongodb() -> MongoDB:
    """Return what MongoDB says about itself within TIMEOUT seconds. Raises Unreachable."""
    try:
        with pymongo.timeout(TIMEOUT):
            return MongoDB(database().command("buildInfo"), database().command("hello"))
    except (PyMongoError, DatabaseError) as error:
        raise Unreachable(error) from error


def clock_skew() -> float:
    """Return the seconds by which this machine's clock is ahead of MongoDB's. Raises PyMongoError."""
    before = timezone.now()
    theirs = server_now()
    return (before + (timezone.now() - before) / 2 - theirs).total_seconds()


def skew_text(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} MongoDB's"


def ask_broker() -> str:
    """Return the broker's product and version.

    Raises Unreachable after TIMEOUT seconds without an answer; looking up its host name may take longer.
    """
    url: str = settings.CELERY_BROKER_URL
    try:
        if url.startswith("mongodb"):  # Kombu's transport for it has no timeouts
            with pymongo.MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=int(TIMEOUT * 1000)) as client:
                return f"MongoDB {client.admin.command('buildInfo')['version']}"
        with rabbitmq() as broker:
            about = getattr(broker, "server_properties", {})
            return f"{about.get('product', 'Broker')} {about.get('version', '')}".strip()
    except (kombu.exceptions.KombuError, PyMongoError, OSError) as error:
        raise Unreachable(error) from error


@contextlib.contextmanager
def rabbitmq() -> Iterator[Any]:
    """Yield a connection of py-amqp to the broker that waits TIMEOUT seconds for an answer. Raises KombuError."""
    timeouts = {"read_timeout": TIMEOUT, "write_timeout": TIMEOUT}
    broker = kombu.Connection(settings.CELERY_BROKER_URL, connect_timeout=TIMEOUT, transport_options=timeouts)
    try:
        established = broker.transport.establish_connection()
        yield established
        broker.transport.close_connection(established)
    except broker.connection_errors + broker.channel_errors as error:
        raise kombu.exceptions.OperationalError(str(error)) from error


# --- For pages -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Health:
    """A server's last answer or failure. `since` is when this process first saw that state, None while unknown."""

    title: str
    state: str = "unknown"  # "ok", "error" or "unknown"
    text: str = "being asked"
    since: dt.datetime | None = None


class Server:
    """A server whose health is cached for INTERVAL seconds and asked for in a thread, so that no page waits for it.

    `ask` returns something whose text names the server's version, or raises Unreachable.
    """

    def __init__(self, title: str, ask: Callable[[], object]) -> None:
        self._title, self._ask = title, ask
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Empty the cache."""
        self._health = Health(self._title)
        self._answered = threading.Event()  # at least once
        self._request: Future[None] | None = None
        self._next = self._begun = 0.0  # by time.monotonic()

    @property
    def is_asking(self) -> bool:
        return self._request is not None and not self._request.done()

    def health(self) -> Health:
        """Return the cached health; the first call waits up to FIRST_ANSWER_TIMEOUT for an answer."""
        if time.monotonic() >= self._next:
            self.ask_now()
        self._answered.wait(FIRST_ANSWER_TIMEOUT)
        silent = time.monotonic() - self._begun
        if self.is_asking and silent > 2 * TIMEOUT:
            return replace(self._health, state="error", text=f"Has not answered for {silent:.0f} s", since=None)
        return self._health

    def ask_now(self) -> None:
        """Ask the server, unless a request to it is under way."""
        with self._lock:
            if not self.is_asking:
                self._begun = time.monotonic()
                self._request = call_in_thread(self._renew, "health")

    def _renew(self) -> None:
        begun = time.monotonic()
        try:
            version = self._ask()
            text, state = f"{version}, answers in {1000 * (time.monotonic() - begun):.0f} ms", "ok"
        except Unreachable as error:
            text, state = f"Does not answer: {error}", "error"
        before = self._health
        since = before.since if before.state == state else timezone.now()
        self._health = replace(before, state=state, text=text, since=since)
        self._next = time.monotonic() + INTERVAL
        self._answered.set()


mongodb = Server("Database", ask_mongodb)
broker = Server("Broker", ask_broker)
