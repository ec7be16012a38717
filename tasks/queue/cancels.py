"""The cancel of a task that runs on a robot, as its agent is to be told of it."""

from typing import Any, NamedTuple

from fmv.mongodb.server import recent_now
from tasks.models import Task
from tasks.models.error_document import error_document
from tasks.models.robot_attempt import handler_of
from tasks.models.transitions import CANCEL_ASKED, TIMEOUT_ASKED


class Cancel(NamedTuple):
    """A cancel that the robot is to confirm: by whom, why, and within how many seconds from now."""

    by: str
    reason: str
    grace_seconds: float
    #: whether FMV itself asked for it, because the task runs longer than its timeout
    is_timeout: bool

    def answer(self) -> dict[str, Any]:
        """Return the same as CancelSerializer."""
        return {"by": self.by, "reason": self.reason, "grace_seconds": self.grace_seconds}


def cancel_of(task: Task) -> Cancel | None:
    """Return the cancel that was asked for, None if none was."""
    if not task.cancel_requested:
        return None
    asked = [line["note"] for line in task.history if line["note"].startswith((CANCEL_ASKED, TIMEOUT_ASKED))]
    note = asked[-1] if asked else ""
    is_timeout = note.startswith(TIMEOUT_ASKED)
    by, _, reason = note.removeprefix(CANCEL_ASKED).partition(": ")
    if is_timeout:
        by, reason = "FMV", note.removeprefix(TIMEOUT_ASKED)
    since = (recent_now() - task.cancel_requested_at).total_seconds() if task.cancel_requested_at else 0.0
    grace: float = handler_of(task.handler).cancel_grace
    return Cancel(by, reason, round(min(grace, max(0.0, grace - since)), 3), is_timeout)


def timed_out(task: Task) -> dict[str, str]:
    """Return the error of a task that ran for too long."""
    return error_document("TimedOut", f"Ran longer than {task.timeout:g} s")
