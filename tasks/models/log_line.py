"""LogLine: a line that a handler logged."""

import datetime as dt
from typing import Any, ClassVar

from django.db import models
from uuid_utils.compat import uuid7

from fmv.mongodb.queryset import QuerySet
from fmv.mongodb.uuid7 import time_of


class LogLine(models.Model):
    """A line that a handler logged. Its time is in its id."""

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
