"""Task: one document that is the queue entry, the truth about its run, its result and its history.

Every transition is one conditional update of that document: it names the state it starts from (status and, once a
worker owns the task, the attempt), and adds its line to `history` in the same write. Losing such a race is normal: the
method answers False and nothing has changed.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from django.db import IntegrityError, models
from django.db.models import F, Q
from django.db.models.functions import Greatest, Least
from django_mongodb_backend.fields import ArrayField
from uuid_utils.compat import uuid7

from fmv.mongodb.expressions import Appended, Later, Now
from fmv.mongodb.fields import DocumentField
from fmv.mongodb.queryset import QuerySet
from fmv.mongodb.server import stored_now

EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
DEFAULT_PRIORITY = 4
MAX_PRIORITY = 9


class Status(models.TextChoices):
    #: waits for its `run_at`
    SCHEDULED = "SCHEDULED"
    #: waits for a free lane of its robot
    QUEUED = "QUEUED"
    #: a worker runs it and holds a lane
    STARTED = "STARTED"
    #: failed or was interrupted, waits for its `run_at` to try again
    RETRY = "RETRY"
    #: its handler returned
    SUCCESS = "SUCCESS"
    #: its handler failed for good, ran too long, or its worker was lost too often
    FAILURE = "FAILURE"
    #: cancelled, or expired before it started
    REVOKED = "REVOKED"


#: still ahead of its next start
WAITING = (Status.SCHEDULED, Status.QUEUED, Status.RETRY)
UNFINISHED = (*WAITING, Status.STARTED)
FINISHED = (Status.SUCCESS, Status.FAILURE, Status.REVOKED)


def id_at(moment: dt.datetime) -> uuid.UUID:
    """Return the least UUID v7 of `moment`'s millisecond: ids sort by time, so a time range is an id range."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return uuid.UUID(int=(milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | 0b10 << 62)


def time_of(id: uuid.UUID) -> dt.datetime:
    """Return the moment a UUID v7 was made, to the millisecond, in UTC."""
    return dt.datetime.fromtimestamp((id.int >> 80) / 1000, dt.UTC)


class HistoryField(DocumentField):
    """A list of `{at, status, attempt, note}`, oldest first."""

    def from_db_value(self, value: list[dict[str, Any]] | None, *args: object) -> list[dict[str, Any]] | None:
        for entry in value or ():
            entry["at"] = entry["at"].replace(tzinfo=dt.UTC)
        return value


class TaskQuerySet(QuerySet["Task"]):
    # What is there.

    def of_robot(self, name: str) -> TaskQuerySet:
        return self.filter(robot=name)

    def queued(self) -> TaskQuerySet:
        return self.filter(status=Status.QUEUED)

    def started(self) -> TaskQuerySet:
        return self.filter(status=Status.STARTED)

    def unfinished(self) -> TaskQuerySet:
        return self.filter(status__in=UNFINISHED)

    def finished(self) -> TaskQuerySet:
        return self.filter(status__in=FINISHED)

    def finished_since(self, moment: dt.datetime) -> TaskQuerySet:
        return self.filter(finished_at__gte=moment).order_by("finished_at")

    def finished_before(self, moment: dt.datetime) -> TaskQuerySet:
        return self.filter(finished_at__lt=moment)

    def due(self, now: dt.datetime) -> TaskQuerySet:
        """Tasks that waited for their time, and it has come."""
        return self.filter(status__in=(Status.SCHEDULED, Status.RETRY), run_at__lte=now)

    def lost(self, now: dt.datetime) -> TaskQuerySet:
        """Started tasks whose worker has let its lease run out."""
        return self.started().filter(lease_expires_at__lt=now)

    def run_by(self, worker: str, message_id: str) -> TaskQuerySet:
        """Started tasks that this process runs for this message: one at most. A message may come to two processes."""
        return self.started().filter(worker=worker, message_id=message_id)

    def overdue(self, now: dt.datetime) -> TaskQuerySet:
        """Tasks that were to start by `expires_at` and never did."""
        return self.filter(status__in=(Status.SCHEDULED, Status.QUEUED), expires_at__lte=now, attempt=0)

    def narrowed(
        self,
        *,
        status: Sequence[str] = (),
        label: str | None = None,
        created_after: dt.datetime | None = None,
        created_before: dt.datetime | None = None,
        **exactly: str,
    ) -> TaskQuerySet:
        """Tasks in one of these statuses, with this label, made in this time (from, to before), with these fields."""
        conditions: dict[str, Any] = dict(exactly)
        if status:
            conditions["status__in"] = list(status)
        if label is not None:
            conditions["labels__contains"] = [label]
        if created_after is not None:
            conditions["id__gte"] = id_at(created_after)
        if created_before is not None:
            conditions["id__lt"] = id_at(created_before)
        return self.filter(**conditions)

    def changed_since(self, moment: dt.datetime) -> TaskQuerySet:
        """Tasks whose history or report has changed since then."""
        return self.filter(changed_at__gte=moment)

    def latest_changes_first(self) -> TaskQuerySet:
        return self.order_by("-changed_at")

    def newest_first(self) -> TaskQuerySet:
        return self.order_by("-id")

    def next_first(self) -> TaskQuerySet:
        """The order in which a robot takes its tasks: priority, then age."""
        return self.order_by("-priority", "id")

    # Answers.

    def longest_queued(self) -> tuple[TaskQuerySet, TaskQuerySet]:
        """Queued tasks that waited for no time of theirs, and those that did, each by since when they are queued."""
        queued = self.queued()
        return queued.filter(run_at=None).order_by("id"), queued.filter(run_at__gt=EPOCH).order_by("run_at")

    def robots_waiting(self) -> list[str]:
        """Return the names of the robots that have queued tasks."""
        return list(self.queued().order_by().values_list("robot", flat=True).distinct())

    def runs_by_robot(self, robots: Iterable[str]) -> Counter[str]:
        """Return how many tasks each of these robots runs."""
        return Counter(self.started().filter(robot__in=robots).order_by().values_list("robot", flat=True))

    def up_to(self, limit: int) -> int:
        """Return how many these are, but no more than `limit`."""
        return self.order_by()[:limit].count()

    def lanes_taken(self, robot: str) -> set[str]:
        """Return the lanes that the robot's started tasks hold."""
        return {lane for lane in self.started().of_robot(robot).order_by().values_list("lane", flat=True) if lane}

    # Transitions.

    def move(self, status: Status, note: str, **values: Any) -> int:
        """Take all these tasks to `status` and note it in their history; return how many there were."""
        return self.update(**_entering(status, note, values.pop("attempt", F("attempt"))), **values)

    def claim_next(
        self, robot: str, *, lane: str, worker: str, message_id: str, lease: float, grace: float
    ) -> Task | None:
        """Start the robot's next queued task on `lane` and return it as it now is; None when there is none.

        `lease` and `grace` are seconds: the lease never outlives the task's timeout by more than `grace`, so even a
        task whose process is stuck ends then. Raises LaneTaken when another task holds the lane.
        """
        next_task = self.queued().of_robot(robot).next_first()
        in_time = Q(expires_at=None) | Q(attempt__gt=0) | Q(expires_at__gt=Now())
        attempt = F("attempt") + 1
        try:
            return next_task.filter(in_time).update_returning(
                **_entering(Status.STARTED, f"by {worker}", attempt),
                attempt=attempt,
                lane=lane,
                worker=worker,
                message_id=message_id,
                started_at=Now(),
                lease_expires_at=_lease(Now(), lease, grace),
                cancel_requested=False,
                run_at=None,
                progress=None,
                message="",
            )
        except IntegrityError as error:
            raise LaneTaken(lane) from error

    def end_leases(self) -> int:
        return self.update(lease_expires_at=Now())

    def promote(self, now: dt.datetime) -> int:
        return self.due(now).move(Status.QUEUED, "due")

    def expire(self, now: dt.datetime) -> int:
        return self.overdue(now).move(Status.REVOKED, "expired before it started", finished_at=Now(), run_at=None)

    def abandon(self) -> int:
        """End what waits for a robot that is gone."""
        error = error_document("RobotGone", "The robot was deleted")
        return self.filter(status__in=WAITING).move(
            Status.FAILURE, _note(error), error=error, finished_at=Now(), run_at=None
        )


class LaneTaken(Exception):
    """Another task of the robot holds the lane."""


def error_document(type: str, message: str, traceback: str = "") -> dict[str, str]:
    """Return what `Task.error` holds; long texts are cut, of a traceback the end is kept."""
    return {"type": type, "message": encodable(message)[:2000], "traceback": encodable(traceback)[-20_000:]}


def encodable(text: str) -> str:
    """Return the text as UTF-8, and so MongoDB, can hold it: half characters, as in odd file names, become "?"."""
    return text.encode("utf-8", "replace").decode()


def _note(error: dict[str, str]) -> str:
    return f"{error['type']}: {error['message']}"[:500]


def _entering(status: Status, note: str, attempt: Any) -> dict[str, Any]:
    """The values that every entry into `status` writes: the status, and its line of history."""
    line = Appended("history", at=_tick(), status=status.value, attempt=attempt, note=note)
    return {"status": status, "history": line, "changed_at": _tick()}


def _tick() -> Greatest:
    """Now, but later than the task's last change: so `changed_at` tells any two states of a task apart."""
    return Greatest(Now(), Later(F("changed_at"), 0.001))


def _lease(started_at: Any, lease: float, grace: float) -> Least:
    """When a lease taken or renewed now ends: `lease` seconds on, but at most `grace` seconds after the timeout."""
    return Least(Later(Now(), lease), Later(started_at, F("timeout") + grace))


def first_line(id: uuid.UUID, status: Status, by: str) -> dict[str, Any]:
    """Return the line that a new task's history begins with."""
    return {"at": time_of(id), "status": status.value, "attempt": 0, "note": f"by {by}"}


def _aware(value: Any) -> Any:
    return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) else value


class Task(models.Model):
    """Work for a robot. See the module's docstring for how it changes; nothing else writes to it."""

    id = models.UUIDField(primary_key=True, db_column="_id", default=uuid7, editable=False)
    robot = models.CharField(max_length=64)
    handler = models.CharField(max_length=64)
    params = DocumentField(default=dict)
    status = models.CharField(max_length=9, choices=Status.choices, default=Status.QUEUED)
    priority = models.PositiveSmallIntegerField(default=DEFAULT_PRIORITY)
    labels = ArrayField(models.CharField(max_length=64), default=list, blank=True)
    progress = models.FloatField(null=True, help_text="Percent, as its handler reports it.")
    message = models.CharField(max_length=500, default="", blank=True)
    result = DocumentField(null=True)
    error = DocumentField(null=True, help_text="{type, message, traceback} of the last attempt that failed.")
    attempt = models.PositiveIntegerField(default=0, help_text="Grows with each start: the fencing token.")
    uncounted = models.PositiveIntegerField(default=0, help_text="Attempts that stopping workers handed back.")
    max_attempts = models.PositiveIntegerField(default=1)
    timeout = models.FloatField(help_text="Seconds an attempt may take.")
    run_at = models.DateTimeField(null=True, help_text="SCHEDULED and RETRY wait for it.")
    expires_at = models.DateTimeField(null=True, help_text="A task not started by then is revoked.")
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    worker = models.CharField(max_length=255, default="", blank=True, help_text="host/process of the last attempt.")
    message_id = models.CharField(max_length=64, default="", help_text="The message whose process runs it.")
    requested_by = models.CharField(max_length=150)
    request_id = models.CharField(max_length=128, default="-")
    retry_of = models.UUIDField(null=True, help_text="The finished task that this one repeats.")
    cancel_requested = models.BooleanField(default=False)
    lane = models.CharField(max_length=70, null=True, unique=True, help_text="robot/number, held while STARTED.")
    lease_expires_at = models.DateTimeField(null=True, help_text="Unless renewed before, the task is lost then.")
    history = HistoryField(default=list)
    stored_at = models.DateTimeField(default=stored_now, editable=False, help_text="By MongoDB's clock, as the next.")
    changed_at = models.DateTimeField(default=stored_now, help_text="When its history or its report last changed.")

    objects: ClassVar[Any] = TaskQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        indexes = [
            # claim_next; a robot's started and unfinished tasks; robots_waiting
            models.Index(fields=["status", "robot", "-priority", "id"], name="task_next"),
            models.Index(fields=["robot", "-id"], name="task_of_robot"),  # a robot's latest tasks
            models.Index(fields=["status", "-id"], name="task_by_status"),  # GET /task/?status=
            models.Index(fields=["handler", "-id"], name="task_by_handler"),  # ?handler=
            models.Index(fields=["requested_by", "-id"], name="task_by_requester"),  # ?requested_by=
            models.Index(fields=["labels", "-id"], name="task_by_label"),  # ?label=
            models.Index(fields=["status", "run_at", "id"], name="task_due"),  # due; longest_queued
            # overdue; its last field lets stats.unfinished count without reading a task
            models.Index(fields=["status", "expires_at", "handler"], name="task_overdue"),
            models.Index(fields=["finished_at"], name="task_finished"),  # purge by retention
            models.Index(fields=["lease_expires_at"], name="task_lost", condition=Q(status=Status.STARTED)),  # lost
            models.Index(fields=["changed_at", "id"], name="task_changed"),  # changed_since, and its versions alone
        ]

    def __str__(self) -> str:
        return str(self.id)

    #: what a submit decides; all else happens to the task later
    SUBMITTED: ClassVar[tuple[str, ...]] = (
        "robot", "handler", "params", "status", "priority", "labels", "run_at", "expires_at", "timeout", "max_attempts",
        "requested_by", "request_id",
    )  # fmt: skip

    def as_submitted(self) -> dict[str, Any]:
        """Return what makes this task, as yet untouched, as BSON can hold it."""
        return {"id": str(self.pk)} | {name: getattr(self, name) for name in self.SUBMITTED}

    @classmethod
    def submitted(cls, values: Mapping[str, Any]) -> Task:
        """Return the task of which `as_submitted` gave these values."""
        fields = {name: _aware(values[name]) for name in cls.SUBMITTED}
        task = cls(id=uuid.UUID(values["id"]), **fields)
        task.history = [first_line(task.pk, Status(task.status), task.requested_by)]
        return task

    @property
    def created_at(self) -> dt.datetime:
        return time_of(self.id)

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    @property
    def attempts_left(self) -> int:
        return max(0, self.max_attempts - (self.attempt - self.uncounted))

    def log_lines(self) -> models.QuerySet[LogLine]:
        return LogLine.objects.filter(task=self.pk)

    # What its worker does. Each holds only while this attempt owns the task.

    def _owned(self, **also: Any) -> TaskQuerySet:
        return Task.objects.started().filter(pk=self.pk, attempt=self.attempt, **also)

    def _leave_lane(self, owned: TaskQuerySet, status: Status, note: str, **values: Any) -> bool:
        return bool(owned.move(status, note, lane=None, lease_expires_at=None, **values))

    def renew(self, *, lease: float, grace: float, **report: Any) -> bool:
        """Keep the lease for `lease` seconds more, store what is reported anew; False when cancelled or lost."""
        values = {"lease_expires_at": _lease(F("started_at"), lease, grace), **report}
        if report:
            values["changed_at"] = _tick()
        return bool(self._owned().filter(cancel_requested=False).update(**values))

    def succeed(self, result: Any, message: str) -> bool:
        values = {"result": result, "error": None, "progress": 100, "message": message, "finished_at": Now()}
        return self._leave_lane(self._owned(), Status.SUCCESS, "", **values)

    def fail(self, error: dict[str, str], **also: Any) -> bool:
        """End it for good. `also` narrows what it must still look like, as in `lease_expires_at__lt`."""
        return self._leave_lane(self._owned(**also), Status.FAILURE, _note(error), error=error, finished_at=Now())

    def retry(self, error: dict[str, str], *, delay: float, **also: Any) -> bool:
        """Let it wait `delay` seconds for its next attempt; False also when its cancel was asked for meanwhile."""
        owned = self._owned(cancel_requested=False, **also)
        return self._leave_lane(owned, Status.RETRY, _note(error), error=error, run_at=Later(Now(), delay))

    def hand_back(self, note: str) -> bool:
        """Let it run again at once, this attempt not counted; False also when its cancel was asked for meanwhile."""
        owned = self._owned(cancel_requested=False)
        return self._leave_lane(owned, Status.RETRY, note, uncounted=F("uncounted") + 1, run_at=Now())

    def stop(self, note: str, **also: Any) -> bool:
        """End it as cancelled while it runs."""
        return self._leave_lane(self._owned(**also), Status.REVOKED, note, finished_at=Now())

    def is_being_cancelled(self) -> bool:
        return self._owned(cancel_requested=True).exists()

    # What everybody else does.

    def revoke(self, note: str) -> bool:
        """Cancel it before its (next) start; False when it runs or is over."""
        waiting = Task.objects.filter(pk=self.pk, status__in=WAITING)
        return bool(waiting.move(Status.REVOKED, note, finished_at=Now(), run_at=None, cancel_requested=True))

    def request_cancel(self, note: str) -> bool:
        """Ask its worker to stop it, which notices within a renewal; False when it does not run or has been asked."""
        running = Task.objects.started().filter(pk=self.pk, cancel_requested=False)
        return bool(running.move(Status.STARTED, note, cancel_requested=True))


class LogLine(models.Model):
    """A line that a handler logged. Its id tells when."""

    id = models.UUIDField(primary_key=True, db_column="_id", default=uuid7, editable=False)
    task = models.UUIDField()
    attempt = models.PositiveIntegerField()
    text = models.CharField(max_length=4000)

    class Meta:
        ordering = ("id",)
        indexes = [models.Index(fields=["task", "id"], name="log_of_task")]  # GET /task/{id}/log

    def __str__(self) -> str:
        return self.text

    @property
    def at(self) -> dt.datetime:
        return time_of(self.id)


class Submission(models.Model):
    """Tasks that were accepted together, or by a request that may come again (see tasks.submissions)."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=64)
    fingerprint = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the request's body.")
    tasks = DocumentField(default=list)
    stored = models.BooleanField(default=False, help_text="All of them are in the queue.")
    created_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["stored", "created_at"], name="submission_left_behind")]

    def __str__(self) -> str:
        return self.id


class Tally(models.Model):
    """What all tasks that had finished before `until` came to, since FMV counts them (see tasks.stats)."""

    until = models.DateTimeField(primary_key=True, db_column="_id")
    totals = DocumentField(default=list, help_text="[{status, handler, count, attempts, seconds}]")

    def __str__(self) -> str:
        return f"until {self.until:%Y-%m-%d %H:%M}"
