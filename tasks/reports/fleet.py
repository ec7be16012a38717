"""The fleet of worker processes: which are alive and what each runs, and which were lost."""

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


@dataclass(frozen=True)
class Fleet:
    """The processes that are alive, by node and name, and those lost within a day, the latest first."""

    workers: list[Worker]
    lost: list[WorkerProcess]

    @property
    def busy(self) -> int:
        return sum(worker.task is not None for worker in self.workers)

    def serves(self, queue: str) -> bool:
        """Return whether a process that is alive takes messages from this queue."""
        return any(queue in worker.process.queues for worker in self.workers)


def unknown_handlers() -> dict[str, int]:
    """Return the handlers of queued tasks that no living worker knows, with the number of these tasks.

    Without any worker it is empty: then not the handlers are missing.
    """
    known = {name.rpartition("@")[0] for name in WorkerProcess.objects.known_handlers(recent_now())}
    waiting = {handler: count for (_, handler), count in unfinished([Status.QUEUED]).items() if handler not in known}
    return waiting if known else {}


def current_fleet() -> Fleet:
    """Return the fleet as it is now, in three round trips."""
    now = recent_now()
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
    return Fleet(workers, lost=list(WorkerProcess.objects.lost(now)[:MAX_PROCESSES]))
