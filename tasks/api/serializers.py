"""Tasks on the wire."""

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from fmv.http.fields import Rfc3339Field, StrictCharField, StrictIntegerField, StrictSerializer
from robots.serializers import Labels, RobotSerializer
from tasks import registry
from tasks.api.examples import (
    HANDLER_EXAMPLE,
    LOG_LINE_EXAMPLE,
    NEW_TASK_EXAMPLE,
    PROFILE_EXAMPLE,
    STATS_EXAMPLE,
    TASK_EXAMPLE,
)
from tasks.models import FINISHED, Status, Task
from tasks.models.status import DEFAULT_PRIORITY, MAX_PRIORITY


@extend_schema_field({"description": "Any JSON."})
class AnyJSON(serializers.JSONField):
    pass


class JSONObject(serializers.DictField):
    pass


class HistorySerializer(serializers.Serializer):
    """A step of a task's life."""

    at = Rfc3339Field()
    status = serializers.ChoiceField(choices=Status.choices)
    attempt = serializers.IntegerField()
    note = serializers.CharField()


class TaskErrorSerializer(serializers.Serializer):
    """Why the last attempt failed."""

    type = serializers.CharField()
    message = serializers.CharField()
    traceback = serializers.CharField()


@extend_schema_serializer(examples=[OpenApiExample("a finished task", TASK_EXAMPLE, response_only=True)])
class TaskSerializer(serializers.Serializer):
    """A task: queue entry, result and history in one."""

    task_id = serializers.UUIDField(source="id")
    status = serializers.ChoiceField(choices=Status.choices)
    robot = serializers.CharField()
    handler = serializers.CharField()
    params = JSONObject()
    priority = serializers.IntegerField(help_text="0-9, the greater first.")
    labels = serializers.ListField(child=serializers.CharField())
    progress = serializers.FloatField(allow_null=True, help_text="Percent.")
    message = serializers.CharField()
    result = AnyJSON()
    error = TaskErrorSerializer(allow_null=True)
    attempt = serializers.IntegerField()
    max_attempts = serializers.IntegerField()
    timeout = serializers.FloatField(help_text="Seconds an attempt may take.")
    run_at = Rfc3339Field(allow_null=True)
    expires_at = Rfc3339Field(allow_null=True)
    created_at = Rfc3339Field()
    started_at = Rfc3339Field(allow_null=True)
    finished_at = Rfc3339Field(allow_null=True)
    worker = serializers.CharField()
    requested_by = serializers.CharField()
    retry_of = serializers.UUIDField(allow_null=True)
    cancel_requested = serializers.BooleanField()
    history = HistorySerializer(many=True)


@extend_schema_serializer(examples=[OpenApiExample("a new task", NEW_TASK_EXAMPLE, response_only=True)])
class NewTaskSerializer(TaskSerializer):
    """A task that was submitted just now: nothing has happened to it yet, which v1 calls CREATED."""

    status = serializers.ChoiceField(choices=["CREATED"])

    def to_representation(self, instance: Task) -> dict[str, Any]:
        return super().to_representation(instance) | {"status": "CREATED"}


@extend_schema_serializer(examples=[OpenApiExample("a robot", PROFILE_EXAMPLE, response_only=True)])
class RobotProfileSerializer(RobotSerializer):
    """A robot with its latest 50 tasks, newest first."""

    tasks = TaskSerializer(many=True, read_only=True)

    def get_fields(self) -> dict[str, serializers.Field]:
        fields = super().get_fields()
        # v1's order: name, is_great, location, description, tasks; then what came later.
        names = list(fields)
        return {name: fields[name] for name in [*names[:4], "tasks", *names[4:-1]]}


class Positive(serializers.FloatField):
    """Seconds, more than 0."""

    json_schema = {"exclusiveMinimum": 0}

    def to_internal_value(self, data: Any) -> float:
        if isinstance(data, bool | str):
            self.fail("invalid")
        value = super().to_internal_value(data)
        if value <= 0:
            raise serializers.ValidationError("Input should be greater than 0", "greater_than")
        return value


@extend_schema_serializer(
    examples=[
        OpenApiExample("the default", {}, request_only=True),
        OpenApiExample("urgent", {"handler": "wait", "params": {"seconds": 5}, "priority": 9}, request_only=True),
    ]
)
class SubmitSerializer(StrictSerializer):
    """How to run a task; all optional."""

    handler = StrictCharField(default=registry.DEFAULT, max_length=64, help_text="What to run: see `GET /handler/`.")
    params = JSONObject(default=dict, help_text="As the handler's JSON Schema says; at most 64 KiB.")
    priority = StrictIntegerField(
        default=DEFAULT_PRIORITY, min_value=0, max_value=MAX_PRIORITY, help_text="The greater first."
    )
    run_at = Rfc3339Field(required=False, allow_null=True, help_text="Not before this time.")
    expires_at = Rfc3339Field(required=False, allow_null=True, help_text="Not at all unless started by then.")
    timeout = Positive(
        required=False, allow_null=True, max_value=registry.MAX_TIMEOUT, help_text="Seconds an attempt may take."
    )
    max_attempts = StrictIntegerField(required=False, allow_null=True, min_value=1, max_value=100)
    labels = Labels(default=list)
    queue_anyway = serializers.BooleanField(default=False, help_text="Accept it for a robot out of service too.")


class BatchRunSerializer(SubmitSerializer):
    """A task of a batch: its robot, and how to run it."""

    robot = StrictCharField(max_length=64)


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "two robots wait",
            {
                "runs": [
                    {"robot": "Bender", "handler": "wait", "params": {"seconds": 1}},
                    {"robot": "Wall-E", "handler": "wait", "params": {"seconds": 1}},
                ]
            },
            request_only=True,
        )
    ]
)
class BatchSerializer(StrictSerializer):
    """Tasks to submit together."""

    runs = serializers.ListField(child=BatchRunSerializer(), min_length=1, max_length=1000)


@extend_schema_serializer(
    many=False,  # the list is in `tasks`
    examples=[OpenApiExample("new tasks", {"tasks": [NEW_TASK_EXAMPLE]}, response_only=True)],
)
class TasksSerializer(serializers.Serializer):
    """New tasks, one for each run, in order."""

    tasks = NewTaskSerializer(many=True)


class TaskFilterSerializer(serializers.Serializer):
    """What narrows the list of tasks."""

    robot = StrictCharField(required=False, help_text="Its robot's name.")
    status = serializers.ListField(
        child=serializers.ChoiceField(choices=Status.choices), required=False, help_text="One of these; repeatable."
    )
    handler = StrictCharField(required=False, help_text="What it runs.")
    label = StrictCharField(required=False, help_text="Among its labels.")  # type: ignore[assignment]
    requested_by = StrictCharField(required=False, help_text="The name of the user who asked for it.")
    created_after = Rfc3339Field(required=False, help_text="At this time or later.")
    created_before = Rfc3339Field(required=False, help_text="Before this time.")


class EventFilterSerializer(serializers.Serializer):
    """What narrows the events of all tasks."""

    robot = serializers.ListField(
        child=StrictCharField(), required=False, help_text="Of one of these robots; repeatable."
    )
    status = serializers.ListField(
        child=serializers.ChoiceField(choices=Status.choices),
        required=False,
        help_text="That enter one of these, or report while in it; repeatable.",
    )


@extend_schema_serializer(examples=[OpenApiExample("a handler", HANDLER_EXAMPLE, response_only=True)])
class HandlerSerializer(serializers.Serializer):
    """What a task can do."""

    name = serializers.CharField()
    description = serializers.CharField()
    params = serializers.DictField(source="schema", help_text="JSON Schema of its parameters.")
    timeout = serializers.FloatField(help_text="Seconds an attempt may take, unless the submit says otherwise.")
    max_attempts = serializers.IntegerField(source="retry.max_attempts")


@extend_schema_serializer(
    many=False,  # the list is in `handlers`
    examples=[OpenApiExample("all handlers", {"handlers": [HANDLER_EXAMPLE]}, response_only=True)],
)
class HandlersSerializer(serializers.Serializer):
    handlers = HandlerSerializer(many=True)


@extend_schema_serializer(examples=[OpenApiExample("a line", LOG_LINE_EXAMPLE, response_only=True)])
class LogLineSerializer(serializers.Serializer):
    """A line that a handler logged."""

    at = Rfc3339Field()
    attempt = serializers.IntegerField()
    text = serializers.CharField()


class FinishedCountsSerializer(serializers.Serializer):
    """How many tasks finished, by how they ended."""

    def get_fields(self) -> dict[str, serializers.Field]:
        return {status.value: serializers.IntegerField() for status in FINISHED}


class CountsSerializer(serializers.Serializer):
    """How many tasks there are by status. Of the unfinished ones at most 100,000 of a status are counted; of the
    finished ones all that ever were, purged ones too."""

    def get_fields(self) -> dict[str, serializers.Field]:
        return {status.value: serializers.IntegerField() for status in Status}


class RobotCountsSerializer(serializers.Serializer):
    """How many robots there are."""

    in_service = serializers.IntegerField()
    out_of_service = serializers.IntegerField()
    busy = serializers.IntegerField(help_text="Of either, those that run a task.")


@extend_schema_serializer(examples=[OpenApiExample("a quiet day", STATS_EXAMPLE, response_only=True)])
class StatsSerializer(serializers.Serializer):
    """How queue and fleet are doing."""

    tasks = CountsSerializer()
    handlers = serializers.DictField(child=CountsSerializer(), help_text="The same by handler.")
    queue_age = serializers.FloatField(
        help_text="Seconds that the task queued longest has waited, of a robot in service; 0 when none is queued."
    )
    last_hour = FinishedCountsSerializer(help_text="What finished in the last hour, counted from a full minute.")
    robots = RobotCountsSerializer()
