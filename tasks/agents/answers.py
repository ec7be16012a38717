"""What the services of agents return."""

from dataclasses import dataclass

from tasks.models import Task


@dataclass(frozen=True)
class Held:
    """An attempt that a robot holds: the task, for how many seconds, and whether it goes on after a restart."""

    task: Task
    lease_seconds: float
    #: for which FMV gives the attempt to nobody else while nothing is heard of the robot
    hold_seconds: float
    resumed: bool = False
