"""Tally: totals of the finished tasks, kept when the tasks themselves are deleted."""

from django.db import models

from fmv.mongodb.fields import DocumentField


class Tally(models.Model):
    """Totals of all tasks that finished before `until` (tasks.reports.tallies)."""

    until = models.DateTimeField(primary_key=True, db_column="_id")
    totals = DocumentField(default=list, help_text="[{status, handler, count, attempts, seconds}]")

    def __str__(self) -> str:
        return f"until {self.until:%Y-%m-%d %H:%M}"
