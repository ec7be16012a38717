"""The fleet map: where the robots of a map are, and in which state."""

from dataclasses import dataclass

from robots import positions
from robots.models import Robot
from robots.positions import Position
from tasks.reports import queue_stats
from tasks.reports.robot_status import RobotStatus

#: the states that the map shows, of robot_status.STATES; the first that holds counts
STATES = ("offline", "with_errors", "out", "busy", "idle")


@dataclass(frozen=True)
class Place:
    """A robot's last reported position and its state now, one of STATES."""

    position: Position
    state: str


def places(name: str) -> list[Place]:
    """Return the robots on the map, by name: three commands, however many there are."""
    found = positions.on(name)
    busy = queue_stats.busy_robots()
    out = set(Robot.objects.out_of_service().order_by().values_list("pk", flat=True))
    return [Place(each, _state(each, each.robot in out, each.robot in busy)) for each in found]


def place_of(status: RobotStatus) -> Place | None:
    """Return the place of a robot whose status is known; None if it reports none."""
    found = positions.of(status.condition) if status.condition else None
    return Place(found, _state(found, not status.robot.enabled, bool(status.running))) if found else None


def _state(position: Position, is_out: bool, is_busy: bool) -> str:
    if not position.online:
        return "offline"
    if position.has_errors:
        return "with_errors"
    if is_out:
        return "out"
    return "busy" if is_busy else "idle"
