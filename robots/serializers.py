"""The API's form of robots."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers

from fmv.http.fields import Rfc3339Field, StrictCharField, StrictIntegerField, StrictSerializer
from robots.models import (
    MAX_LABELS,
    MAX_LANES,
    MAX_REASON,
    MAX_SOUGHT,
    plain_name,
    validate_endpoint,
    validate_label,
    validate_name,
)
from robots.state_serializers import StateSerializer

EXAMPLE = {"name": "Bender", "is_great": True, "location": "Earth", "description": "Please insert girder"}

# The rules of the validators as patterns for the OpenAPI document. They lack U+2028 and U+2029, which the validators
# refuse too: there is no way to write these that all languages of generated clients read.
_CONTROL = r"\x00-\x1f\x7f-\x9f"
LABEL = rf"^[^{_CONTROL}]*[^\s{_CONTROL}][^{_CONTROL}]*$"
NAME = rf"^[^/{_CONTROL}]*[^/\s{_CONTROL}][^/{_CONTROL}]*$"
URL = rf"^https?://[^\s/?#@{_CONTROL}]+([/?][^\s#{_CONTROL}]*)?$"


class Labels(serializers.ListField):
    """Up to 32 labels; repeated ones are stored once."""

    def __init__(self, **kwargs: Any) -> None:
        child = StrictCharField(max_length=64, validators=[validate_label], pattern=LABEL)
        super().__init__(child=child, max_length=MAX_LABELS, **kwargs)

    def to_internal_value(self, data: Any) -> list[str]:
        return list(dict.fromkeys(super().to_internal_value(data)))


class NameField(StrictCharField):
    """The name of a new robot, in the form in which it is stored."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=64, validators=[validate_name], pattern=NAME, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        return plain_name(super().to_internal_value(data))


@extend_schema_serializer(
    examples=[OpenApiExample("a robot", {"name": "Bender", "is_great": True, "location": "Earth"}, response_only=True)]
)
class RobotSerializer(serializers.Serializer):
    """A robot in a list."""

    name = serializers.CharField()
    is_great = serializers.BooleanField()
    location = serializers.CharField()
    state = StateSerializer(
        required=False, allow_null=True, help_text="Only with `?state=true`; null if no agent was ever connected."
    )


@extend_schema_serializer(examples=[OpenApiExample("a robot", EXAMPLE, request_only=True)])
class RobotInputSerializer(serializers.Serializer):
    """A robot to create. Other fields, such as `tasks`, are ignored, as in v1."""

    name = NameField()
    is_great = serializers.BooleanField(default=False, help_text="Only Bender can be great.")
    location = StrictCharField(max_length=200)
    description = StrictCharField(max_length=2000)
    enabled = serializers.BooleanField(
        default=True, help_text="Whether the robot is in service. Out of service its tasks wait."
    )
    lanes = StrictIntegerField(
        min_value=1, max_value=MAX_LANES, default=1, help_text="Number of tasks that it runs at the same time."
    )
    labels = Labels(default=list)
    endpoint = StrictCharField(
        max_length=2000,
        allow_null=True,
        default=None,
        validators=[validate_endpoint],
        pattern=URL,
        help_text="The robot's own http or https URL.",
    )


@extend_schema_serializer(
    examples=[
        OpenApiExample("a robot", {"location": "Earth", "description": "Please insert girder"}, request_only=True)
    ]
)
class RobotReplacementSerializer(RobotInputSerializer):
    """All fields of a robot except its name, which is in the path. A `name` in the body must be the same."""

    name = StrictCharField(required=False)  # type: ignore[assignment]
    description = StrictCharField(max_length=2000, allow_blank=True)  # an imported robot may have none

    def validate_name(self, name: str) -> str:
        if plain_name(name) != plain_name(self.context["name"]):
            raise serializers.ValidationError("A robot cannot be renamed", "immutable")
        return name


class RobotOfFileSerializer(RobotInputSerializer):
    """A robot of an import; it needs no description."""

    description = StrictCharField(max_length=2000, default="", allow_blank=True)


@extend_schema_serializer(
    examples=[
        OpenApiExample("out of service", {"enabled": False}, request_only=True),
        OpenApiExample("moved", {"location": "Mars"}, request_only=True),
    ]
)
class RobotChangeSerializer(RobotReplacementSerializer):
    """The fields of a robot to change. Fields that are left out stay as they are; a `name` must be the robot's own."""

    # Clients generated for Java send an empty list that nobody asked for, unless the field can be null.
    labels = Labels(required=False, allow_null=True, help_text="All labels of the robot; null leaves them as they are.")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, partial=True)

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        values: dict[str, Any] = super().to_internal_value(data)
        return {name: value for name, value in values.items() if value is not None or name != "labels"}


class HoldSerializer(serializers.Serializer):
    """Who holds the robot's queue, since when and why."""

    by = serializers.CharField()
    since = Rfc3339Field()
    why = serializers.CharField(help_text="Empty if no reason was given.")


@extend_schema_serializer(
    examples=[OpenApiExample("a reason", {"why": "The lift is being repaired"}, request_only=True)]
)
class HoldInputSerializer(StrictSerializer):
    """Why the robot's queue is held."""

    why = StrictCharField(max_length=MAX_REASON, default="", allow_blank=True, help_text="A reason, for people.")


class RobotFieldsSerializer(serializers.Serializer):
    """A robot without its tasks.

    Only the fields of v1 are required: its clients make such objects themselves, to hold the answer in.
    """

    name = serializers.CharField()
    is_great = serializers.BooleanField()
    location = serializers.CharField()
    description = serializers.CharField()
    enabled = serializers.BooleanField(required=False)
    lanes = serializers.IntegerField(required=False)
    labels = serializers.ListField(child=serializers.CharField(), required=False)
    endpoint = serializers.CharField(allow_null=True, required=False)
    created_at = Rfc3339Field(required=False)
    updated_at = Rfc3339Field(required=False)
    state = StateSerializer(
        required=False, allow_null=True, help_text="What its agent reports; null if no agent was ever connected."
    )
    hold = HoldSerializer(
        required=False, allow_null=True, help_text="The hold of its queue: it starts no task. Null if there is none."
    )


class RobotFilterSerializer(serializers.Serializer):
    """Filters of the list of robots."""

    location = StrictCharField(required=False, help_text="Robots at exactly this location.")
    is_great = serializers.BooleanField(required=False, help_text="Great robots, or the others.")
    enabled = serializers.BooleanField(required=False, help_text="Robots in service, or out of service.")
    label = StrictCharField(required=False, help_text="Robots with this label.")  # type: ignore[assignment]
    q = StrictCharField(
        required=False,
        max_length=MAX_SOUGHT,
        trim_whitespace=False,
        help_text="Robots with this text in name, location or description, in any case.",
    )
    online = serializers.BooleanField(
        required=False,
        help_text="Robots whose agent is online; with `false` those that have an agent which is offline.",
    )
    state = serializers.BooleanField(default=False, help_text="Add to each robot its `state`, as in its profile.")
