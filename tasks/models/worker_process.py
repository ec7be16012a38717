"""WorkerProcess: a worker's process that runs tasks, and when it was last seen."""

import datetime as dt
import secrets
import socket
from typing import Any, ClassVar

from django.db import models
from django_mongodb_backend.fields import ArrayField

from fmv.mongodb.queryset import QuerySet

ALIVE_WITHIN = dt.timedelta(seconds=30)  # without a heartbeat for longer, a process counts as lost
KEPT_FOR = dt.timedelta(days=1)  # after its last heartbeat it is deleted


#: of this start of the worker; the processes that it forks inherit it
_START = secrets.token_hex(4)


def worker_name(pid: int) -> str:
    """Return the name of a process of this worker: host/pid-start.

    Host and pid are for people. Containers may have the same host name and the same pids, so `start` is random.
    """
    return f"{socket.gethostname()}/{pid}-{_START}"


class WorkerProcessQuerySet(QuerySet["WorkerProcess"]):
    def alive(self, now: dt.datetime) -> "WorkerProcessQuerySet":
        """Processes with a recent heartbeat, latest first."""
        return self._unstopped().filter(seen_at__gte=now - ALIVE_WITHIN)

    def alive_or_lost(self, now: dt.datetime) -> "WorkerProcessQuerySet":
        """Those that are alive, and those of the last day whose heartbeat ended without a sign-off, latest first."""
        return self._unstopped().filter(seen_at__gte=now - KEPT_FOR)

    def long_gone(self, now: dt.datetime) -> "WorkerProcessQuerySet":
        return self.filter(seen_at__lt=now - KEPT_FOR).order_by()

    def known_handlers(self, now: dt.datetime) -> set[str]:
        """Return the handlers that living processes can run, each as name@version."""
        published = self.alive(now).values_list("queues", "handlers")
        return {handler for queues, handlers in published if "work" in queues for handler in handlers or ()}

    def _unstopped(self) -> "WorkerProcessQuerySet":
        return self.filter(stopped_at=None).order_by("-seen_at")


class WorkerProcess(models.Model):
    """A process that runs tasks, busy or idle. The process writes this document itself (tasks.worker.heartbeat)."""

    name = models.CharField(primary_key=True, db_column="_id", max_length=255, help_text="As in Task.worker.")
    node = models.CharField(max_length=255, help_text="The Celery worker it belongs to.")
    queues = ArrayField(models.CharField(max_length=64), default=list)
    handlers = ArrayField(
        models.CharField(max_length=77), null=True, help_text="Those it knows, each as name@version of its parameters."
    )
    started_at = models.DateTimeField()
    seen_at = models.DateTimeField(help_text="By MongoDB's clock, as the others.")
    stopped_at = models.DateTimeField(null=True, help_text="When it said that it stops; null while it lives, or died.")

    objects: ClassVar[Any] = WorkerProcessQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "worker processes"
        indexes = [
            models.Index(fields=["stopped_at", "-seen_at"], name="process_by_sight"),  # alive, lost
            models.Index(fields=["seen_at"], name="process_gone"),  # long_gone
        ]

    def __str__(self) -> str:
        return self.name

    def is_alive(self, now: dt.datetime) -> bool:
        return self.stopped_at is None and self.seen_at >= now - ALIVE_WITHIN
