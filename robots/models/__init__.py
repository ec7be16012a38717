"""The models of the registry: `from robots.models import Robot`."""

from robots.models.absence import Absence
from robots.models.draft import ImportDraft
from robots.models.floor_plan import MAX_MAP_NAME, FloorPlan
from robots.models.robot import (
    MAX_LABELS,
    MAX_LANES,
    MAX_REASON,
    MAX_SOUGHT,
    Robot,
    RobotQuerySet,
    look,
    plain_name,
    validate_endpoint,
    validate_label,
    validate_name,
)
from robots.models.state import LOW_BATTERY, RobotSamples, RobotState, RobotStateQuerySet

__all__ = [
    "LOW_BATTERY",
    "MAX_LABELS",
    "MAX_LANES",
    "MAX_MAP_NAME",
    "MAX_REASON",
    "MAX_SOUGHT",
    "Absence",
    "FloorPlan",
    "ImportDraft",
    "Robot",
    "RobotQuerySet",
    "RobotSamples",
    "RobotState",
    "RobotStateQuerySet",
    "look",
    "plain_name",
    "validate_endpoint",
    "validate_label",
    "validate_name",
]
