"""The fleet of worker processes: which are alive and what each runs, and which were lost."""

from dataclasses import dataclass
from typing import Any

from fmv.mongodb.server import server_now
from tasks.models import Task, WorkerProcess

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


def current_fleet() -> Fleet:
    """Return the fleet as it is now, in four round trips; one of them asks for the time."""
    now = server_now()
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
