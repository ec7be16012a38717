"""The bar charts that the server draws: pure geometry, in units of their own."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

from tasks.models import Status, Task

# --- Stacked bars on one scale ---------------------------------------------------------------------------------------

SLOT_WIDTH, BAR_WIDTH = 10, 8
MIN_PART_HEIGHT = 2.0  # of a number above 0


@dataclass(frozen=True)
class Part:
    """A coloured part of a bar; `kind` is its CSS class."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True)
class StackedBar:
    x: float
    title: str
    parts: list[Part]


@dataclass(frozen=True)
class Strip:
    """Bars beside each other on one scale from 0 to `top`."""

    width: int
    height: int
    top: int
    bars: list[StackedBar]

    @property
    def middle(self) -> float:
        return self.height / 2

    @property
    def half(self) -> float:
        return self.width / 2


def strip(columns: Sequence[tuple[str, dict[str, float]]], height: int) -> Strip:
    """Return a strip with one bar for each column: its title, and the numbers by kind that are stacked in it."""
    top = round_up(max((sum(values.values()) for _, values in columns), default=0))
    bars = [
        StackedBar(SLOT_WIDTH * number + (SLOT_WIDTH - BAR_WIDTH) / 2, title, _stack(values, height, top))
        for number, (title, values) in enumerate(columns)
    ]
    return Strip(SLOT_WIDTH * len(columns), height, top, bars)


def _stack(values: dict[str, float], height: int, top: int) -> list[Part]:
    parts, y = [], float(height)
    for kind, value in values.items():
        if value > 0:
            high = max(MIN_PART_HEIGHT, height * value / top)
            y -= high
            parts.append(Part(kind, round(max(0.0, y), 1), round(high, 1)))
    return parts


def round_up(most: float) -> int:
    """Round up to a number that is a good end of a scale: 1, 2, 3, 4, 5, 6, 8, 10, 20, …"""
    if most <= 1:
        return 1
    size = 10 ** floor(log10(most))
    return int(next(size * step for step in (1, 2, 3, 4, 5, 6, 8, 10) if size * step >= most))


# --- A bar a task ----------------------------------------------------------------------------------------------------

MAX_BARS = 60
MIN_BARS = 5  # fewer than these are no chart: the table of the latest tasks says as much
CHART_WIDTH, CHART_HEIGHT = 600, 96
MIN_BAR_HEIGHT = 3


@dataclass(frozen=True)
class TaskBar:
    """A task in the chart. Its colour shows the status, its height the duration of the last attempt."""

    task: Task
    seconds: float
    x: float
    y: float
    width: float
    height: float

    @property
    def kind(self) -> str:
        return {Status.SUCCESS: "ok", Status.FAILURE: "failed"}.get(Status(self.task.status), "other")


def task_bars(ended: Sequence[Task]) -> list[TaskBar]:
    """Return a bar for each of these tasks, which come latest first; the latest is at the right."""
    longest = max((seconds_of(task) for task in ended), default=0.0) or 1.0
    step = CHART_WIDTH / max(len(ended), MIN_BARS)
    return [
        TaskBar(
            task,
            seconds := seconds_of(task),
            x=round(CHART_WIDTH - (place + 1) * step + 1, 1),
            y=round(CHART_HEIGHT - (height := max(MIN_BAR_HEIGHT, CHART_HEIGHT * seconds / longest)), 1),
            width=round(step - 2, 1),
            height=round(height, 1),
        )
        for place, task in enumerate(ended)
    ]


def seconds_of(task: Task) -> float:
    """Return the duration of the task's last attempt in seconds; 0 if it never started."""
    if task.started_at is None or task.finished_at is None:
        return 0.0
    return max(0.0, (task.finished_at - task.started_at).total_seconds())
