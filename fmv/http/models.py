"""The counters of the throttle."""

from django.db import models


class ThrottleWindow(models.Model):
    """The number of requests of a caller in a span of time (see fmv.http.throttle)."""

    id = models.CharField(max_length=200, primary_key=True, db_column="_id")
    count = models.PositiveIntegerField(default=0)
    expires_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["expires_at"], name="window_over")]  # the maintenance step that deletes them

    def __str__(self) -> str:
        return self.id
