"""LogLine: a line that a handler logged."""

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any, ClassVar

from django.db import IntegrityError, models
from django.db.models import Q
from uuid_utils.compat import uuid7

from fmv.mongodb.documents import insert
from fmv.mongodb.queryset import QuerySet
from fmv.mongodb.uuid7 import time_of


class LogLineQuerySet(QuerySet["LogLine"]):
    def numbered(self, task: uuid.UUID, attempt: int) -> int:
        """Return how many numbered lines of the attempt are stored, which is the number of the next."""
        return self.filter(task=task, attempt=attempt, number__gte=0).order_by().count()

    def store_once(self, lines: Sequence["LogLine"]) -> None:
        """Store numbered lines. Those that another request has stored meanwhile are left out."""
        for line in lines if self._store(lines) else ():
            self._store([line])

    def _store(self, lines: Sequence["LogLine"]) -> bool:
        """Return whether some of them are stored already; then it depends which others are stored now."""
        try:
            insert(*lines)
        except IntegrityError:
            return True
        return False


class LogLine(models.Model):
    """A line that a handler logged. Its time is in its id."""

    id = models.UUIDField(primary_key=True, db_column="_id", default=uuid7, editable=False)
    task = models.UUIDField()
    attempt = models.PositiveIntegerField()
    number = models.PositiveIntegerField(null=True, help_text="Of a robot's line, from 0 in each attempt.")
    text = models.CharField(max_length=4000)

    objects: ClassVar[Any] = LogLineQuerySet.as_manager()

    class Meta:
        ordering = ("id",)
        indexes = [models.Index(fields=["task", "id"], name="log_of_task")]  # GET /task/{id}/log
        constraints = [  # a line that an agent sends twice is stored once; numbered_lines
            models.UniqueConstraint(
                fields=["task", "attempt", "number"], name="log_line_number", condition=Q(number__gte=0)
            )
        ]

    def __str__(self) -> str:
        return self.text

    @property
    def at(self) -> dt.datetime:
        return time_of(self.id)
