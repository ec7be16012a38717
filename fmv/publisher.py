"""Sends messages to the broker from one thread of each process, so that no request, worker or beat waits for a broker.

A broker can be down, silent, stopped, or block all who publish, as RabbitMQ does while its memory or disk runs low.
Then the thread waits, and messages are lost. That is allowed: messages only say where to look, MongoDB holds the truth,
and the periodic steps send them again.
"""

import atexit
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from amqp.exceptions import AMQPError
from django.conf import settings
from django.dispatch import Signal
from kombu.exceptions import KombuError, OperationalError

from fmv.celery import app

logger = logging.getLogger(__name__)

TIMEOUT = 2.0  # seconds for each answer of the broker: to connect, to confirm a message
CAPACITY = 10_000  # messages that may wait to be sent
FULL_TIMEOUT = 0.5  # seconds to wait for room, while the broker takes messages
THREAD = "publisher"  # name of the thread
FLUSH_TIMEOUT = 2.0  # seconds that a process waits at its end for its last messages to be sent
ERRORS = (AMQPError, KombuError, OSError)
MAX_EXPIRING = 1000  # messages in a queue that drops none by age; beyond it, none is sent that would expire

messages_lost = Signal()  #: sent with `count` when the broker did not take messages


class BrokerBlocked(KombuError):
    """It blocks all who send, because its memory or disk runs low."""

    def __init__(self) -> None:
        super().__init__(self.__doc__)


class Publisher:
    """The queue of messages of this process, and the thread that sends them, one after the other."""

    def __init__(self) -> None:
        self._reset()
        os.register_at_fork(after_in_child=self._reset)
        atexit.register(self.flush)

    def _reset(self) -> None:
        #: why the broker did not take the last message; "" if it did
        self.problem = ""
        self._jobs: queue.Queue[tuple[Callable[[], Any], Future[Any] | None]] = queue.Queue(CAPACITY)
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._connection: Any = None
        self._blocked = False
        self._confirmed_at = float("-inf")  # by time.monotonic()

    def send(self, name: str, arguments: Sequence[Any] = (), **options: Any) -> None:
        """Send the message later, in the thread. `options` are those of Celery's `send_task`.

        If too many messages wait, it is lost at once, or after FULL_TIMEOUT seconds if the broker took the last one.
        """
        options = {"ignore_result": True, "retry": False, "confirm_timeout": TIMEOUT} | options
        try:
            self._put(lambda: self._send(name, arguments, options), None)
        except queue.Full:
            messages_lost.send(self, count=1)

    def ask(self) -> "Future[str]":
        """Return the future of the broker's product and version; it fails with one of ERRORS if no message is taken.

        Messages that no queue gets are sent to find out, unless another was taken within TIMEOUT seconds.
        """
        answer: Future[str] = Future()
        self._put(self._ask, answer)
        return answer

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> bool:
        """Wait until all messages are sent or lost, at most `timeout` seconds; return whether they are."""
        with self._jobs.all_tasks_done:
            return self._jobs.all_tasks_done.wait_for(lambda: not self._jobs.unfinished_tasks, timeout)

    def disconnect(self) -> None:
        """Send what waits, and close the connection; the next message opens one to `app.conf.broker_url`."""
        self.flush()
        self._drop_connection()

    def _put(self, job: Callable[[], Any], answer: "Future[Any] | None") -> None:
        self._jobs.put((job, answer), block=not self.problem, timeout=FULL_TIMEOUT)
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
                self._thread.start()

    # --- In the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            job, answer = self._jobs.get()
            try:
                done = self._tried_twice(job)
                self.problem = ""
                if answer is not None:
                    answer.set_result(done)
            except ERRORS as error:
                self._fail(error, answer)
            except Exception as error:
                logger.exception("A message could not be made")
                if answer is not None:
                    answer.set_exception(error)
            finally:
                self._jobs.task_done()

    def _tried_twice(self, job: Callable[[], Any]) -> Any:
        """Do the job; if the broker has closed the connection since the last one, on a new connection."""
        had_connection = self._connection is not None
        try:
            return self._done(job)
        except ERRORS as error:
            if not had_connection or self._blocked or isinstance(error, TimeoutError):
                raise
            self._drop_connection()
            return self._done(job)

    def _done(self, job: Callable[[], Any]) -> Any:
        """Do the job. What the client of the development broker raises becomes one of ERRORS."""
        try:
            return job()
        except ERRORS:
            raise
        except app.connection_for_write().connection_errors as error:
            kind = TimeoutError if isinstance(error.__context__, TimeoutError) else OperationalError
            raise kind(str(error)) from error

    def _fail(self, error: Exception, answer: "Future[Any] | None") -> None:
        """Give up this job and all that wait: they would only wait for the same broker."""
        if self._blocked:  # the connection stays, to hear of the end of the alarm
            error = BrokerBlocked()
        else:
            self._drop_connection()
        reason = str(error) or type(error).__name__
        if not self.problem:
            logger.warning("The broker takes no messages: %s", reason)
        self.problem = reason
        given_up = [answer]
        with contextlib.suppress(queue.Empty):
            while True:
                given_up.append(self._jobs.get_nowait()[1])
                self._jobs.task_done()
        for each in given_up:
            if each is not None:
                each.set_exception(error)
        if lost := given_up.count(None):
            messages_lost.send(self, count=lost)

    def _producer(self) -> Any:
        """Return a producer on the thread's connection. Raises one of ERRORS while the broker takes no messages."""
        if self._connection is None:
            options = {
                "confirm_publish": True,
                "max_retries": 1,
                "on_blocked": self._on_blocked,
                "on_unblocked": lambda: setattr(self, "_blocked", False),
            }
            connection = app.connection_for_write(connect_timeout=TIMEOUT, transport_options=options)
            others = max(0, len(connection.alt) - 1)  # if the URL names more than one server
            established = connection.ensure_connection(max_retries=others, interval_start=0).connection
            if hasattr(established, "sock"):
                established.sock.settimeout(TIMEOUT)  # for answers, too, for which py-amqp knows no timeout
            self._connection = connection
        if self._blocked:
            with contextlib.suppress(TimeoutError):
                while True:
                    self._connection.drain_events(timeout=0)
            if self._blocked:
                raise BrokerBlocked
        return app.amqp.Producer(self._connection, auto_declare=False)

    def _send(self, name: str, arguments: Sequence[Any], options: dict[str, Any]) -> None:
        producer = self._producer()
        if not (options.get("expiration") and self._keeps_too_many(options["queue"])):
            app.send_task(name, arguments, producer=producer, **options)
        self._confirmed_at = time.monotonic()

    def _keeps_too_many(self, queue: str) -> bool:
        """Return whether a queue has MAX_EXPIRING messages of a broker that, other than AMQP, drops none by its age."""
        if self._connection.transport.driver_type == "amqp":
            return False
        return bool(self._connection.default_channel.queue_declare(queue).message_count >= MAX_EXPIRING)

    def _ask(self) -> str:
        producer = self._producer()
        if time.monotonic() - self._confirmed_at > TIMEOUT:
            exchange = settings.CELERY_TASK_QUEUES[0].exchange
            options = {"retry": False, "confirm_timeout": TIMEOUT, "delivery_mode": "transient"}
            for _ in range(2):  # RabbitMQ takes the first message of a new connection even during an alarm
                producer.publish("", exchange=exchange, routing_key="fmv.nobody", declare=[exchange], **options)
            self._confirmed_at = time.monotonic()
        about = getattr(self._connection.connection, "server_properties", {})
        return f"{about.get('product', 'Valkey')} {about.get('version', '')}".strip()

    def _on_blocked(self, reason: str) -> None:
        self._blocked = True
        raise BrokerBlocked  # out of the wait for a confirmation that will not come

    def _drop_connection(self) -> None:
        """Close the connection without a farewell, for which a broker that does not read would let it wait."""
        connection, self._connection, self._blocked = self._connection, None, False
        if connection is not None:
            with contextlib.suppress(*ERRORS):
                connection.collect()


publisher = Publisher()
