"""Task: one document that is the queue entry, the truth about its run, its result and its history.

How it changes: tasks.models.transitions. A method that lost a race returns False, and nothing has changed.
"""

from __future__ import annotations

import datetime as dt
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from django.db import IntegrityError, models
from django.db.models import Q
from django_mongodb_backend.fields import ArrayField
from uuid_utils.compat import uuid7

from fmv.mongodb.documents import object_of
from fmv.mongodb.expressions import NOW, Mql, later, literal, literals
from fmv.mongodb.fields import DocumentField, InsertTimeField
from fmv.mongodb.updates import Criteria, aggregate, exists
from fmv.mongodb.uuid7 import time_of
from robots.models import Robot
from tasks.models.error_document import note_of
from tasks.models.history import HistoryField, first_line
from tasks.models.log_line import LogLine
from tasks.models.querysets import TaskQuerySet
from tasks.models.status import DEFAULT_PRIORITY, EPOCH, FINISHED, WAITING, Status
from tasks.models.transitions import EXPIRED, FRESH, HANDED_BACK, NEXT_CHANGE, apply, reassigned

NEXT_FIRST = {"priority": -1, "_id": 1}  # the order in which a robot takes its tasks: priority, then age


LANES = "task_lane"  # the index of the tasks that hold a lane


def lane_criteria(robots: Criteria) -> Criteria:
    """Return the criteria of tasks that hold a lane of these robots, with the condition of that index."""
    return {"robot": {**robots, "$type": "string"}, "lane": {"$type": "string"}}


class LaneTaken(Exception):
    """Another task of the robot holds the lane."""


class RunsOnField(models.CharField):
    """Where a task runs: "worker", or "robot". Tasks of an FMV that knew workers only have no value."""

    def from_db_value(self, value: str | None, *args: object) -> str:
        return value or "worker"

    def deconstruct(self) -> Any:
        name, _, args, options = super().deconstruct()
        return name, "django.db.models.CharField", args, options


def _aware(value: Any) -> Any:
    return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) else value


def _storable(value: Any) -> Any:
    return str(value) if isinstance(value, uuid.UUID) else value


def _literals(values: Mapping[str, Any]) -> dict[str, Mql]:
    return literals(**{name: each.hex if isinstance(each, uuid.UUID) else each for name, each in values.items()})


class Task(models.Model):
    """Work for a robot. Nothing but the transitions changes it."""

    id = models.UUIDField(primary_key=True, db_column="_id", default=uuid7, editable=False)
    robot = models.CharField(max_length=64)
    handler = models.CharField(max_length=64)
    params = DocumentField(default=dict)
    params_version = models.CharField(max_length=12, null=True, help_text="Of the handler that the submit knew.")
    runs_on = RunsOnField(max_length=6, default="worker", help_text="In a worker process, or on the robot.")
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
    cancel_requested_at = models.DateTimeField(null=True)
    lane = models.CharField(
        max_length=70,
        null=True,
        help_text="robot/number, held while STARTED; and after an end that the robot has not confirmed.",
    )
    lease_expires_at = models.DateTimeField(null=True, help_text="Unless renewed before, the task is lost then.")
    # Of tasks that run on the robot.
    session = models.CharField(max_length=64, default="", help_text="Of the agent that runs it, or ran it last.")
    claim_id = models.UUIDField(null=True, help_text="The agent's claim that started the attempt.")
    checkpoint = DocumentField(null=True, help_text="Where the attempt goes on when the agent was started again.")
    out_of_contact_since = models.DateTimeField(null=True, help_text="STARTED, but its robot is silent.")
    reported = DocumentField(null=True, help_text="{attempt, outcome}: the last outcome that an agent reported.")
    history = HistoryField(default=list)
    stored_at = InsertTimeField(editable=False, help_text="By MongoDB's clock, as the next.")
    changed_at = InsertTimeField(help_text="When its history or its report last changed.")

    objects: ClassVar[Any] = TaskQuerySet.as_manager()

    class Meta:
        ordering = ("-id",)
        # A lane holds one task. With the robot in front, so that a collection sharded by robot may have it too.
        constraints = [models.UniqueConstraint(fields=["robot", "lane"], name=LANES)]
        # An index costs each write that changes one of its columns, so one that serves a few tasks has a condition. The
        # embedded server looks at every index in every write, so there is none for what people seldom ask.
        # MongoDB uses it only for queries that contain the condition: `run_at__lte=now` alone does not.
        indexes = [
            # next_of; a robot's started and unfinished tasks; robots_waiting
            models.Index(fields=["status", "robot", "-priority", "id"], name="task_next"),
            models.Index(fields=["robot", "-id"], name="task_of_robot"),  # a robot's latest tasks
            # how the latest tasks of a robot ended
            models.Index(fields=["robot", "-finished_at"], name="task_ended", condition=Q(finished_at__gt=EPOCH)),
            # GET /task/?status=; started; error. Its last field lets stats.unfinished count without reading a task
            models.Index(fields=["status", "-id", "handler"], name="task_by_status"),
            models.Index(fields=["handler", "-id"], name="task_by_handler"),  # ?handler=
            models.Index(fields=["requested_by", "-id"], name="task_by_requester"),  # ?requested_by=
            models.Index(fields=["labels", "-id"], name="task_by_label"),  # ?label=
            # due; longest_queued. Few tasks have a `run_at`, and none keeps it after its end
            models.Index(fields=["status", "run_at", "id"], name="task_due", condition=Q(run_at__gt=EPOCH)),
            # overdue
            models.Index(
                fields=["status", "attempt", "expires_at"], name="task_overdue", condition=Q(expires_at__gt=EPOCH)
            ),
            # purge by retention; finished_after, _before
            models.Index(fields=["finished_at"], name="task_finished", condition=Q(finished_at__gte=EPOCH)),
            # which of some tasks were retried
            models.Index(fields=["retry_of"], name="task_again", condition=Q(retry_of__gte=uuid.UUID(int=0))),
            # failed; its last field finds those of one handler without reading the others
            models.Index(fields=["-finished_at", "handler"], name="task_failed", condition=Q(status=Status.FAILURE)),
            models.Index(fields=["changed_at", "id"], name="task_changed"),  # changed_since, and its versions alone
        ]

    def __str__(self) -> str:
        return str(self.id)

    #: what a submit decides; the other fields change later
    SUBMITTED: ClassVar[tuple[str, ...]] = (
        "robot", "handler", "params", "params_version", "runs_on", "status", "priority", "labels", "run_at",
        "expires_at", "timeout", "max_attempts", "requested_by", "request_id", "retry_of",
    )  # fmt: skip

    def as_submitted(self) -> dict[str, Any]:
        """Return the SUBMITTED fields and the id, in a form that BSON can hold."""
        return {"id": str(self.pk)} | {name: _storable(getattr(self, name)) for name in self.SUBMITTED}

    @classmethod
    def submitted(cls, values: Mapping[str, Any]) -> Task:
        """Return the new task of which `as_submitted` returned these values."""
        values = {"params_version": None, "runs_on": "worker"} | dict(values)  # an earlier FMV's submission has none
        fields = {name: _aware(values[name]) for name in cls.SUBMITTED}
        fields["retry_of"] = uuid.UUID(values["retry_of"]) if values["retry_of"] else None
        task = cls(id=uuid.UUID(values["id"]), **fields)
        task.history = [first_line(task.pk, Status(task.status), task.requested_by, task.run_at)]
        return task

    @property
    def created_at(self) -> dt.datetime:
        return time_of(self.id)

    @property
    def is_finished(self) -> bool:
        return self.status in FINISHED

    @property
    def is_waiting(self) -> bool:
        return self.status in WAITING

    @property
    def attempts_left(self) -> int:
        return max(0, self.max_attempts - (self.attempt - self.uncounted))

    @property
    def was_handed_back(self) -> bool:
        """Whether its last attempt has ended and does not count. It counts again if its robot is heard of after all."""
        turns = [line for line in self.history if line["status"] in (Status.STARTED, Status.RETRY)]
        return bool(turns) and turns[-1]["note"].startswith(HANDED_BACK)

    def log_lines(self) -> models.QuerySet[LogLine]:
        return LogLine.objects.filter(task=self.pk)

    # Transitions by workers. `start` begins an attempt; the others succeed only while that attempt owns the task.

    @staticmethod
    def queue_of(robot: str) -> Criteria:
        """Return the criteria of the queued tasks of the robot, for the index `task_next`."""
        return {"status": Status.QUEUED.value, "robot": robot}

    @classmethod
    def lanes_taken(cls, robot: str) -> set[str]:
        """Return the lanes of the robot that are held: by started tasks, and by those that block one."""
        lanes = {"$project": {"lane": 1}}
        found = aggregate(cls, [{"$match": lane_criteria({"$eq": robot})}, lanes], by=LANES)
        return {document["lane"] for document in found}

    @classmethod
    def holding_lanes(cls, robot: str) -> list[Task]:
        """Return the tasks that hold these lanes."""
        found = aggregate(cls, [{"$match": lane_criteria({"$eq": robot})}], by=LANES)
        return [object_of(cls, document) for document in found]

    @classmethod
    def blocking(cls, robot: str) -> list[Task]:
        """Return the tasks that ended without a word of the robot, and keep its lanes.

        The index `task_lane` finds them among the tasks that hold a lane of the robot: there are as many as lanes.
        """
        ended = {"$match": {"status": {"$in": [status.value for status in FINISHED]}}}
        found = aggregate(cls, [{"$match": lane_criteria({"$eq": robot})}, ended], by=LANES)
        return [object_of(cls, document) for document in found]

    @classmethod
    def lanes_held(cls, robots: Collection[str]) -> Counter[str]:
        """Return how many lanes of each of these robots are held: by started tasks, and by those that block one."""
        found = aggregate(cls, [{"$match": lane_criteria({"$in": list(robots)})}, {"$project": {"robot": 1}}], by=LANES)
        return Counter(document["robot"] for document in found)

    @classmethod
    def look(cls, robot: str, limit: int = 1) -> tuple[Robot | None, list[Task]]:
        """Return the robot and the next of its queued tasks, in order and at most `limit`, from one command.

        The robot is None if it has no queued task, or was deleted. It is joined to the task, because then the index
        `task_next` finds the task on every engine, and a robot without work costs no more than that.
        """
        joined = {"from": Robot._meta.db_table, "localField": "robot", "foreignField": "_id", "as": "robots"}
        pipeline = [{"$match": cls.queue_of(robot)}, {"$sort": NEXT_FIRST}, {"$limit": limit}, {"$lookup": joined}]
        found = aggregate(cls, pipeline)
        tasks = [object_of(cls, document) for document in found]
        owners = found[0]["robots"] if found else []
        return (object_of(Robot, owners[0]) if owners else None), tasks

    def expire(self) -> bool:
        """Revoke it if it is too late for its first start; return whether it was.

        It is late by the clock that MongoDB has at the moment of the write.
        """
        if self.attempt or not self.expires_at:
            return False
        late = {"$expr": {"$lte": ["$expires_at", NOW]}}
        return self._apply(self._as_found() | late, "expire", EXPIRED)

    def start(self, *, lane: str, lease: float, grace: float, **owner: Any) -> bool:
        """Begin the next attempt; False when the task is no longer as it was found.

        `lease`, `grace`: seconds, see `_lease_until`. `owner`: the `worker` and `message_id` that run it; of an agent
        also `session` and `claim_id`. Raises LaneTaken when another task holds the lane.
        """
        values = {"lane": lane, "attempt": self.attempt + 1} | owner
        until = self._lease_until(lease, grace)
        note = f"by {owner['worker']}"
        try:
            started = self._apply(self._as_found(), "start", note, **_literals(values), lease_expires_at=until)
        except IntegrityError as error:
            raise LaneTaken(lane) from error
        if started:
            vars(self).update(values, status=Status.STARTED, **FRESH)
        return started

    def _lease_until(self, lease: float, grace: float) -> Mql:
        """Return when a lease taken or renewed now ends: `lease` seconds on, or `grace` more than a shorter timeout."""
        return later(NOW, min(lease, self.timeout + grace))

    def _apply(self, criteria: Criteria, transition: str, note: str | Mql = "", **given: Mql) -> bool:
        return bool(apply(Task, criteria, transition, note, self.pk.hex, **given))

    def _as_found(self) -> Criteria:
        """Return the criteria of this task, if it was neither moved nor started since it was read."""
        return {"robot": self.robot, "attempt": self.attempt}

    def _owned(self, if_unrenewed: bool) -> Criteria:
        """Return the criteria of this attempt; with `if_unrenewed`, only while its lease is the one that was read."""
        return self._as_found() | ({"lease_expires_at": self.lease_expires_at} if if_unrenewed else {})

    def lose_contact(self) -> bool:
        """Note that its robot is silent, unless it was heard since the task was read. It keeps its lane."""
        return self._apply(self._owned(if_unrenewed=True), "lose_contact", "its robot is out of contact")

    def stop_unconfirmed(self, note: str) -> bool:
        """End it as REVOKED although its robot has not confirmed that it stopped: it keeps its lane, until `free_lane`.

        False if the robot was heard since the task was read.
        """
        return self._apply(self._owned(if_unrenewed=True), "stop_unconfirmed", note)

    def fail_unconfirmed(self, error: dict[str, str], note: str) -> bool:
        """End it as FAILURE, else as `stop_unconfirmed`."""
        return self._apply(self._owned(if_unrenewed=True), "fail_unconfirmed", note, error=literal(error))

    def free_lane(self, note: str) -> bool:
        """Free the lane that it keeps after its end; False if it keeps none."""
        return self.lane is not None and self._apply({"lane": self.lane}, "free_lane", note)

    def renew(self, *, lease: float, grace: float, **report: Any) -> bool:
        """Extend the lease to `lease` seconds from now and store a new report; False when cancelled or lost."""
        changed = {"changed_at": NEXT_CHANGE} if report else {}
        until = self._lease_until(lease, grace)
        return self._apply(self._as_found(), "renew", lease_expires_at=until, **literals(**report), **changed)

    def succeed(self, result: Any, message: str) -> bool:
        return self._apply(self._as_found(), "succeed", **literals(result=result, message=message))

    # `report`: what the handler reported last, as for `renew`.

    def fail(self, error: dict[str, str], *, if_unrenewed: bool = False, **report: Any) -> bool:
        """End it as FAILURE; with `if_unrenewed` only while its lease is the one that was read."""
        return self._apply(self._owned(if_unrenewed), "fail", note_of(error), **literals(error=error, **report))

    def retry(self, error: dict[str, str], *, delay: float, if_unrenewed: bool = False, **report: Any) -> bool:
        """Let it wait `delay` seconds for its next attempt; False also when its cancel was requested meanwhile."""
        waits = literals(error=error, **report) | {"run_at": later(NOW, delay)}
        return self._apply(self._owned(if_unrenewed), "retry", note_of(error), **waits)

    def release(self, note: str, *, if_unrenewed: bool = False, **report: Any) -> bool:
        """Give it back, this attempt not counted; False also when its cancel was requested meanwhile."""
        return self._apply(self._owned(if_unrenewed), "release", note, **literals(**report))

    def promote(self) -> bool:
        """Queue it at once, whatever its `run_at`."""
        return self._apply(self._as_found(), "promote", "due")

    def stop(self, note: str, *, if_unrenewed: bool = False, **report: Any) -> bool:
        """End it as REVOKED while it runs."""
        return self._apply(self._owned(if_unrenewed), "stop", note, **literals(**report))

    def is_being_cancelled(self) -> bool:
        owned = {"_id": self.pk.hex, "status": Status.STARTED.value} | self._as_found()
        return exists(Task, owned | {"cancel_requested": True})

    # Transitions by others.

    def revoke(self, note: str) -> bool:
        """Cancel it before its (next) start; False when it runs or has ended."""
        return self._apply({}, "revoke", note)

    def request_cancel(self, note: str) -> bool:
        """Ask its worker to stop it at the next renewal; False when it does not run or has been asked before."""
        return self._apply({}, "request_cancel", note)

    def prioritize(self, priority: int, note: str) -> bool:
        """Give it another priority; False when it runs, has ended, or is no longer as it was found."""
        found = self._as_found() | {"priority": self.priority}
        return self._apply(found, "prioritize", note, priority=literal(priority))

    def reassign(self, robot: str, by: str) -> bool:
        """Move it from the robot as found to another; False when it runs, has ended, or was moved meanwhile."""
        found = {"robot": {"$eq": self.robot, "$ne": robot}}
        return self._apply(found, "reassign", reassigned(robot, by), robot=literal(robot))
