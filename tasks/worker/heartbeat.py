"""Which workers are alive: every process that runs tasks says so, busy or idle, and the fleet is read from that."""

import logging
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pymongo
from django.db import DatabaseError
from pymongo.errors import PyMongoError

from fmv.mongodb.expressions import Now
from fmv.mongodb.server import server_now
from tasks.models import Task
from tasks.models.worker_process import WorkerProcess, worker_name

logger = logging.getLogger(__name__)

EVERY = 10.0  # seconds between two heartbeats
PATIENCE = 5.0  # seconds that MongoDB has to take one
FAREWELL = 2.0  # seconds that a process which ends waits for MongoDB
MOST = 500  # processes that a fleet's view holds, of the alive and of the lost
SHOWN = ("id", "robot", "handler", "worker", "progress", "message", "started_at", "attempt")


class Heart(threading.Thread):
    """Says every few seconds that this process is alive, whatever it runs. Trouble with MongoDB is waited out."""

    def __init__(self, node: str, queues: Iterable[str]) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._process, self._node, self._queues = worker_name(os.getpid()), node, sorted(queues)
        self._over = threading.Event()
        self._failing = False

    def run(self) -> None:
        beat = self._appear
        while not self._over.is_set():
            if self._reaches_mongodb(beat):
                beat = self._beat
            self._over.wait(EVERY)

    def sign_off(self) -> None:
        """Say that this process ends as it should: FAREWELL seconds at most, and without MongoDB it counts as lost."""
        self._over.set()
        self._reaches_mongodb(lambda: self._me().update(seen_at=Now(), stopped_at=Now()), FAREWELL)

    def _me(self) -> Any:
        return WorkerProcess.objects.filter(pk=self._process)

    def _appear(self) -> None:
        """Write the whole document, also over that of an earlier process with the same number."""
        now = server_now()
        WorkerProcess(name=self._process, node=self._node, queues=self._queues, started_at=now, seen_at=now).save()

    def _beat(self) -> None:
        if not self._me().update(seen_at=Now()):  # forgotten: the machine slept for a day
            self._appear()

    def _reaches_mongodb(self, write: Any, patience: float = PATIENCE) -> bool:
        try:
            with pymongo.timeout(patience):
                write()
        except (PyMongoError, DatabaseError) as error:
            if not self._failing:
                logger.warning("No heartbeat of %s reaches MongoDB, and it goes on trying: %r", self._process, error)
            self._failing = True
            return False
        self._failing = False
        return True


# --- The fleet -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Worker:
    """A process, and what it runs now and for how long: the fields SHOWN of a task, or None."""

    process: WorkerProcess
    task: dict[str, Any] | None
    seconds: float = 0


@dataclass(frozen=True)
class Fleet:
    """The processes that are alive, by node and name, and those lost within a day, the latest first; MOST of each."""

    workers: list[Worker]
    lost: list[WorkerProcess]

    @property
    def busy(self) -> int:
        return sum(worker.task is not None for worker in self.workers)

    def serves(self, queue: str) -> bool:
        """Tell whether anybody takes messages from this queue."""
        return any(queue in worker.process.queues for worker in self.workers)


def fleet() -> Fleet:
    """Return who is alive and what each runs: four round trips, the clock's among them."""
    now = server_now()
    alive = sorted(WorkerProcess.objects.alive(now)[:MOST], key=lambda process: (process.node, process.name))
    runs = {
        task["worker"]: task
        for task in Task.objects.run_by_any([process.name for process in alive]).values(*SHOWN)[:MOST]
    }
    workers = []
    for process in alive:
        task = runs.get(process.name)
        seconds = (now - task["started_at"]).total_seconds() if task and task["started_at"] else 0
        workers.append(Worker(process, task, seconds))
    return Fleet(workers, lost=list(WorkerProcess.objects.lost(now)[:MOST]))
