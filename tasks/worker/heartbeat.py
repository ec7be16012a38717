"""The heartbeat of a worker process, from which others see that it is alive (tasks.reports.fleet)."""

import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pymongo
from django.db import DatabaseError
from pymongo.errors import PyMongoError

from fmv.mongodb.expressions import Now
from fmv.mongodb.server import server_now
from tasks import registry
from tasks.models.worker_process import WorkerProcess, worker_name

logger = logging.getLogger(__name__)

INTERVAL = 10.0  # seconds between two heartbeats
WRITE_TIMEOUT = 5.0  # seconds that MongoDB has to take a heartbeat
SIGN_OFF_TIMEOUT = 2.0  # seconds that it has to take the last one, while the process waits


class Heartbeat(threading.Thread):
    """Writes every INTERVAL seconds that this process is alive, busy or idle. Outages of MongoDB do not end it."""

    def __init__(self, node: str, queues: Iterable[str]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._process, self._node, self._queues = worker_name(os.getpid()), node, sorted(queues)
        self._over = threading.Event()
        self._failing = False

    def run(self) -> None:
        write: Callable[[], object] = self._sign_on
        while not self._over.is_set():
            if self._written(write):
                write = self._beat
            self._over.wait(INTERVAL)

    def sign_off(self) -> None:
        """Write that this process stops. If that fails, it counts as lost."""
        self._over.set()
        self._written(lambda: self._document().update(seen_at=Now(), stopped_at=Now()), SIGN_OFF_TIMEOUT)

    def _document(self) -> Any:
        return WorkerProcess.objects.filter(pk=self._process)

    def _sign_on(self) -> None:
        """Write the whole document, which replaces that of an earlier process of this worker with the same pid."""
        now = server_now()
        handlers = [handler.versioned_name for handler in registry.all_handlers()]
        WorkerProcess(
            name=self._process,
            node=self._node,
            queues=self._queues,
            handlers=handlers,
            started_at=now,
            seen_at=now,
        ).save()

    def _beat(self) -> None:
        if not self._document().update(seen_at=Now()):  # deleted, because this machine slept for a day
            self._sign_on()

    def _written(self, write: Callable[[], object], timeout: float = WRITE_TIMEOUT) -> bool:
        try:
            with pymongo.timeout(timeout):
                write()
        except (PyMongoError, DatabaseError) as error:
            if not self._failing:
                logger.warning("The heartbeat of %s does not reach MongoDB; trying again: %r", self._process, error)
            self._failing = True
            return False
        self._failing = False
        return True
