"""What agents send, and what they are answered. Unknown fields are ignored: agents are older or newer than FMV."""

from typing import Any

import bson
import orjson
from drf_spectacular.utils import OpenApiExample, extend_schema_serializer
from rest_framework import serializers

from fmv.http.fields import CutCharField, StrictBooleanField, StrictCharField, StrictFloatField, StrictIntegerField
from fmv.http.json import check_json
from tasks.api.examples import TASK_EXAMPLE
from tasks.api.serializers import AnyJSON, RobotTaskSerializer
from tasks.models.error_document import MAX_MESSAGE, MAX_TYPE

PROTOCOL = 1
MAX_WAIT = 25  # seconds that a claim waits at most
MAX_CHECKPOINT = 64 * 1024  # bytes of JSON
MAX_LINES = 1000  # in a request
MAX_EARLIER = 20  # starts of an agent
MAX_DELAY = 86_400.0  # seconds
MAX_NUMBER = 2**31 - 1  # of an attempt or a line

SESSION = "3f1c9a7e52d04b68-8d1f0a6c7e2b4935"
OF_ATTEMPT = {"session": SESSION, "attempt": 1}
HELD_TASK = TASK_EXAMPLE | {
    "status": "STARTED",
    "handler": "drive",
    "params": {"x": 12.5, "y": 4.0, "speed": 0.8},
    "runs_on": "robot",
    "worker": "agent/Bender",
    "progress": None,
    "message": "",
    "result": None,
    "finished_at": None,
}
CLAIMED_EXAMPLE = {
    "task": HELD_TASK,
    "attempt": 1,
    "lease_seconds": 15.0,
    "hold_seconds": 15.0,
    "resumed": False,
    "checkpoint": None,
}


class AnyOrNull(AnyJSON):
    """Any JSON value as input, null included."""

    def run_validation(self, data: Any = serializers.empty) -> Any:
        return None if data is None else super().run_validation(data)


class CheckpointField(AnyOrNull):
    def to_internal_value(self, data: Any) -> Any:
        check_json(data, ("body", "checkpoint"), to_store=True)
        try:
            bson.encode({"checkpoint": data})
        except (bson.errors.BSONError, OverflowError, ValueError) as error:
            raise serializers.ValidationError(f"Cannot be stored: {error}") from None
        if len(orjson.dumps(data)) > MAX_CHECKPOINT:
            raise serializers.ValidationError(f"At most {MAX_CHECKPOINT} bytes of JSON", "too_long")
        return data


class InSessionSerializer(serializers.Serializer):
    session = StrictCharField(max_length=64, help_text="As the answer to `POST /agent/session` names it.")


class OfAttemptSerializer(InSessionSerializer):
    attempt = StrictIntegerField(min_value=1, max_value=MAX_NUMBER, help_text="As the answer to the claim names it.")


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "a start",
            {
                "agent": "fmv_agent.py",
                "version": "1.0.0",
                "boot_id": "5b0d5a3e-93a4-4f7e-9f6e-7d0b0a8f2c11",
                "handlers": ["drive"],
                "earlier_boot_ids": ["0f7c6b1e-1f0b-4a52-9b0e-8f3c5f0f7a2d"],
            },
            request_only=True,
        )
    ]
)
class OpenSessionSerializer(serializers.Serializer):
    """The program that runs a robot's tasks, and what it can run."""

    agent = StrictCharField(default="", allow_blank=True, max_length=100, help_text="The program's name.")
    version = StrictCharField(default="", allow_blank=True, max_length=100, help_text="The program's version.")
    boot_id = StrictCharField(
        max_length=64,
        help_text="A new one at each start of the program. With the same one the robot keeps all its tasks.",
    )
    handlers = serializers.ListField(
        child=StrictCharField(max_length=64), default=list, max_length=1000, help_text="Names of the handlers it runs."
    )
    earlier_boot_ids = serializers.ListField(
        child=StrictCharField(max_length=64),
        default=list,
        max_length=MAX_EARLIER,
        help_text="The `boot_id` of earlier starts of the same program, which have ended. If one of their requests for "
        "a session comes late, it is refused, and does not end this one.",
    )


@extend_schema_serializer(examples=[OpenApiExample("an attempt", CLAIMED_EXAMPLE, response_only=True)])
class ClaimedSerializer(serializers.Serializer):
    """An attempt of a task that the robot is to run."""

    task = RobotTaskSerializer()
    attempt = serializers.IntegerField(help_text="Names the attempt in all that the agent reports of it.")
    lease_seconds = serializers.FloatField(
        help_text="Seconds from the answer on within which the agent must renew. The first renewal confirms that it "
        "has the task."
    )
    hold_seconds = serializers.FloatField(
        help_text="Seconds from the answer on for which the attempt stays the robot's if nothing is heard of it."
    )
    resumed = serializers.BooleanField(help_text="The attempt began before the agent was started again.")
    checkpoint = AnyJSON(help_text="What the attempt has stored last; null if nothing.")


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "nothing held",
            {
                "session": SESSION,
                "robot": "Bender",
                "protocol": PROTOCOL,
                "lease_seconds": 60.0,
                "renew_seconds": 20.0,
                "report_seconds": 5.0,
                "tasks": [],
            },
            response_only=True,
        )
    ]
)
class SessionSerializer(serializers.Serializer):
    """A session, and the attempts that the robot holds."""

    session = serializers.CharField(help_text="Names the session in all further requests.")
    robot = serializers.CharField()
    protocol = serializers.IntegerField(help_text="The version of this protocol.")
    lease_seconds = serializers.FloatField(help_text="The usual lease; that of an attempt is in its own answers.")
    renew_seconds = serializers.FloatField(help_text="Seconds after which to renew a usual lease.")
    report_seconds = serializers.FloatField(help_text="Seconds after which to report the robot's state.")
    tasks = ClaimedSerializer(many=True)


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "a claim",
            {"session": SESSION, "claim_id": "0b7c6a52-5f0e-4b53-a8b6-3a6d6f4b9d10", "wait": 25},
            request_only=True,
        )
    ]
)
class ClaimSerializer(InSessionSerializer):
    """A request for the robot's next task."""

    claim_id = serializers.UUIDField(
        help_text="A new one for each task. If the answer was lost, the same one again gets the same attempt."
    )
    wait = StrictFloatField(
        default=0, min_value=0, max_value=MAX_WAIT, help_text="Seconds to wait for a task if there is none now."
    )


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "half way",
            OF_ATTEMPT | {"progress": 50.0, "message": "leg 2 of 4", "checkpoint": {"leg": 2}},
            request_only=True,
        )
    ]
)
class RenewSerializer(OfAttemptSerializer):
    """A sign of life of an attempt, and what is new of it."""

    progress = StrictFloatField(required=False, allow_null=True, min_value=0, max_value=100, help_text="Percent.")
    message = CutCharField(required=False, allow_blank=True, limit=500)
    checkpoint = CheckpointField(required=False, help_text="From where the attempt can go on; at most 64 KiB.")


class CancelSerializer(serializers.Serializer):
    """A cancel that the robot is to confirm by finishing the attempt."""

    by = serializers.CharField(help_text="Who asked for it.")
    reason = serializers.CharField()
    grace_seconds = serializers.FloatField(
        help_text="Seconds from the answer on, after which the task ends without a word of the robot."
    )


@extend_schema_serializer(
    examples=[
        OpenApiExample("goes on", {"lease_seconds": 60.0, "hold_seconds": 360.0, "cancel": None}, response_only=True)
    ]
)
class RenewedSerializer(serializers.Serializer):
    """A renewed lease."""

    lease_seconds = serializers.FloatField(help_text="Seconds from the request on within which to renew again.")
    hold_seconds = serializers.FloatField(
        help_text="Seconds from the request on for which the attempt stays the robot's if nothing is heard of it."
    )
    cancel = CancelSerializer(required=False, allow_null=True, help_text="Null: go on.")


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "two lines",
            OF_ATTEMPT | {"first": 8, "lines": ["at the door", "inside"]},
            request_only=True,
        )
    ]
)
class LogSerializer(OfAttemptSerializer):
    """Lines of the log of an attempt. FMV counts them, so that a line sent twice is stored once."""

    first = StrictIntegerField(
        min_value=0, max_value=MAX_NUMBER, help_text="The number of the first of these lines, from 0."
    )
    lines = serializers.ListField(
        child=StrictCharField(allow_blank=True, trim_whitespace=False),
        max_length=MAX_LINES,
        help_text="Of each at most 4,000 characters are kept.",
    )


@extend_schema_serializer(examples=[OpenApiExample("ten lines", {"next": 10}, response_only=True)])
class LoggedSerializer(serializers.Serializer):
    next = serializers.IntegerField(help_text="The number of the next line.")


class ReportedErrorSerializer(serializers.Serializer):
    """Why an attempt failed."""

    type = CutCharField(default="Error", limit=MAX_TYPE)
    message = CutCharField(default="", allow_blank=True, limit=MAX_MESSAGE)


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "there",
            OF_ATTEMPT | {"outcome": "succeeded", "result": {"metres": 17.2}},
            request_only=True,
        )
    ]
)
class FinishSerializer(OfAttemptSerializer):
    """How an attempt ended."""

    outcome = serializers.ChoiceField(choices=["succeeded", "failed", "cancelled"])
    result = AnyOrNull(required=False, help_text="What the handler's `result` describes.")
    error = ReportedErrorSerializer(required=False, allow_null=True)
    retryable = StrictBooleanField(default=True, help_text="Whether another attempt may help.")


@extend_schema_serializer(
    examples=[
        OpenApiExample(
            "later",
            OF_ATTEMPT | {"reason": "The doors are locked", "delay": 60.0},
            request_only=True,
        )
    ]
)
class ReleaseSerializer(OfAttemptSerializer):
    """An attempt that the robot gives back."""

    reason = CutCharField(default="", allow_blank=True, limit=500)
    delay = StrictFloatField(
        default=0, min_value=0, max_value=MAX_DELAY, help_text="Seconds after which it may be started again."
    )


@extend_schema_serializer(examples=[OpenApiExample("the end", {"session": SESSION}, request_only=True)])
class GoodbyeSerializer(serializers.Serializer):
    session = StrictCharField(default="", allow_blank=True, max_length=64, help_text="Empty: whichever is open.")


@extend_schema_serializer(
    examples=[OpenApiExample("goes on", {"report_seconds": 5.0, "drain": False}, response_only=True)]
)
class StateTakenSerializer(serializers.Serializer):
    report_seconds = serializers.FloatField(help_text="Seconds after which to report again.")
    drain = serializers.BooleanField(help_text="The robot is out of service: it gets no tasks.")


class StoredOutcomeSerializer(serializers.Serializer):
    """What is stored of the task's last attempt."""

    attempt = serializers.IntegerField()
    outcome = serializers.CharField(allow_null=True, help_text="Null: none is reported.")
    status = serializers.CharField(help_text="The status of the task.")


class AgentConflictSerializer(serializers.Serializer):
    """A conflict, explained in one sentence, with its code for programs.

    `attempt_lost`: stop the attempt and drop it; `stored` is the one that counts. `session_replaced`: another session
    has begun, or none is open. `already_reported`: another outcome is stored, see `stored`. `lines_missing`: send the
    lines from `next` on.
    """

    detail = serializers.CharField()
    code = serializers.CharField()
    stored = StoredOutcomeSerializer(required=False)
    next = serializers.IntegerField(required=False)
