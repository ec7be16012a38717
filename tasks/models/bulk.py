"""Bulk: one action on all tasks that match a filter, done in steps."""

import datetime as dt
from typing import Any, ClassVar

from django.db import models
from uuid_utils.compat import uuid7

from fmv.mongodb.fields import DocumentField
from fmv.mongodb.queryset import QuerySet
from fmv.mongodb.uuid7 import time_of


class BulkStatus(models.TextChoices):
    #: some steps are left to do
    RUNNING = "RUNNING"
    #: every matching task was handled
    DONE = "DONE"
    #: an operator stopped it
    STOPPED = "STOPPED"


class BulkQuerySet(QuerySet["Bulk"]):
    def with_work(self) -> "BulkQuerySet":
        """Runs with steps left to do, oldest first."""
        return self.filter(open=True).order_by("id")

    def running(self) -> "BulkQuerySet":
        return self.filter(status=BulkStatus.RUNNING)

    def over(self) -> "BulkQuerySet":
        return self.filter(open=False)

    def at(self, bulk: "Bulk") -> "BulkQuerySet":
        """This run, if it has not changed since `bulk` was read: every change raises the version."""
        return self.filter(pk=bulk.pk, version=bulk.version)

    def advance(self, **values: Any) -> int:
        return self.update(**values, version=models.F("version") + 1)


class Bulk(models.Model):
    """One action on all tasks that match, done in steps (see tasks.queue.bulk)."""

    id = models.UUIDField(primary_key=True, db_column="_id", default=uuid7, editable=False)
    action = models.CharField(max_length=8, help_text="cancel, retry, move or run.")
    conditions = DocumentField(default=dict, help_text="As `Task.objects.matching` takes them.")
    options = DocumentField(default=dict)
    orders = DocumentField(null=True, help_text="Of run: {robots, run}, see tasks.queue.bulk_runs.")
    by = models.CharField(max_length=150)
    request_id = models.CharField(max_length=128, default="-")
    status = models.CharField(max_length=8, choices=BulkStatus.choices, default=BulkStatus.RUNNING)
    expected = models.PositiveIntegerField(null=True, help_text="Tasks that matched at its start; null: very many.")
    found = models.PositiveIntegerField(default=0, help_text="Tasks looked at so far.")
    done = models.PositiveIntegerField(default=0, help_text="Of them, those on which it was done.")
    skipped = models.PositiveIntegerField(default=0, help_text="Of them, those on which it could not be done.")
    failures = DocumentField(default=list, help_text="[{task, text}]: why, of the first few.")
    last = models.UUIDField(null=True, help_text="Tasks up to this id are behind it.")
    plan = DocumentField(null=True, help_text="The step under way: see tasks.queue.bulk.")
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
