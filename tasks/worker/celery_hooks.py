"""Hooks into Celery's workers: safe forks, and a stop that releases running tasks."""

import contextlib
import faulthandler
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

from fmv.celery import app
from fmv.mongodb.migration_state import wait_for_migrations
from fmv.mongodb.server import forget_clients
from fmv.publisher import publisher
from tasks.models.worker_process import worker_name
from tasks.queue.doorbell import report_worker_lost, ring
from tasks.worker import process_end
from tasks.worker.heartbeat import Heartbeat
from tasks.worker.lease import INTERRUPT, KILL_GRACE

logger = logging.getLogger(__name__)

#: Seconds for a new pool process to be prepared. Celery waits without a limit for those with which a worker starts.
PREPARE_TIMEOUT = 20.0
RECONNECT = 2.0  # seconds at most between two attempts to reach the broker; Celery's own pauses grow to 30 s


@signals.worker_init.connect
def no_delayed_delivery(**_: Any) -> None:
    """Do not let Celery declare its 28 exchanges and queues for ETA messages: FMV sends none."""
    blueprint: Any = celery.worker.consumer.Consumer.Blueprint
    blueprint.default_steps = [step for step in blueprint.default_steps if not step.endswith(":DelayedDelivery")]


@signals.worker_init.connect
def migrations_first(**_: Any) -> None:
    """Let workers wait for the migrations: what they write before would be stored without its indexes."""
    wait_for_migrations()


@signals.worker_process_init.connect
def on_fork(sender: str, **_: Any) -> None:
    """Prepare a new pool process of the worker `sender`, or end it: Celery only logs what this raises, and would give
    tasks to a process without a heartbeat. One that is stuck ends with its traceback, and the pool starts another.
    """
    faulthandler.dump_traceback_later(PREPARE_TIMEOUT, exit=True, file=2)
    try:
        prepare(sender)
    except BaseException:
        logger.exception("A process of the worker cannot be prepared, so it ends")
        os._exit(1)
    faulthandler.cancel_dump_traceback_later()


def prepare(sender: str) -> None:
    """Drop the MongoClient of the parent, ignore interrupts until a task runs, start the heartbeat, and let this
    process end by itself when it has to.
    """
    process_end.prepare()
    end_without_parent()
    forget_clients()
    signal.signal(INTERRUPT, signal.SIG_IGN)
    heartbeat = Heartbeat(sender, app.amqp.queues.consume_from)
    heartbeat.start()
    signals.worker_process_shutdown.connect(lambda **_: heartbeat.sign_off(), weak=False)
    signals.worker_process_shutdown.connect(lambda **_: publisher.flush(), weak=False)


@signals.beat_init.connect
def on_beat(**_: Any) -> None:
    """End an embedded beat together with its worker, even a killed one. Celery does so for pool processes only.

    Then wait for the migrations as workers do: this may last for as long as MongoDB does not answer.
    """
    if current_process()._parent_pid is not None:  # type: ignore[attr-defined]  # embedded
        forget_clients()
        celery.platforms.set_pdeathsig("SIGKILL")  # type: ignore[attr-defined]
        end_without_parent()
    wait_for_migrations()


def end_without_parent() -> None:
    """End this process if its parent was killed before the two were tied to each other."""
    parent: int | None = current_process()._parent_pid  # type: ignore[attr-defined]  # None: not a child process
    if parent not in (None, os.getppid()):
        os._exit(1)


class Consumer(celery.worker.consumer.Consumer):
    """Celery's consumer without its own heartbeat, gossip and greeting: FMV reads none of them, and the worker's main
    loop, which sends them, would wait for a broker that takes no messages.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        silent = {"without_heartbeat": True, "without_gossip": True, "without_mingle": True}
        super().__init__(*args, **options | silent)

    def ensure_connected(self, conn: Any) -> Any:
        conn.ensure_connection = functools.partial(conn.ensure_connection, interval_max=RECONNECT)
        return super().ensure_connected(conn)


class Request(celery.worker.request.Request):
    """A message for `run_next` in the main process of the worker. If the process that handles it dies, this ends the
    child processes of its task, and reports the death.
    """

    def on_failure(self, exc_info: Any, *args: Any, **kwargs: Any) -> None:
        super().on_failure(exc_info, *args, **kwargs)
        pid = int(self.worker_pid or 0)
        if pid and isinstance(getattr(exc_info.exception, "exc", exc_info.exception), WorkerLostError):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            report_worker_lost(worker_name(pid), self.id)
            ring(self.args[0])  # it may have died after its task had ended, before it looked for the robot's next


@signals.worker_shutting_down.connect
def on_stop(**_: Any) -> None:
    """Release running tasks FMV_STOP_GRACE seconds after SIGTERM. Celery itself would wait for them without a limit."""
    threading.Thread(target=_end_running, name="stop", daemon=True).start()


def _end_running() -> None:
    """Interrupt, each second, the processes that run a task, so that they release it; kill those that ignore this.

    An idle process is never signalled: it may hold the lock of the pool's pipe, and then the pool would never end.
    """
    time.sleep(settings.ENVIRONMENT.stop_grace)
    kill_at = time.monotonic() + KILL_GRACE
    while True:
        for request in tuple(celery.worker.state.active_requests):
            with contextlib.suppress(ProcessLookupError):
                if request.worker_pid:
                    os.kill(request.worker_pid, INTERRUPT if time.monotonic() < kill_at else signal.SIGKILL)
        time.sleep(1)
