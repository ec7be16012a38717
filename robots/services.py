"""What can be done to the registry; API, admin and commands all come through here."""

from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.utils import timezone

from fmv.errors import InvalidInput, Problem
from robots.errors import NameTaken, NotPossible, UnknownRobot
from robots.models import Robot


def get(name: str) -> Robot:
    """Return the robot. Raises UnknownRobot."""
    robot = Robot.objects.filter(pk=name).first()
    if robot is None:
        raise UnknownRobot
    return robot


def create(**values: Any) -> Robot:
    """Store and return a new robot. Raises NotPossible, NameTaken."""
    robot = Robot(**values)
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
        if field.attname not in ("name", "created_at", "updated_at")
    }
    while True:
        if Robot.objects.filter(pk=name).update(**replaced, updated_at=timezone.now()):
            return get(name), False
        try:
            robot.save(force_insert=True)
        except IntegrityError:
            continue  # somebody else created it since we looked
        return robot, True


def change(name: str, **values: Any) -> Robot:
    """Change some fields and return the robot. Raises UnknownRobot, NotPossible."""
    if values.get("is_great"):
        _check_greatness(Robot(name=name, is_great=True))
    Robot.objects.filter(pk=name).update(**values, updated_at=timezone.now())
    return get(name)


def _check_name(name: str) -> None:
    try:
        Robot._meta.get_field("name").clean(name, None)
    except ValidationError as error:
        raise InvalidInput([Problem(("path", "name"), message) for message in error.messages]) from None


def _check_greatness(robot: Robot) -> None:
    if robot.is_great and robot.name not in Robot.GREAT_ONES:
        raise NotPossible
