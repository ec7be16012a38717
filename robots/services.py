"""What can be done to the registry; API, admin and commands all come through here."""

from collections.abc import Collection
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models import F
from django.utils import timezone

from fmv.errors import InvalidInput, Problem
from robots.errors import Changed, NameTaken, NotPossible, UnknownRobot
from robots.models import Robot, RobotQuerySet


def get(name: str) -> Robot:
    """Return the robot. Raises UnknownRobot."""
    robot = Robot.objects.filter(pk=name).first()
    if robot is None:
        raise UnknownRobot
    return robot


def create(**values: Any) -> Robot:
    """Store and return a new robot. Raises NotPossible, NameTaken."""
    robot = Robot(**values)
    _check_name(robot.name)
    _check_greatness(robot)
    try:
        robot.save(force_insert=True)
    except IntegrityError:
        raise NameTaken(robot.name) from None
    return robot


def replace(name: str, **values: Any) -> tuple[Robot, bool]:
    """Make the robot exactly this; return it and whether it is new. Raises InvalidInput, NotPossible."""
    _check_name(name)
    robot = Robot(name=name, **values)
    _check_greatness(robot)
    replaced = {
        field.attname: getattr(robot, field.attname)
        for field in Robot._meta.fields
        if field.attname not in ("name", "revision", "created_at", "updated_at")
    }
    while True:
        if _write(Robot.objects.filter(pk=name), replaced):
            return get(name), False
        try:
            robot.save(force_insert=True)
        except IntegrityError:
            continue  # somebody else created it since we looked
        return robot, True


def change(name: str, *, revisions: Collection[int] | None = None, **values: Any) -> Robot:
    """Change some fields and return the robot, if it is at one of `revisions` (None: whatever it is at).

    Raises UnknownRobot, NotPossible, Changed.
    """
    if values.get("is_great"):
        _check_greatness(Robot(name=name, is_great=True))
    robot = Robot.objects.at(name, revisions)
    if not (_write(robot, values) if values else robot.exists()):
        get(name)
        raise Changed
    return get(name)


def delete(name: str) -> None:
    """Delete a robot. Raises UnknownRobot."""
    if not Robot.objects.filter(pk=name).delete()[0]:
        raise UnknownRobot


def _write(robots: RobotQuerySet, values: dict[str, Any]) -> bool:
    return bool(robots.update(**values, revision=F("revision") + 1, updated_at=timezone.now()))


def _check_name(name: str) -> None:
    try:
        Robot._meta.get_field("name").clean(name, None)
    except ValidationError as error:
        raise InvalidInput([Problem(("path", "name"), message) for message in error.messages]) from None


def _check_greatness(robot: Robot) -> None:
    if robot.is_great and robot.name not in Robot.GREAT_ONES:
        raise NotPossible
