"""What Celery worker processes need besides jobs: safe forks, and a stop that hands running tasks back."""

import logging
import os
import signal
import threading
import time
from typing import Any

from celery import signals
from django.conf import settings
from django.db import connections

from tasks.execution import INTERRUPT, KILL_GRACE

logger = logging.getLogger(__name__)

_pool: Any = None


@signals.worker_process_init.connect
def on_fork(**_: Any) -> None:
    """In a new pool process: drop the MongoClient of the parent, and let interrupts find nothing to interrupt."""
    for connection in connections.all():
        connection.close_pool()
    signal.signal(INTERRUPT, signal.SIG_IGN)


@signals.worker_ready.connect
def on_ready(sender: Any, **_: Any) -> None:
    global _pool  # noqa: PLW0603 - Celery tells of the pool here only, and of the stop elsewhere
    _pool = sender.pool


@signals.worker_shutting_down.connect
def on_stop(**_: Any) -> None:
    """On SIGTERM Celery takes no more work and waits for what runs; after FMV_STOP_GRACE seconds we end that too."""
    threading.Thread(target=_end_running, name="stop", daemon=True).start()


def _end_running() -> None:
    """Interrupt the pool's processes each second, so that their tasks are handed back; kill those that ignore it."""
    time.sleep(settings.FMV_STOP_GRACE)
    kill_at = time.monotonic() + KILL_GRACE
    while True:
        for pid in _pool.info["processes"] if _pool else ():
            try:
                os.kill(pid, INTERRUPT if time.monotonic() < kill_at else signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(1)
