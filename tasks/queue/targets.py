"""Where waiting tasks can move: to a robot, or to the robots with a label, of which the one with the shortest queue."""

from collections import Counter
from collections.abc import Collection
from functools import cached_property

from robots.models import Robot, RobotState
from tasks.models import Task
from tasks.queue.errors import CannotMove
from tasks.queue.new_task import require_in_service
from tasks.reports.robot_status import queue_lengths

MAX_TARGETS = 1000  # robots with the label among which is chosen, the first by name


class Targets:
    """The robot `to`, or the robots with the `label` that start tasks, at the time of this look."""

    def __init__(self, *, to: str = "", label: str = "") -> None:
        self._to, self._label = to, label

    def require(self, besides: str = "") -> None:
        """Raise UnknownRobot or RobotOutOfService for the robot; or CannotMove if no robot with the label, besides this
        one, starts tasks.
        """
        if not self._label:
            require_in_service(self._to)
        elif not [name for name in self._names if name != besides]:
            raise CannotMove(f"No other robot with the label {self._label} starts tasks.")

    def choose(self, task: Task) -> str:
        """Return the robot to which the task moves, and count the task as its own. Raises CannotMove.

        A task that runs on the robot moves only to one whose agent is signed in and knows its handler.
        """
        able = [name for name in self._names if task.runs_on == "worker" or task.handler in self._skills[name]]
        others = [name for name in able if name != task.robot]
        if not others:
            raise CannotMove(self._why_not(task, able))
        chosen = others[0] if self._to else min(others, key=lambda name: (self._load[name], name))
        if self._label:
            self._load[chosen] += 1
        return chosen

    def _why_not(self, task: Task, able: Collection[str]) -> str:
        if self._label:
            return f"No other robot with the label {self._label} that starts tasks can run {task.handler}."
        if able:
            return f"It is on {self._to} already."
        return f"{self._to} cannot run {task.handler}: its agent is not signed in, or does not know it."

    @cached_property
    def _names(self) -> list[str]:
        if self._to:
            return [self._to]
        found = Robot.objects.starting().matching(label=self._label).order_by("name")
        return list(found.values_list("name", flat=True)[:MAX_TARGETS])

    @cached_property
    def _load(self) -> Counter[str]:
        """How many tasks each has queued and running."""
        return queue_lengths(self._names) + Task.lanes_held(self._names)

    @cached_property
    def _skills(self) -> dict[str, set[str]]:
        """The handlers that the agent of each knows."""
        states = RobotState.objects.filter(pk__in=self._names).order_by().values_list("pk", "session")
        known = {name: set(session["handlers"]) for name, session in states if session}
        return {name: known.get(name, set()) for name in self._names}
