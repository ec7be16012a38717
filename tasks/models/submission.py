"""Submission: tasks that were accepted and may not be in the queue yet."""

import datetime as dt
from typing import Any, ClassVar

from django.db import models

from fmv.mongodb.fields import DocumentField
from fmv.mongodb.queryset import QuerySet


class SubmissionQuerySet(QuerySet["Submission"]):
    def unqueued(self, moment: dt.datetime) -> "SubmissionQuerySet":
        """Submissions accepted before then that are not in the queue yet."""
        return self.filter(stored=False, created_at__lt=moment)

    def done_before(self, moment: dt.datetime) -> "SubmissionQuerySet":
        """Submissions accepted before then that are in the queue."""
        return self.filter(stored=True, created_at__lt=moment)


class Submission(models.Model):
    """Tasks that were accepted together, or by a request that may be repeated (see tasks.queue.submissions)."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=64)
    fingerprint = models.CharField(max_length=64, blank=True, help_text="SHA-256 of the request's body.")
    tasks = DocumentField(default=list)
    stored = models.BooleanField(default=False, help_text="All of them are in the queue.")
    created_at = models.DateTimeField()

    objects: ClassVar[Any] = SubmissionQuerySet.as_manager()

    class Meta:
        # unqueued, done_before
        indexes = [models.Index(fields=["stored", "created_at"], name="submission_left_behind")]

    def __str__(self) -> str:
        return self.id
