"""What is kept beside the tasks."""

import datetime as dt
from typing import Any, ClassVar

from django.db import models
from uuid_utils.compat import uuid7

from fmv.mongodb.fields import DocumentField
from fmv.mongodb.queryset import QuerySet
from fmv.mongodb.uuid7 import time_of


class LogLine(models.Model):
    """A line that a handler logged. Its id tells when."""

    id = models.UUIDField(primary_key=True, db_column="_id", default=uuid7, editable=False)
    task = models.UUIDField()
    attempt = models.PositiveIntegerField()
    text = models.CharField(max_length=4000)

    objects: ClassVar[Any] = QuerySet.as_manager()

    class Meta:
        ordering = ("id",)
        indexes = [models.Index(fields=["task", "id"], name="log_of_task")]  # GET /task/{id}/log

    def __str__(self) -> str:
        return self.text

    @property
    def at(self) -> dt.datetime:
        return time_of(self.id)


class SubmissionQuerySet(QuerySet["Submission"]):
    def left_behind(self, moment: dt.datetime) -> "SubmissionQuerySet":
        """Those accepted before then that are not in the queue."""
        return self.filter(stored=False, created_at__lt=moment)

    def done_before(self, moment: dt.datetime) -> "SubmissionQuerySet":
        """Those accepted before then that are."""
        return self.filter(stored=True, created_at__lt=moment)


class Submission(models.Model):
    """Tasks that were accepted together, or by a request that may come again (see tasks.queue.submissions)."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=64)
    fingerprint = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the request's body.")
    tasks = DocumentField(default=list)
    stored = models.BooleanField(default=False, help_text="All of them are in the queue.")
    created_at = models.DateTimeField()

    objects: ClassVar[Any] = SubmissionQuerySet.as_manager()

    class Meta:
        # left_behind, done_before
        indexes = [models.Index(fields=["stored", "created_at"], name="submission_left_behind")]

    def __str__(self) -> str:
        return self.id


class Tally(models.Model):
    """What all tasks that had finished before `until` came to, since FMV counts them (tasks.reports.queue_stats)."""

    until = models.DateTimeField(primary_key=True, db_column="_id")
    totals = DocumentField(default=list, help_text="[{status, handler, count, attempts, seconds}]")

    def __str__(self) -> str:
        return f"until {self.until:%Y-%m-%d %H:%M}"


class LastOutcomes(models.Model):
    """A robot's last success and last failure that a tally covers; what ended since is looked up: reports.outcomes."""

    robot = models.CharField(primary_key=True, db_column="_id", max_length=64)
    success = DocumentField(null=True, help_text="{at, id}: when, and which task.")
    failure = DocumentField(null=True, help_text="The same.")

    def __str__(self) -> str:
        return self.robot


class BulkStatus(models.TextChoices):
    #: steps are still to be done
    RUNNING = "RUNNING"
    #: every task that matched was looked at
    DONE = "DONE"
    #: an operator stopped it
    STOPPED = "STOPPED"


class BulkQuerySet(QuerySet["Bulk"]):
    def with_work(self) -> "BulkQuerySet":
        """Those that are to be worked on, oldest first."""
        return self.filter(open=True).order_by("id")

    def running(self) -> "BulkQuerySet":
        return self.filter(status=BulkStatus.RUNNING)

    def over(self) -> "BulkQuerySet":
        return self.filter(open=False)

    def at(self, bulk: "Bulk") -> "BulkQuerySet":
        """This one, if it still stands where `bulk` was read: every change moves its version."""
        return self.filter(pk=bulk.pk, version=bulk.version)

    def advance(self, **values: Any) -> int:
        return self.update(**values, version=models.F("version") + 1)


class Bulk(models.Model):
    """One act on all tasks that match, done in steps (see tasks.queue.bulk)."""

    id = models.UUIDField(primary_key=True, db_column="_id", default=uuid7, editable=False)
    action = models.CharField(max_length=8, help_text="cancel, retry or move.")
    conditions = DocumentField(default=dict, help_text="As `Task.objects.narrowed` takes them.")
    options = DocumentField(default=dict)
    by = models.CharField(max_length=150)
    request_id = models.CharField(max_length=128, default="-")
    status = models.CharField(max_length=8, choices=BulkStatus.choices, default=BulkStatus.RUNNING)
    expected = models.PositiveIntegerField(null=True, help_text="Tasks that matched at its start; null: very many.")
    found = models.PositiveIntegerField(default=0, help_text="Tasks looked at so far.")
    done = models.PositiveIntegerField(default=0, help_text="Of them, those on which it was done.")
    skipped = models.PositiveIntegerField(default=0, help_text="Of them, those on which it could not be done.")
    failures = DocumentField(default=list, help_text="[{task, text}]: why, of the first few.")
    last = models.UUIDField(null=True, help_text="Tasks up to this id are behind it.")
    plan = DocumentField(null=True, help_text="The step under way: {tasks, last, skipped, failures}.")
    version = models.PositiveIntegerField(default=0, help_text="Grows with each write: the fencing token.")
    open = models.BooleanField(default=True, help_text="It runs, or its last step is not over.")
    changed_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)

    objects: ClassVar[Any] = BulkQuerySet.as_manager()

    class Meta:
        verbose_name = "bulk run"
        ordering = ("-id",)
        # with_work
        indexes = [models.Index(fields=["open", "id"], name="bulk_with_work", condition=models.Q(open=True))]

    def __str__(self) -> str:
        return f"{self.action} {self.id}"

    @property
    def started_at(self) -> dt.datetime:
        return time_of(self.id)
