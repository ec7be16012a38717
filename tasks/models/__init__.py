"""The models of tasks, and the statuses of a task. All else is imported from its own file."""

from tasks.models.bulk import Bulk
from tasks.models.ending import EndingsUntil, TaskEnding
from tasks.models.history import HistoryField
from tasks.models.last_outcomes import LastOutcomes
from tasks.models.log_line import LogLine
from tasks.models.status import FINISHED, UNFINISHED, WAITING, Status
from tasks.models.submission import Submission
from tasks.models.tally import SpanTally, Tally
from tasks.models.task import Task
from tasks.models.worker_process import WorkerProcess

__all__ = [
    "FINISHED",
    "UNFINISHED",
    "WAITING",
    "Bulk",
    "EndingsUntil",
    "HistoryField",
    "LastOutcomes",
    "LogLine",
    "SpanTally",
    "Status",
    "Submission",
    "Tally",
    "Task",
    "TaskEnding",
    "WorkerProcess",
]
