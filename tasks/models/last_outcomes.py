"""LastOutcomes: the last success and the last failure of each robot."""

from django.db import models

from fmv.mongodb.fields import DocumentField


class LastOutcomes(models.Model):
    """A robot's last success and last failure that a tally covers; what ended since is looked up: reports.outcomes."""

    robot = models.CharField(primary_key=True, db_column="_id", max_length=64)
    success = DocumentField(null=True, help_text="{at, id}: when, and which task.")
    failure = DocumentField(null=True, help_text="The same.")

    def __str__(self) -> str:
        return self.robot
