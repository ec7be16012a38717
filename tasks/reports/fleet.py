"""The fleet of worker processes: which are alive and what each runs, and which were lost."""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from fmv.mongodb.server import recent_now
from tasks.models import Status, Task, WorkerProcess
from tasks.reports.queue_stats import unfinished

MAX_PROCESSES = 500  # of those that are alive, and of those that were lost
TASK_FIELDS = ("id", "robot", "handler", "worker", "progress", "message", "started_at", "attempt")


@dataclass(frozen=True)
class Worker:
    """A process, the TASK_FIELDS of the task that it runs, or None, and for how many seconds it has run it."""

    process: WorkerProcess
    task: dict[str, Any] | None
    seconds: float = 0

    @property
    def known_handlers(self) -> list[str]:
        """The handlers that it runs, each as name@version; none if it does not take tasks."""
        return (self.process.handlers or []) if "work" in self.process.queues else []


@dataclass(frozen=True)
class Fleet:
    """The processes that are alive, by node and name, and those lost within a day, the latest first."""

    workers: list[Worker]
    lost: list[WorkerProcess]

    @property
    def busy(self) -> int:
        return sum(worker.task is not None for worker in self.workers)

    @property
    def known_handlers(self) -> set[str]:
        """The handlers that living processes can run, each as name@version."""
        return {handler for worker in self.workers for handler in worker.known_handlers}

    def serves(self, queue: str) -> bool:
        """Return whether a process that is alive takes messages from this queue."""
        return any(queue in worker.process.queues for worker in self.workers)


def unknown_handlers(known: Collection[str] | None = None) -> dict[str, int]:
    """Return the handlers of queued tasks that no living worker knows, with the number of these tasks.

    `known`: what living workers know, each as name@version, if the caller has just read it. Without any worker the
    answer is empty: then not the handlers are missing.
    """
    published = WorkerProcess.objects.known_handlers(recent_now()) if known is None else known
    names = {name.rpartition("@")[0] for name in published}
    waiting = {handler: count for (_, handler), count in unfinished([Status.QUEUED]).items() if handler not in names}
    return waiting if names else {}


def current_fleet() -> Fleet:
    """Return the fleet as it is now, in three round trips."""
    now = recent_now()
    return Fleet(living(now), lost=list(WorkerProcess.objects.lost(now)[:MAX_PROCESSES]))


def living(now: dt.datetime) -> list[Worker]:
    """Return the processes that are alive, by node and name, each with the task that it runs: two round trips."""
    alive = sorted(WorkerProcess.objects.alive(now)[:MAX_PROCESSES], key=lambda process: (process.node, process.name))
    runs = {
        task["worker"]: task
        for task in Task.objects.run_by_any([process.name for process in alive]).values(*TASK_FIELDS)[:MAX_PROCESSES]
    }
    workers = []
    for process in alive:
        task = runs.get(process.name)
        seconds = (now - task["started_at"]).total_seconds() if task and task["started_at"] else 0
        workers.append(Worker(process, task, seconds))
    return workers
