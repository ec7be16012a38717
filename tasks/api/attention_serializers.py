"""The API's form of what needs a person: why a task waits, and what needs attention."""

from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers

from fmv.http.fields import Rfc3339Field
from tasks.api.examples import ATTENTION_EXAMPLE, WAITING_EXAMPLE
from tasks.models import Status
from tasks.reports.attention.sources import SOURCES
from tasks.reports.remedies import LABELS
from tasks.reports.waiting_reason import REASONS

REMEDIES = "What a person can do: " + "; ".join(f"`{do}`: {label}" for do, label in LABELS.items()) + "."
KINDS = "; ".join(f"`{source.kind}`: {source.title}" for source in SOURCES) + "."


class WaitingReasonSerializer(serializers.Serializer):
    """Why a task waits."""

    reason = serializers.ChoiceField(
        choices=list(REASONS), help_text="; ".join(f"`{word}`: {says}" for word, says in REASONS.items()) + "."
    )
    sentence = serializers.CharField(help_text="The reason for people, with times in UTC.")
    since = Rfc3339Field(allow_null=True, help_text="Since when it is so; null if unknown.")
    until = Rfc3339Field(allow_null=True, help_text="When the task stops waiting for its time; null if it does not.")
    blocked_by = serializers.UUIDField(
        allow_null=True, help_text="The other task that is in the way: it holds the lane, or keeps a worker busy."
    )
    first_task = serializers.UUIDField(
        allow_null=True,
        help_text="The first task of the robot's queue, if that is another one: the reason is why that one waits.",
    )
    remedy = serializers.CharField(allow_null=True, help_text=REMEDIES)


@extend_schema_serializer(examples=[OpenApiExample("a queued task", WAITING_EXAMPLE, response_only=True)])
class TaskWaitingSerializer(serializers.Serializer):
    """Whether and why a task waits."""

    task_id = serializers.UUIDField()
    status = serializers.ChoiceField(choices=Status.choices)
    waiting = WaitingReasonSerializer(
        required=False, allow_null=True, help_text="Null if the task runs or is finished."
    )


class AttentionLineSerializer(serializers.Serializer):
    """A robot, task, handler or worker that needs a person."""

    kind = serializers.ChoiceField(choices=[source.kind for source in SOURCES], help_text=KINDS)
    severity = serializers.ChoiceField(choices=["error", "warning"])
    robot = serializers.CharField(allow_null=True)
    task_id = serializers.UUIDField(allow_null=True)
    handler = serializers.CharField(allow_null=True)
    worker = serializers.CharField(allow_null=True, help_text="A worker process.")
    reason = serializers.CharField(help_text="What is wrong, for people.")
    since = Rfc3339Field(allow_null=True, help_text="Since when it is so; null if unknown.")
    remedy = serializers.CharField(allow_null=True, help_text=REMEDIES)


@extend_schema_serializer(examples=[OpenApiExample("two lines", ATTENTION_EXAMPLE, response_only=True)])
class AttentionSerializer(serializers.Serializer):
    """What needs a person now."""

    lines = AttentionLineSerializer(many=True, help_text="By kind, at most 100 of each.")
    more = serializers.DictField(
        child=serializers.IntegerField(), help_text="Kind: the number of its other lines, at most 1,000."
    )
