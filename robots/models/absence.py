"""Absence: a span of time in which a robot was offline or out of service."""

import datetime as dt
from typing import Any, ClassVar

from django.db import models
from django.db.models import Q

from fmv.mongodb.queryset import QuerySet


class AbsenceQuerySet(QuerySet["Absence"]):
    def now(self) -> "AbsenceQuerySet":
        return self.filter(ended=None).order_by()

    def within(self, robots: list[str], begun: dt.datetime, until: dt.datetime) -> "AbsenceQuerySet":
        """Those of these robots that have a moment in the span, oldest first."""
        late = Q(ended=None) | Q(ended__gt=begun)
        return self.filter(late, robot__in=robots, begun__lt=until).order_by("begun")


class Absence(models.Model):
    """robots.absences writes it. Times are by MongoDB's clock."""

    class Kind(models.TextChoices):
        OFFLINE = "offline", "Offline"
        OUT_OF_SERVICE = "out_of_service", "Out of service"

    id = models.CharField(primary_key=True, db_column="_id", max_length=120, help_text="robot/kind/begun")
    robot = models.CharField(max_length=64)
    kind = models.CharField(max_length=16, choices=Kind.choices)
    begun = models.DateTimeField()
    ended = models.DateTimeField(null=True, help_text="null: it goes on.")

    objects: ClassVar[Any] = AbsenceQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["robot", "begun"], name="absences_of_robot"),  # the timeline
            models.Index(fields=["ended"], name="absences_by_end"),  # those that go on; the deletion of old ones
        ]

    def __str__(self) -> str:
        return self.id
