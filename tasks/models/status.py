"""The statuses of a task. How it gets from one to the next: tasks.models.transitions."""

import datetime as dt

from django.db import models

EPOCH = dt.datetime.fromtimestamp(0, dt.UTC)
DEFAULT_PRIORITY = 4
MAX_PRIORITY = 9


class Status(models.TextChoices):
    #: waits for its `run_at`
    SCHEDULED = "SCHEDULED"
    #: waits for a free lane of its robot
    QUEUED = "QUEUED"
    #: a worker runs it and holds a lane
    STARTED = "STARTED"
    #: failed or was interrupted, waits for its `run_at` to try again
    RETRY = "RETRY"
    #: its handler returned
    SUCCESS = "SUCCESS"
    #: its handler failed for good, ran too long, or its worker was lost too often
    FAILURE = "FAILURE"
    #: cancelled, or expired before it started
    REVOKED = "REVOKED"


#: waiting for a start
WAITING = (Status.SCHEDULED, Status.QUEUED, Status.RETRY)
UNFINISHED = (*WAITING, Status.STARTED)
FINISHED = (Status.SUCCESS, Status.FAILURE, Status.REVOKED)
