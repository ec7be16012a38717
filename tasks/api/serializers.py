"""The API's tasks, handlers and numbers in JSON."""

from typing import Any, ClassVar

from drf_spectacular.utils import OpenApiExample, extend_schema_field, extend_schema_serializer
from rest_framework import serializers

from fmv.http.fields import Rfc3339Field, StrictCharField, StrictFloatField, StrictIntegerField, StrictSerializer
from robots.serializers import Labels, RobotFieldsSerializer
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
from tasks.reports.spans import YEARS


@extend_schema_field({"description": "Any JSON value."})
class AnyJSON(serializers.JSONField):
    pass


EXPIRES_AT = (
    "A task whose first attempt has not started by this time is revoked. Later attempts, after a failure or the loss "
    "of a worker, may start after it."
)


class JSONObject(serializers.DictField):
    pass


class LimitField(Rfc3339Field):
    """The begin or the end of a span of time."""

    default_error_messages = {"year": f"Should be between the years {YEARS.start} and {YEARS.stop}"}

    def to_internal_value(self, value: Any) -> Any:
        moment = super().to_internal_value(value)
        if moment.year not in YEARS:
            self.fail("year")
        return moment


class HistoryStepSerializer(serializers.Serializer):
    """A step of a task's life."""

    at = Rfc3339Field(help_text="When the step happened, by MongoDB's clock.")
    status = serializers.ChoiceField(choices=Status.choices)
    attempt = serializers.IntegerField(help_text="The number of the attempt; 0 before the first.")
    note = serializers.CharField(help_text="The reason, or by whom.")


class TaskErrorSerializer(serializers.Serializer):
    """Why the last attempt failed."""

    type = serializers.CharField()
    message = serializers.CharField()
    traceback = serializers.CharField()


@extend_schema_serializer(examples=[OpenApiExample("a finished task", TASK_EXAMPLE, response_only=True)])
class RobotTaskSerializer(serializers.Serializer):
    """A task with its parameters, status, result and history."""

    task_id = serializers.UUIDField(source="id")
    status = serializers.ChoiceField(choices=Status.choices)
    robot = serializers.CharField()
    handler = serializers.CharField()
    params = JSONObject()
    priority = serializers.IntegerField(
        help_text="0 to 9; tasks with a higher number start first. More than 9 only if somebody has put it in front of "
        "others with 9."
    )
    labels = serializers.ListField(child=serializers.CharField())
    progress = serializers.FloatField(allow_null=True, help_text="Percent, as the handler last reported it.")
    message = serializers.CharField(help_text="The handler's last message.")
    result = AnyJSON(help_text="The handler's return value; null unless the status is SUCCESS.")
    # Always there, but clients generated for Java read no null where a required object may be one.
    error = TaskErrorSerializer(
        required=False, allow_null=True, help_text="The error of the last failed attempt; null if none failed."
    )
    attempt = serializers.IntegerField(help_text="The number of the current or last attempt; 0 before the first.")
    max_attempts = serializers.IntegerField(help_text="How many attempts are made at most.")
    timeout = serializers.FloatField(help_text="Seconds that an attempt may take.")
    run_at = Rfc3339Field(
        allow_null=True,
        help_text="The task, or its next attempt, does not start before this time. A queued task keeps it: it has been "
        "in the queue since then. null: it was never to wait, or has started.",
    )
    expires_at = Rfc3339Field(allow_null=True, help_text=EXPIRES_AT)
    created_at = Rfc3339Field()
    started_at = Rfc3339Field(allow_null=True, help_text="The start of the current or last attempt.")
    finished_at = Rfc3339Field(allow_null=True)
    worker = serializers.CharField(help_text="The process or agent that runs the task, or ran it last.")
    runs_on = serializers.ChoiceField(
        choices=["worker", "robot"], help_text="In a worker process of FMV, or on the robot."
    )
    requested_by = serializers.CharField(help_text="The name of the user who submitted the task.")
    retry_of = serializers.UUIDField(allow_null=True, help_text="The task that this one repeats.")
    cancel_requested = serializers.BooleanField(help_text="A cancel was requested while the task was running.")
    out_of_contact_since = Rfc3339Field(
        allow_null=True, help_text="Since when nothing is heard of the robot on which the task runs; null: it is heard."
    )
    history = HistoryStepSerializer(many=True, help_text="All steps, oldest first.")


@extend_schema_serializer(examples=[OpenApiExample("a new task", NEW_TASK_EXAMPLE, response_only=True)])
class SubmittedTaskSerializer(RobotTaskSerializer):
    """A task that was just submitted. Its status is CREATED here; later reads return its real status."""

    status = serializers.ChoiceField(choices=["CREATED"])

    def to_representation(self, instance: Task) -> dict[str, Any]:
        return super().to_representation(instance) | {"status": "CREATED"}


@extend_schema_serializer(examples=[OpenApiExample("a robot", PROFILE_EXAMPLE, response_only=True)])
class RobotProfileSerializer(RobotFieldsSerializer):
    """A robot with its latest 50 tasks, newest first."""

    tasks = RobotTaskSerializer(many=True, allow_null=True, help_text="Always a list; v1 clients send null.")

    def get_fields(self) -> dict[str, serializers.Field]:
        fields = super().get_fields()
        # the order of v1: name, is_great, location, description, tasks; then the later fields
        names = list(fields)
        return {name: fields[name] for name in [*names[:4], "tasks", *names[4:-1]]}


class PositiveSecondsField(StrictFloatField):
    """A number of seconds, at least a millisecond."""

    LEAST: ClassVar[float] = 0.001
    json_schema = {"minimum": LEAST}

    def to_internal_value(self, data: Any) -> float:
        value = super().to_internal_value(data)
        if value < self.LEAST:
            raise serializers.ValidationError(f"Input should be at least {self.LEAST}", "greater_than_equal")
        return value


@extend_schema_serializer(
    examples=[
        OpenApiExample("the default", {}, request_only=True),
        OpenApiExample("urgent", {"handler": "wait", "params": {"seconds": 5}, "priority": 9}, request_only=True),
    ]
)
class SubmitSerializer(StrictSerializer):
    """What to run and how; all fields are optional."""

    handler = StrictCharField(
        default=registry.DEFAULT, max_length=64, help_text="The name of a handler, as `GET /handler/` lists them."
    )
    params = JSONObject(
        default=dict, help_text="The handler's parameters, which its JSON Schema describes; at most 64 KiB."
    )
    priority = StrictIntegerField(
        default=DEFAULT_PRIORITY,
        min_value=0,
        max_value=MAX_PRIORITY,
        help_text="Tasks with a higher number start first.",
    )
    run_at = Rfc3339Field(required=False, allow_null=True, help_text="The task does not start before this time.")
    expires_at = Rfc3339Field(required=False, allow_null=True, help_text=EXPIRES_AT)
    timeout = PositiveSecondsField(
        required=False,
        allow_null=True,
        max_value=registry.MAX_TIMEOUT,
        help_text="Seconds that an attempt may take; the handler's timeout if omitted.",
    )
    max_attempts = StrictIntegerField(required=False, allow_null=True, min_value=1, max_value=100)
    labels = Labels(default=list)
    queue_anyway = serializers.BooleanField(
        default=False, help_text="Accept the task even if the robot is out of service."
    )


@extend_schema_serializer(
    examples=[OpenApiExample("a reason", {"reason": "The hall is being cleaned"}, request_only=True)]
)
class CancellationSerializer(serializers.Serializer):
    """Why a task is cancelled. Unknown fields are ignored."""

    reason = StrictCharField(
        default="", allow_blank=True, max_length=500, help_text="For people: kept in the history of the task."
    )


class BatchRunSerializer(SubmitSerializer):
    """A task of a batch: its robot, what to run and how."""

    robot = StrictCharField(max_length=64)


@extend_schema_serializer(
    examples=[
        OpenApiExample("a priority", {"priority": 9}, request_only=True),
        OpenApiExample("the front", {"front": True}, request_only=True),
    ]
)
class PrioritySerializer(StrictSerializer):
    """The new place of a task in the queue of its robot: a priority, or the front."""

    json_schema = StrictSerializer.json_schema | {"minProperties": 1, "maxProperties": 1}
    priority = StrictIntegerField(
        min_value=0, max_value=MAX_PRIORITY, required=False, help_text="0 to 9; tasks with a higher number start first."
    )
    front = serializers.BooleanField(
        required=False,
        help_text="true: put it in front of all tasks that are queued for its robot now. false: leave it where it is.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if len(attrs) != 1:
            raise serializers.ValidationError({"priority": "Give a priority, or `front`: true"})
        return attrs


@extend_schema_serializer(
    examples=[
        OpenApiExample("a robot", {"robot": "Wall-E"}, request_only=True),
        OpenApiExample("a label", {"label": "forklift"}, request_only=True),
    ]
)
class MoveSerializer(StrictSerializer):
    """Where a task moves: a robot, or the robots with a label."""

    json_schema = StrictSerializer.json_schema | {"minProperties": 1, "maxProperties": 1}
    robot = StrictCharField(max_length=64, required=False, help_text="The name of a robot in service.")
    label = StrictCharField(  # type: ignore[assignment]
        max_length=64,
        required=False,
        help_text="Of the robots with this label that start tasks, the one with the shortest queue gets the task.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if len(attrs) != 1:
            raise serializers.ValidationError({"robot": "Give a robot, or a label"})
        return attrs


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
    """Up to 1,000 tasks to submit together."""

    runs = serializers.ListField(child=BatchRunSerializer(), min_length=1, max_length=1000)


@extend_schema_serializer(
    many=False,  # the list is in `tasks`
    examples=[OpenApiExample("new tasks", {"tasks": [NEW_TASK_EXAMPLE]}, response_only=True)],
)
class SubmittedTasksSerializer(serializers.Serializer):
    """The new tasks, one for each run, in order."""

    tasks = SubmittedTaskSerializer(many=True)


class TaskFilterSerializer(serializers.Serializer):
    """Filters for the list of tasks."""

    robot = StrictCharField(required=False, help_text="The name of the robot.")
    status = serializers.ListField(
        child=serializers.ChoiceField(choices=Status.choices),
        required=False,
        help_text="One of these statuses; repeatable.",
    )
    handler = StrictCharField(required=False, help_text="The name of the handler.")
    label = StrictCharField(required=False, help_text="One of the task's labels.")  # type: ignore[assignment]
    requested_by = StrictCharField(required=False, help_text="The name of the user who submitted the task.")
    created_after = Rfc3339Field(required=False, help_text="Created at this time or later.")
    created_before = Rfc3339Field(required=False, help_text="Created before this time.")


class ResumeSerializer(serializers.Serializer):
    """Where a stream of events continues."""

    last_event_id = serializers.CharField(required=False, allow_blank=True)  # described in tasks.api.events


class EventFilterSerializer(ResumeSerializer):
    """Filters for the events of all tasks and robots."""

    robot = serializers.ListField(
        child=StrictCharField(), required=False, help_text="One of these robots, and their tasks; repeatable."
    )
    status = serializers.ListField(
        child=serializers.ChoiceField(choices=Status.choices),
        required=False,
        help_text="Events of tasks that enter one of these statuses or report while in it; repeatable.",
    )


@extend_schema_serializer(examples=[OpenApiExample("a handler", HANDLER_EXAMPLE, response_only=True)])
class TaskHandlerSerializer(serializers.Serializer):
    """What tasks can run: a function of a worker process, or a skill of the robot."""

    name = serializers.CharField()
    description = serializers.CharField()
    runs_on = serializers.ChoiceField(
        choices=["worker", "robot"], help_text="In a worker process of FMV, or on the robot."
    )
    params = serializers.DictField(source="schema", help_text="The JSON Schema of the parameters.")
    result = serializers.DictField(
        source="result_schema",
        required=False,
        allow_null=True,
        help_text="The JSON Schema of the result, if it is declared; handlers that run on the robot may do so.",
    )
    resume = serializers.BooleanField(
        help_text="After a restart of the robot's agent an attempt goes on, with its last checkpoint."
    )
    timeout = serializers.FloatField(help_text="Seconds that an attempt may take, unless the submit says otherwise.")
    max_attempts = serializers.IntegerField(source="retry.max_attempts")


@extend_schema_serializer(
    many=False,  # the list is in `handlers`
    examples=[OpenApiExample("all handlers", {"handlers": [HANDLER_EXAMPLE]}, response_only=True)],
)
class TaskHandlersSerializer(serializers.Serializer):
    handlers = TaskHandlerSerializer(many=True)


@extend_schema_serializer(examples=[OpenApiExample("a line", LOG_LINE_EXAMPLE, response_only=True)])
class LogLineSerializer(serializers.Serializer):
    """A line that a handler logged."""

    at = Rfc3339Field()
    attempt = serializers.IntegerField()
    text = serializers.CharField()


class FinishedCountsSerializer(serializers.Serializer):
    """The numbers of finished tasks by status."""

    def get_fields(self) -> dict[str, serializers.Field]:
        return {status.value: serializers.IntegerField() for status in FINISHED}


class TaskCountsSerializer(serializers.Serializer):
    """The numbers of tasks by status.

    At most 100,000 unfinished tasks of a status are counted. Finished tasks include those that were deleted since.
    """

    def get_fields(self) -> dict[str, serializers.Field]:
        return {status.value: serializers.IntegerField() for status in Status}


class RobotCountsSerializer(serializers.Serializer):
    """The numbers of robots."""

    in_service = serializers.IntegerField()
    out_of_service = serializers.IntegerField()
    busy = serializers.IntegerField(help_text="Robots of both kinds that run a task now.")
    online = serializers.IntegerField(help_text="Robots whose agent is online.")
    offline = serializers.IntegerField(help_text="Robots that have an agent, which is offline.")
    low_battery = serializers.IntegerField(help_text="Online robots that report less than 20 % of charge.")
    with_errors = serializers.IntegerField(help_text="Online robots that report errors or warnings.")


@extend_schema_serializer(examples=[OpenApiExample("a quiet day", STATS_EXAMPLE, response_only=True)])
class StatsSerializer(serializers.Serializer):
    """The numbers of the queue and the fleet."""

    tasks = TaskCountsSerializer()
    handlers = serializers.DictField(child=TaskCountsSerializer(), help_text="The same numbers for each handler.")
    queue_age = serializers.FloatField(
        help_text="Seconds that the oldest queued task of a robot in service has waited; 0 if there is none."
    )
    last_hour = FinishedCountsSerializer(
        help_text="Tasks that finished in the last hour, which begins at a full minute."
    )
    robots = RobotCountsSerializer()
    behind = serializers.FloatField(
        help_text="Seconds by which the numbers of finished tasks are behind; 0 if they are not. They are when no "
        "maintenance worker rolls them up: beyond 20,000 tasks the newest are then not counted."
    )
