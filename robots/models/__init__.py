"""The models of the registry: `from robots.models import Robot`."""

from robots.models.robot import (
    MAX_LABELS,
    MAX_LANES,
    Robot,
    RobotQuerySet,
    look,
    plain_name,
    validate_endpoint,
    validate_label,
    validate_name,
)

__all__ = [
    "MAX_LABELS",
    "MAX_LANES",
    "Robot",
    "RobotQuerySet",
    "look",
    "plain_name",
    "validate_endpoint",
    "validate_label",
    "validate_name",
]
