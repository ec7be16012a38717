"""Whether MongoDB and the broker answer: the one place that asks, for /readyz, admin pages and `manage.py doctor`."""

import contextlib
import datetime as dt
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import kombu
import pymongo
from django.db import DatabaseError
from django.utils import timezone
from pymongo.errors import OperationFailure, PyMongoError

from fmv.celery import app
from fmv.deadline import call_in_thread
from fmv.mongodb.migration_state import MigrationState, migration_state
from fmv.mongodb.server import database, server_now
from fmv.publisher import ERRORS, BrokerBlocked, publisher

TIMEOUT = 2.0  # seconds that a server has to answer
INTERVAL = 10.0  # seconds between two requests to the same server on behalf of pages
PROBE_INTERVAL = 1.0  # seconds between two requests to the same server on behalf of /readyz
FIRST_ANSWER_TIMEOUT = 0.5  # seconds that a page waits for the first answer
PROBES = "fmv_probes"  # the collection of the document that is written to see whether MongoDB takes writes


class Unreachable(Exception):
    """A server does not do its work: `verdict`.

    The message is the reason on one line, `kind` the name of the client's exception, which names no addresses.
    """

    def __init__(self, error: BaseException, verdict: str = "cannot be reached") -> None:
        super().__init__(reason(error))
        self.kind, self.verdict = type(error).__name__, verdict


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
    """MongoDB's answers to `buildInfo` and `hello`, the seconds by which our clock is ahead of its, the migrations."""

    build: dict[str, Any]
    hello: dict[str, Any]
    skew: float = 0.0
    migrations: MigrationState | None = None

    def __str__(self) -> str:
        return f"MongoDB {self.build['version']}"


def ask_mongodb() -> MongoDB:
    """Return what MongoDB says about itself, if it takes a write, within TIMEOUT seconds. Raises Unreachable.

    Nothing is written into a database that lacks migrations: `migrate` finds it as it was.
    """
    refusal = "cannot be read"
    try:
        with pymongo.timeout(TIMEOUT):
            build, hello = database().command("buildInfo"), database().command("hello")
            migrations = migration_state()
            answer = MongoDB(build, hello, clock_skew(), migrations)
            if not migrations.missing:
                refusal = "takes no writes"
                database()[PROBES].update_one({"_id": "write"}, [{"$set": {"at": "$$NOW"}}], upsert=True)
    except (PyMongoError, DatabaseError) as error:
        cause = (error.__cause__ if isinstance(error, DatabaseError) else None) or error  # Django wraps PyMongo's
        verdict = refusal if isinstance(cause, OperationFailure) else "cannot be reached"
        raise Unreachable(cause, verdict) from cause
    return answer


def clock_skew() -> float:
    """Return the seconds by which this machine's clock is ahead of MongoDB's. Raises PyMongoError."""
    before = timezone.now()
    theirs = server_now()
    return (before + (timezone.now() - before) / 2 - theirs).total_seconds()


def skew_text(seconds: float) -> str:
    return f"{abs(seconds):.1f} s {'ahead of' if seconds > 0 else 'behind'} MongoDB's"


def ask_broker() -> str:
    """Return the broker's product and version, if it takes messages.

    Raises Unreachable after TIMEOUT seconds without an answer; looking up its host name may take longer.
    """
    try:
        return publisher.ask().result()
    except BrokerBlocked as error:
        raise Unreachable(error, "takes no messages") from error
    except (*ERRORS, queue.Full) as error:
        raise Unreachable(error) from error


@contextlib.contextmanager
def rabbitmq() -> Iterator[Any]:
    """Yield a connection of py-amqp to the broker that waits TIMEOUT seconds for an answer. Raises KombuError."""
    timeouts = {"read_timeout": TIMEOUT, "write_timeout": TIMEOUT}
    broker = kombu.Connection(app.conf.broker_url, connect_timeout=TIMEOUT, transport_options=timeouts)
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
    line: str = "OK"  # for callers who have not signed in: no addresses, no names
    answer: object = None  # of `ask`


class Server:
    """A server whose health is cached and asked for in a thread, so that no page waits and many callers cost as one.

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
        self._begun = float("-inf")  # by time.monotonic()

    @property
    def is_asking(self) -> bool:
        return self._request is not None and not self._request.done()

    def health(self) -> Health:
        """Return the health of the last INTERVAL seconds; the first call waits up to FIRST_ANSWER_TIMEOUT for it."""
        if time.monotonic() >= self._begun + INTERVAL:
            self.ask_now()
        self._answered.wait(FIRST_ANSWER_TIMEOUT)
        silent = time.monotonic() - self._begun
        if self.is_asking and silent > 2 * TIMEOUT:
            return replace(self._health, state="error", text=f"Has not answered for {silent:.0f} s", since=None)
        return self._health

    def begin_probe(self) -> None:
        """Ask the server, unless it was asked in the last PROBE_INTERVAL seconds."""
        if time.monotonic() >= self._begun + PROBE_INTERVAL:
            self.ask_now()

    def probe(self) -> Health:
        """Return the health of the last PROBE_INTERVAL seconds; wait a little more than TIMEOUT seconds for it."""
        self.begin_probe()
        request = self._request
        try:
            if request is not None:
                request.result(TIMEOUT + 0.5)
        except TimeoutError:
            line = f"no answer within {TIMEOUT:g} s"
            return replace(self._health, state="error", text=line.capitalize(), line=line, since=None)
        return self._health

    def ask_now(self) -> None:
        """Ask the server, unless a request to it is under way."""
        with self._lock:
            if not self.is_asking:
                self._begun = time.monotonic()
                self._request = call_in_thread(self._renew, "health")

    def _renew(self) -> None:
        answer, line = None, "OK"
        try:
            answer = self._ask()
            text, state = f"{answer}, answers in {1000 * (time.monotonic() - self._begun):.0f} ms", "ok"
        except Unreachable as error:
            text, state = f"{error.verdict.capitalize()}: {error}", "error"
            line = f"{error.verdict}: {error.kind}"
        before = self._health
        since = before.since if before.state == state else timezone.now()
        self._health = Health(self._title, state, text, since, line, answer)
        self._answered.set()


mongodb = Server("Database", ask_mongodb)
broker = Server("Broker", ask_broker)
