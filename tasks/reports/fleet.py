"""The fleet of worker processes: which are alive and what each runs, and which were lost."""

import datetime as dt
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from fmv.mongodb.server import recent_now
from tasks.models import Status, Task, WorkerProcess
from tasks.reports.queue_stats import unfinished

MAX_PROCESSES = 500  # of those that are alive; with those that were lost, twice as many
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
    """Return the fleet as it is now, in two round trips: the processes, and the tasks that they run."""
    now = recent_now()
    processes = list(WorkerProcess.objects.alive_or_lost(now)[: 2 * MAX_PROCESSES])
    alive = [process for process in processes if process.is_alive(now)]  # the first: they were seen last
    return Fleet(_with_tasks(alive[:MAX_PROCESSES], now), lost=processes[len(alive) :])


def living(now: dt.datetime) -> list[Worker]:
    """Return the processes that are alive, by node and name, each with the task that it runs: two round trips."""
    return _with_tasks(list(WorkerProcess.objects.alive(now)[:MAX_PROCESSES]), now)


def _with_tasks(alive: list[WorkerProcess], now: dt.datetime) -> list[Worker]:
    names = [process.name for process in alive]
    runs = {task["worker"]: task for task in Task.objects.run_by_any(names).values(*TASK_FIELDS)[:MAX_PROCESSES]}
    workers = []
    for process in sorted(alive, key=lambda process: (process.node, process.name)):
        task = runs.get(process.name)
        seconds = (now - task["started_at"]).total_seconds() if task and task["started_at"] else 0
        workers.append(Worker(process, task, seconds))
    return workers
