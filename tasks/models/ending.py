"""TaskEnding: the ids of a task and of its request backwards, so that their ends are ranges of an index.

tasks.reports.endings stores them.
"""

from django.db import models


class TaskEnding(models.Model):
    id = models.CharField(primary_key=True, db_column="_id", max_length=32, help_text="The task's id, backwards.")
    request = models.CharField(max_length=128, help_text="The id of the request that submitted it, backwards.")

    class Meta:
        indexes = [models.Index(fields=["request"], name="ending_of_request")]  # the admin's search

    def __str__(self) -> str:
        return self.id[::-1]


class EndingsUntil(models.Model):
    """How far tasks.reports.endings has come; one document."""

    name = models.CharField(primary_key=True, db_column="_id", max_length=8)
    changed = models.DateTimeField(help_text="Tasks that last changed before are noted.")
    stored = models.DateTimeField(null=True, help_text="So are those that were stored before; null: it still begins.")

    class Meta:
        verbose_name_plural = "endings until"

    def __str__(self) -> str:
        return f"{self.name}: {self.changed}"
