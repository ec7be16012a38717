"""What a robot's page shows, and keeps fresh."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robots.models import Robot
from tasks.models import Status, Task
from tasks.reports.robot_status import QUEUE_CAP, glances, slim
from tasks.templatetags.fleet import counted

NEXT = 20  # tasks of its queue
LATEST = 20  # tasks, whatever their status
ENDED = 60  # tasks in the chart
WIDTH, HEIGHT = 600, 96  # of the chart, in its own units
LEAST = 3  # height of the shortest bar

ENDED_FIELDS = ("id", "status", "handler", "started_at", "finished_at")
NEXT_FIELDS = ("id", "handler", "priority", "requested_by")
LATEST_FIELDS = ("id", "handler", "status", "started_at", "finished_at", "requested_by")


@dataclass(frozen=True)
class Bar:
    """A task in the chart: how it ended, and by its height how long its last attempt took."""

    task: Task
    seconds: float
    x: float
    y: float
    width: float
    height: float

    @property
    def kind(self) -> str:
        return {Status.SUCCESS: "ok", Status.FAILURE: "failed"}.get(Status(self.task.status), "other")


def live(robot: Robot) -> dict[str, Any]:
    """Return what changes: ten queries, each bounded."""
    [glance] = glances([robot])
    of_robot = Task.objects.of_robot(robot.name)
    ended = slim(of_robot.ended()[:ENDED], ENDED_FIELDS)
    return {
        "robot": robot,
        "glance": glance,
        "next": slim(of_robot.queued().next_first()[:NEXT], NEXT_FIELDS),
        "later": counted(of_robot.waiting_for_time().up_to(QUEUE_CAP), QUEUE_CAP),
        "bars": bars(ended),
        "longest": max((_seconds(task) for task in ended), default=0.0),
        "failed": sum(task.status == Status.FAILURE for task in ended),
        "chart": {"width": WIDTH, "height": HEIGHT},
        "latest": slim(of_robot.newest_first()[:LATEST], LATEST_FIELDS),
    }


def bars(ended: Sequence[Task]) -> list[Bar]:
    """Return the bars for these tasks, the latest first: the latest stands at the right."""
    longest = max((_seconds(task) for task in ended), default=0.0) or 1.0
    step = WIDTH / ENDED
    return [
        Bar(
            task,
            seconds := _seconds(task),
            x=round(WIDTH - (place + 1) * step + 1, 1),
            y=round(HEIGHT - (height := max(LEAST, HEIGHT * seconds / longest)), 1),
            width=round(step - 2, 1),
            height=round(height, 1),
        )
        for place, task in enumerate(ended)
    ]


def _seconds(task: Task) -> float:
    """How long its last attempt took; 0 when it never started."""
    if task.started_at is None or task.finished_at is None:
        return 0.0
    return max(0.0, (task.finished_at - task.started_at).total_seconds())
