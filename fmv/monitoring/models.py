"""Counts of rare events."""

from django.db import models


class Counter(models.Model):
    """How often something rare has happened anywhere in the fleet (see fmv.monitoring.counters)."""

    name = models.CharField(max_length=64, primary_key=True, db_column="_id")
    value = models.PositiveBigIntegerField(default=0)

    def __str__(self) -> str:
        return self.name
