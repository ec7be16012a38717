"""Lanes: the places on a robot in which its tasks run."""

import contextlib
from typing import Any

from tasks.models import Task
from tasks.models.task import LaneTaken


def lane_of(robot: str, number: int) -> str:
    return f"{robot}/{number}"


def free_lanes(robot: str, lanes: int, taken: set[str]) -> list[str]:
    """Return the lanes on which a task may start.

    If the robot had more lanes before, tasks may still run on those beyond `lanes`: they count until they end.
    """
    free = [lane for number in range(lanes) if (lane := lane_of(robot, number)) not in taken]
    return free[: max(0, lanes - len(taken))]


def start_on_any(free: list[str], task: Task, **owner: Any) -> str | None:
    """Start the task on the first of these lanes that is still free, and return it; None if it is not as it was found.

    `owner`: what `Task.start` takes besides. Raises LaneTaken when all are taken.
    """
    for lane in free:
        with contextlib.suppress(LaneTaken):
            return lane if task.start(lane=lane, **owner) else None
    raise LaneTaken
