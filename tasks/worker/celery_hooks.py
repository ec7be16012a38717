"""What Celery worker processes need besides jobs: safe forks, and a stop that hands running tasks back."""

import contextlib
import functools
import logging
import os
import signal
import threading
import time
from typing import Any

import celery.platforms
import celery.worker.consumer
import celery.worker.request
import celery.worker.state
from billiard.exceptions import WorkerLostError
from billiard.process import current_process
from celery import signals
from django.conf import settings
from pymongo.errors import CollectionInvalid

from fmv.celery import app
from fmv.mongodb.server import forget_clients
from tasks.models.worker_process import worker_name
from tasks.queue.doorbell import report_worker_lost
from tasks.worker.heartbeat import Heartbeat
from tasks.worker.lease import INTERRUPT, KILL_GRACE

logger = logging.getLogger(__name__)

RECONNECT = 2.0  # seconds between two looks for a broker that is away; Celery's own pauses grow to half a minute


@signals.worker_init.connect
def no_delayed_delivery(**_: Any) -> None:
    """Keep Celery from declaring its 28 exchanges and queues for ETA messages: we send none."""
    blueprint: Any = celery.worker.consumer.Consumer.Blueprint
    blueprint.default_steps = [step for step in blueprint.default_steps if not step.endswith(":DelayedDelivery")]


@signals.worker_process_init.connect
def on_fork(sender: str, **_: Any) -> None:
    """In a new pool process of the worker `sender`: drop the MongoClient of the parent, let interrupts find nothing to
    interrupt, and begin to say that it is alive."""
    end_without_parent()
    forget_clients()
    signal.signal(INTERRUPT, signal.SIG_IGN)
    heartbeat = Heartbeat(sender, app.amqp.queues.consume_from)
    heartbeat.start()
    signals.worker_process_shutdown.connect(lambda **_: heartbeat.sign_off(), weak=False)


@signals.beat_embedded_init.connect
def on_beat(**_: Any) -> None:
    """End an embedded beat with its worker, a killed one too; Celery does so for pool processes only."""
    celery.platforms.set_pdeathsig("SIGKILL")  # type: ignore[attr-defined]
    end_without_parent()


def end_without_parent() -> None:
    """End a process whose parent was killed before the two were tied to each other."""
    parent: int | None = current_process()._parent_pid  # type: ignore[attr-defined]  # None: this is no child
    if parent not in (None, os.getppid()):
        os._exit(1)


class Consumer(celery.worker.consumer.Consumer):
    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = functools.partial(conn.ensure_connection, interval_max=RECONNECT)
        try:
            return super().ensure_connected(conn)
        except CollectionInvalid:  # another worker has just created this collection of Kombu's in a MongoDB broker
            return super().ensure_connected(conn)


class Request(celery.worker.request.Request):
    """A doorbell in the worker's main process, which is told when the pool process that took it dies."""

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> None:
        super().on_failure(exc_info, *args, **kwargs)
        if isinstance(getattr(exc_info.exception, "exc", exc_info.exception), WorkerLostError):
            report_worker_lost(worker_name(int(self.worker_pid or 0)), self.id)


@signals.worker_shutting_down.connect
def on_stop(**_: Any) -> None:
    """On SIGTERM Celery takes no more work and waits for what runs; after FMV_STOP_GRACE seconds we end that too."""
    threading.Thread(target=_end_running, name="stop", daemon=True).start()


def _end_running() -> None:
    """Interrupt each second the processes that still run something, so that their tasks are handed back; kill those
    that ignore it. Never an idle one: it may hold the lock of the pool's pipe, and the pool then never ends."""
    time.sleep(settings.FMV_STOP_GRACE)
    kill_at = time.monotonic() + KILL_GRACE
    while True:
        for request in tuple(celery.worker.state.active_requests):
            with contextlib.suppress(ProcessLookupError):
                if request.worker_pid:
                    os.kill(request.worker_pid, INTERRUPT if time.monotonic() < kill_at else signal.SIGKILL)
        time.sleep(1)
