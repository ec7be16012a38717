"""The API's route with a robot's timeline."""

import datetime as dt
from typing import ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

import robots.services
from fmv.accounts.permissions import Role
from fmv.errors import InvalidInput, Problem
from fmv.http.fields import Rfc3339Field
from fmv.http.json import answer
from fmv.http.query import StrictQuery, read_query
from fmv.mongodb.server import recent_now
from robots.models import Absence
from tasks.api.examples import TIMELINE_EXAMPLE
from tasks.api.robots import NAME
from tasks.api.serializers import LimitField
from tasks.models import Status
from tasks.reports import timeline

DAY = dt.timedelta(days=1)
LONGEST = 31 * DAY


class SpanSerializer(serializers.Serializer):
    """The span of a timeline, at most 31 days."""

    to = LimitField(required=False, help_text="The first moment after the span; now if omitted.")

    def get_fields(self) -> dict[str, serializers.Field]:
        begun = LimitField(required=False, help_text="Its first moment; a day before `to` if omitted.")
        return {"from": begun} | super().get_fields()


class TimelineAttemptSerializer(serializers.Serializer):
    """An attempt of a task."""

    task_id = serializers.UUIDField(source="task")
    handler = serializers.CharField()
    attempt = serializers.IntegerField()
    begin = Rfc3339Field(source="begun")
    end = Rfc3339Field(source="ended", allow_null=True, help_text="null: it goes on.")
    outcome = serializers.ChoiceField(
        choices=Status.choices, help_text="How it ended; STARTED: it goes on; RETRY: the task is tried again."
    )


class TimelineWaitSerializer(serializers.Serializer):
    """A time for which a task was queued."""

    task_id = serializers.UUIDField(source="task")
    handler = serializers.CharField()
    begin = Rfc3339Field(source="begun")
    end = Rfc3339Field(source="ended", allow_null=True, help_text="null: it waits.")


class TimelineAbsenceSerializer(serializers.Serializer):
    """A time for which the robot was offline or out of service."""

    kind = serializers.ChoiceField(choices=Absence.Kind.choices)
    begin = Rfc3339Field(source="begun")
    end = Rfc3339Field(source="ended", allow_null=True, help_text="null: it goes on.")


class TimelineMarkSerializer(serializers.Serializer):
    """A cancel of a task, or an entry of the audit about the robot."""

    at = Rfc3339Field()
    text = serializers.CharField()
    by = serializers.CharField(help_text="Who changed the robot; empty for a cancel, whose text says it.")
    task_id = serializers.UUIDField(source="task", allow_null=True)


@extend_schema_serializer(examples=[OpenApiExample("an hour", TIMELINE_EXAMPLE, response_only=True)])
class TimelineSerializer(serializers.Serializer):
    """What a robot did in a span of time."""

    begin = Rfc3339Field(source="begun")
    end = Rfc3339Field(source="until")
    complete = serializers.BooleanField(
        help_text="False: more than 3,000 tasks ended in the span; those that ended first are here. Ask for less."
    )
    attempts = TimelineAttemptSerializer(many=True)
    waits = TimelineWaitSerializer(many=True)
    absences = TimelineAbsenceSerializer(many=True)
    marks = TimelineMarkSerializer(many=True)


class TimelineView(StrictQuery, APIView):
    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}
    query: ClassVar = {"get": SpanSerializer}

    @extend_schema(
        operation_id="timeline_robot__name__timeline_get",
        tags=["robots"],
        parameters=[NAME, SpanSerializer],
        responses=TimelineSerializer,
    )
    def get(self, request: Request, name: str) -> HttpResponse:
        """Get what a robot did in a span of time.

        Attempts and waits of its tasks, each list by time: those that have a moment in the span, whole. Tasks that were
        purged are not here. Absences that are shorter than a minute may be missing.
        """
        begun, until = _span(request)
        robot = robots.services.get(name)
        return answer(TimelineSerializer(timeline.of_robot(robot.name, begun, until)).data)


def _span(request: Request) -> tuple[dt.datetime, dt.datetime]:
    said = read_query(SpanSerializer, request)
    until = said.get("to") or recent_now()
    begun = said.get("from") or until - DAY
    if not dt.timedelta() < until - begun <= LONGEST:
        raise InvalidInput([Problem(("query", "to"), "Should be later than `from`, by at most 31 days", "span")])
    return begun, until
