"""How the servers that FMV leans on are, for pages: asked beside the page, so that a dead one never holds it up."""

import contextlib
import datetime as dt
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, cast

import kombu
import pymongo
from django.conf import settings
from django.db import DatabaseError, connection
from django.utils import timezone
from pymongo.errors import PyMongoError

from fmv.mongodb.base import DatabaseWrapper

EVERY = 10.0  # seconds between two questions to the same server
PATIENCE = 2.0  # seconds that it has to answer
WAIT = 0.5  # seconds that a page waits for the first answer


@dataclass(frozen=True)
class Health:
    """What a server last answered, or what is wrong; `since` when it is as this process knows, None while unknown."""

    title: str
    state: str = "unknown"  # "ok", "error" or "unknown"
    text: str = "being asked"
    since: dt.datetime | None = None


class Watched:
    """A server that is asked at most every EVERY seconds, however many look, and in a thread that nobody waits for.

    `ask` returns the version or raises; it must end by itself, PATIENCE seconds or a name look-up later.
    """

    def __init__(self, title: str, ask: Callable[[], str]) -> None:
        self._title, self._ask = title, ask
        self._lock = threading.Lock()
        self.forget()

    def forget(self) -> None:
        """Know nothing any more."""
        self._health = Health(self._title)
        self._answered = threading.Event()  # at least once
        self._thread: threading.Thread | None = None
        self._next = self._begun = 0.0  # by time.monotonic()

    @property
    def is_asking(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def look(self) -> Health:
        """Return what is known; the first look waits a moment for it."""
        if time.monotonic() >= self._next:
            self.ask_now()
        self._answered.wait(WAIT)
        silent = time.monotonic() - self._begun
        if self.is_asking and silent > 2 * PATIENCE:
            return replace(self._health, state="error", text=f"Has not answered for {silent:.0f} s", since=None)
        return self._health

    def ask_now(self) -> None:
        """Ask, unless that is under way."""
        with self._lock:
            if not self.is_asking:
                self._begun = time.monotonic()
                self._thread = threading.Thread(target=self._look, name="health", daemon=True)
                self._thread.start()

    def _look(self) -> None:
        begun = time.monotonic()
        try:
            version = self._ask()
            text, state = f"{version}, answers in {1000 * (time.monotonic() - begun):.0f} ms", "ok"
        except (PyMongoError, DatabaseError, kombu.exceptions.KombuError, OSError) as error:
            text, state = f"Does not answer: {reason(error)}", "error"
        before = self._health
        since = before.since if before.state == state else timezone.now()
        self._health = replace(before, state=state, text=text, since=since)
        self._next = time.monotonic() + EVERY
        self._answered.set()


def reason(trouble: BaseException) -> str:
    """Return what went wrong on one line, without what PyMongo adds about its own settings."""
    text = " ".join(str(trouble).split()).partition(" (configured timeouts")[0].partition(", Timeout:")[0]
    return text.partition(", full error:")[0][:300] or type(trouble).__name__


def ask_mongodb() -> str:
    """Return which MongoDB answers."""
    with pymongo.timeout(PATIENCE):
        return _mongodb_version(cast(DatabaseWrapper, connection).get_database().client)


def _mongodb_version(client: Any) -> str:
    return f"MongoDB {client.admin.command('buildInfo')['version']}"


def ask_broker() -> str:
    """Return which broker answers."""
    url: str = settings.CELERY_BROKER_URL
    if url.startswith("mongodb"):  # Kombu's transport for it knows no timeouts
        with pymongo.MongoClient[dict[str, Any]](url, serverSelectionTimeoutMS=int(PATIENCE * 1000)) as client:
            return _mongodb_version(client)
    with rabbitmq() as broker:
        about = getattr(broker, "server_properties", {})
        return f"{about.get('product', 'Broker')} {about.get('version', '')}".strip()


@contextlib.contextmanager
def rabbitmq() -> Iterator[Any]:
    """Yields a connection of py-amqp to the broker, which waits PATIENCE seconds for an answer. Raises KombuError."""
    patience = {"read_timeout": PATIENCE, "write_timeout": PATIENCE}
    broker = kombu.Connection(settings.CELERY_BROKER_URL, connect_timeout=PATIENCE, transport_options=patience)
    try:
        established = broker.transport.establish_connection()
        yield established
        broker.transport.close_connection(established)
    except broker.connection_errors + broker.channel_errors as error:
        raise kombu.exceptions.OperationalError(str(error)) from error


database = Watched("Database", ask_mongodb)
broker = Watched("Broker", ask_broker)
