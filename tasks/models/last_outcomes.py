"""LastOutcomes: the last success and the last failure of each robot."""

from django.db import models

from fmv.mongodb.fields import DocumentField


class LastOutcomes(models.Model):
    """The last success and failure of a robot, up to the last rollup. Later ones: tasks.reports.outcomes."""

    robot = models.CharField(primary_key=True, db_column="_id", max_length=64)
    success = DocumentField(null=True, help_text="{at, id}: when, and which task.")
    failure = DocumentField(null=True, help_text="The same.")

    def __str__(self) -> str:
        return self.robot
