"""What the services of agents return."""

from dataclasses import dataclass
from typing import NamedTuple

from fmv.mongodb.server import recent_now
from tasks.models import Task
from tasks.models.error_document import error_document
from tasks.models.robot_attempt import handler_of

CANCEL_NOTE = "cancel asked for by "


@dataclass(frozen=True)
class Held:
    """An attempt that a robot holds: the task, for how many seconds, and whether it goes on after a restart."""

    task: Task
    lease_seconds: float
    #: for which FMV gives the attempt to nobody else while nothing is heard of the robot
    hold_seconds: float
    resumed: bool = False


class Cancel(NamedTuple):
    """A cancel that the robot is to confirm: by whom, why, and within how many seconds from now."""

    by: str
    reason: str
    grace_seconds: float

    @property
    def is_timeout(self) -> bool:
        """Whether FMV itself asked for it; a user may be named FMV too, and gives no reason."""
        return self.by == "FMV" and bool(self.reason)


def cancel_of(task: Task) -> Cancel | None:
    """Return the cancel that was asked for, None if none was."""
    if not task.cancel_requested:
        return None
    notes = [line["note"] for line in task.history if line["note"].startswith(CANCEL_NOTE)]
    by, _, reason = notes[-1].removeprefix(CANCEL_NOTE).partition(": ") if notes else ("", "", "")
    since = (recent_now() - task.cancel_requested_at).total_seconds() if task.cancel_requested_at else 0.0
    grace: float = handler_of(task.handler).cancel_grace
    return Cancel(by, reason, round(min(grace, max(0.0, grace - since)), 3))


def timed_out(task: Task) -> dict[str, str]:
    """Return the error of a task that ran for too long."""
    return error_document("TimedOut", f"Ran longer than {task.timeout:g} s")
