"""The API's form of what a robot's agent reports, in VDA 5050's words, and of what FMV shows of it."""

from typing import Any

import bson
import orjson
from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers

from fmv.http.fields import (
    CutCharField,
    Rfc3339Field,
    StrictBooleanField,
    StrictCharField,
    StrictFloatField,
    StrictIntegerField,
)
from fmv.http.json import check_json
from robots.connections import ALARMS
from robots.models import MAX_MAP_NAME

MODES = ("automatic", "semi_automatic", "manual", "service", "teach_in")
EMERGENCY_STOPS = ("none", "manual", "remote", "auto_ack")
LEVELS = ("warning", "fatal")
MAX_ERRORS = 100
MAX_EXTRA = 4096  # bytes of JSON

STATE_EXAMPLE = {
    "battery": {"charge": 71.5, "charging": False, "voltage": 48.2},
    "position": {"map": "hall 3", "x": 12.5, "y": 4.25, "theta": 1.57, "localized": True},
    "velocity": {"linear": 0.8, "angular": 0.0},
    "driving": True,
    "paused": False,
    "mode": "automatic",
    "emergency_stop": "none",
    "safety_field_violated": False,
    "errors": [{"type": "obstacle", "level": "warning", "description": "Waits for a free way", "hint": "Clear it"}],
    "load": {"present": True, "description": "Box 17"},
    "task": {"task_id": "019ab0f3-7c1e-7a31-9d3c-2f6c1b7e4a10", "attempt": 1},
    "extra": {"wifi": -61},
}
SHOWN_EXAMPLE = {
    "online": True,
    "since": "2026-11-23T07:00:00.000Z",
    "last_seen": "2026-11-23T08:00:00.000Z",
    "reported_at": "2026-11-23T08:00:00.000Z",
    "stale": False,
    "alarms": [],
    "agent": {"name": "fmv-agent", "version": "1.0"},
    "handlers": ["drive"],
    **STATE_EXAMPLE,
    "errors": [{**STATE_EXAMPLE["errors"][0], "since": "2026-11-23T07:59:30.000Z"}],  # type: ignore[index]
}


class Extra(serializers.DictField):
    """Any values of the robot's own, at most 4 KiB of JSON."""

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        check_json(values, ("body", self.field_name or "extra"), to_store=True)
        try:
            bson.encode(values)
        except (bson.errors.BSONError, OverflowError, TypeError, ValueError) as error:
            raise serializers.ValidationError(f"Cannot be stored: {error}") from None
        if len(orjson.dumps(values)) > MAX_EXTRA:
            raise serializers.ValidationError(f"At most {MAX_EXTRA} bytes of JSON", "too_long")
        return values


class Word(StrictCharField):
    """One of a few words."""

    default_error_messages = {"invalid_choice": "Input should be {words}"}

    def __init__(self, *words: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.words = words
        self.json_schema = {"pattern": f"^({'|'.join(words)})$"}  # an enum with null would be a component of its own

    def to_internal_value(self, data: Any) -> str:
        if data not in self.words:
            self.fail("invalid_choice", words=" or ".join([", ".join(self.words[:-1]), self.words[-1]]))
        return str(data)


UNKNOWN: dict[str, Any] = {"required": False, "allow_null": True}


class BatterySerializer(serializers.Serializer):
    charge = StrictFloatField(min_value=0, max_value=100, help_text="Percent.", **UNKNOWN)
    charging = StrictBooleanField(**UNKNOWN)
    voltage = StrictFloatField(help_text="V.", **UNKNOWN)


class PositionSerializer(serializers.Serializer):
    map = StrictCharField(max_length=MAX_MAP_NAME, allow_blank=True, **UNKNOWN)
    x = StrictFloatField(help_text="m.", **UNKNOWN)
    y = StrictFloatField(help_text="m.", **UNKNOWN)
    theta = StrictFloatField(help_text="rad.", **UNKNOWN)
    localized = StrictBooleanField(help_text="Whether the robot knows where it is.", **UNKNOWN)


class VelocitySerializer(serializers.Serializer):
    linear = StrictFloatField(help_text="m/s.", **UNKNOWN)
    angular = StrictFloatField(help_text="rad/s.", **UNKNOWN)


class LoadSerializer(serializers.Serializer):
    present = StrictBooleanField(**UNKNOWN)
    description = CutCharField(limit=500, allow_blank=True, **UNKNOWN)


class RobotErrorSerializer(serializers.Serializer):
    """An error or a warning of the robot's own."""

    type = CutCharField(limit=200)
    level = Word(*LEVELS)
    description = CutCharField(limit=2000, allow_blank=True, default="")
    hint = CutCharField(limit=2000, allow_blank=True, help_text="What to do.", **UNKNOWN)


class DatedErrorSerializer(RobotErrorSerializer):
    """An error or a warning of the robot's own, and since when FMV has had reports of this type."""

    since = Rfc3339Field()


class HeldTaskSerializer(serializers.Serializer):
    task_id = serializers.UUIDField()
    attempt = StrictIntegerField(min_value=1)


class ReportedSerializer(serializers.Serializer):
    """What a robot's agent reports. A value that is left out or null is unknown, and an empty list means none."""

    battery = BatterySerializer(**UNKNOWN)
    position = PositionSerializer(**UNKNOWN)
    velocity = VelocitySerializer(**UNKNOWN)
    driving = StrictBooleanField(**UNKNOWN)
    paused = StrictBooleanField(**UNKNOWN)
    mode = Word(*MODES, **UNKNOWN)
    emergency_stop = Word(*EMERGENCY_STOPS, **UNKNOWN)
    safety_field_violated = StrictBooleanField(**UNKNOWN)
    load = LoadSerializer(**UNKNOWN)
    task = HeldTaskSerializer(help_text="The task that the robot believes it runs.", **UNKNOWN)
    extra = Extra(**UNKNOWN)
    errors = serializers.ListField(  # type: ignore[assignment]
        child=RobotErrorSerializer(), max_length=MAX_ERRORS, **UNKNOWN
    )


@extend_schema_serializer(examples=[OpenApiExample("a report", STATE_EXAMPLE, request_only=True)])
class StateInputSerializer(ReportedSerializer):
    """A report of a robot's agent. Unknown fields are ignored, so that agents may be newer than the server."""

    session = StrictCharField(
        max_length=100, help_text="The agent's session; left out, the report counts in any.", **UNKNOWN
    )
    online = StrictBooleanField(help_text="false: a goodbye; the robot is offline at once.", **UNKNOWN)

    def to_internal_value(self, data: Any) -> Any:
        values = super().to_internal_value(data)
        known = {name: value for name, value in values.items() if value is not None}
        if task := known.get("task"):
            known["task"] = {"task_id": str(task["task_id"]), "attempt": task["attempt"]}
        for name in ("battery", "position", "velocity", "load"):
            if name in known:
                known[name] = _known(known[name])
        if "errors" in known:
            known["errors"] = [_known(error) for error in known["errors"]]
        return known


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


class AgentSerializer(serializers.Serializer):
    """The program that runs the robot's tasks."""

    name = serializers.CharField()
    version = serializers.CharField()


@extend_schema_serializer(examples=[OpenApiExample("online", SHOWN_EXAMPLE, response_only=True)])
class StateSerializer(ReportedSerializer):
    """What FMV knows of a robot through its agent. Null means unknown."""

    online = serializers.BooleanField(
        help_text="Whether its agent was heard within `FMV_OFFLINE_AFTER` seconds and has not said goodbye."
    )
    since = Rfc3339Field(help_text="When `online` last changed.")
    last_seen = Rfc3339Field(help_text="When its agent last called in its session, exact to some seconds.")
    reported_at = Rfc3339Field(allow_null=True, help_text="When the values below were reported.")
    stale = serializers.BooleanField(
        help_text="The values below are old, because the robot is offline or does not report any more."
    )
    alarms = serializers.ListField(
        child=serializers.ChoiceField(choices=list(ALARMS)),
        required=False,
        help_text="What is wrong between the robot and FMV; left out in events. "
        + "; ".join(f"`{alarm}`: {says}" for alarm, says in ALARMS.items())
        + ".",
    )
    agent = AgentSerializer(help_text="The agent that is signed in; null if none is.", **UNKNOWN)
    handlers = serializers.ListField(child=serializers.CharField(), help_text="The handlers that the agent can run.")
    errors = serializers.ListField(child=DatedErrorSerializer(), **UNKNOWN)

    def get_fields(self) -> dict[str, serializers.Field]:
        fields = super().get_fields()
        names = list(fields)
        reported = list(ReportedSerializer().fields)
        return {name: fields[name] for name in [*(n for n in names if n not in reported), *reported]}
