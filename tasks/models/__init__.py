"""The models of tasks: `from tasks.models import Task`."""

from fmv.mongodb.uuid7 import id_at, time_of
from tasks.models.querysets import TaskQuerySet, moved_to
from tasks.models.records import Bulk, BulkStatus, LastOutcomes, LogLine, Submission, Tally
from tasks.models.status import (
    DEFAULT_PRIORITY,
    EPOCH,
    FINISHED,
    MAX_PRIORITY,
    UNFINISHED,
    WAITING,
    Status,
    encodable,
    error_document,
    first_line,
)
from tasks.models.task import NEXT_FIRST, HistoryField, LaneTaken, Task
from tasks.models.worker_process import WorkerProcess

__all__ = [
    "DEFAULT_PRIORITY",
    "EPOCH",
    "FINISHED",
    "MAX_PRIORITY",
    "NEXT_FIRST",
    "UNFINISHED",
    "WAITING",
    "Bulk",
    "BulkStatus",
    "HistoryField",
    "LaneTaken",
    "LastOutcomes",
    "LogLine",
    "Status",
    "Submission",
    "Tally",
    "Task",
    "TaskQuerySet",
    "WorkerProcess",
    "encodable",
    "error_document",
    "first_line",
    "id_at",
    "moved_to",
    "time_of",
]
