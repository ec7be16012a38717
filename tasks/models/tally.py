"""Tally: totals of the finished tasks, kept when the tasks themselves are deleted. SpanTally: of an hour or a day."""

from django.db import models

from fmv.mongodb.fields import DocumentField


class Tally(models.Model):
    """Totals of all tasks that finished before `until` (tasks.reports.tallies)."""

    until = models.DateTimeField(primary_key=True, db_column="_id")
    totals = DocumentField(default=list, help_text="[{status, handler, count, attempts, seconds}]")

    def __str__(self) -> str:
        return f"until {self.until:%Y-%m-%d %H:%M}"


class SpanTally(models.Model):
    """Totals of the tasks of one robot, or of the fleet, that finished in one hour or one day (tasks.reports.spans)."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=90, help_text="robot/2027-01-31T08/1")
    robot = models.CharField(max_length=64, help_text="Empty: all robots together.")
    hours = models.PositiveSmallIntegerField(help_text="1, or 24: a day in UTC.")
    begun = models.DateTimeField()
    handlers = DocumentField(
        default=list,
        help_text="[{handler, succeeded, failed, cancelled, waits, runs}]; the last two are tasks.reports.histogram.",
    )

    class Meta:
        verbose_name_plural = "span tallies"
        indexes = [
            models.Index(fields=["hours", "begun"], name="spans_by_time"),  # of all robots; the deletion of old ones
            models.Index(fields=["robot", "hours", "begun"], name="spans_of_robot"),  # of one robot, or the fleet
        ]

    def __str__(self) -> str:
        return self.id
