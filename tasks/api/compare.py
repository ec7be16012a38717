"""The API's route that compares a span of time with the one before."""

from typing import ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from fmv.accounts.permissions import Role
from fmv.http.fields import Rfc3339Field, StrictCharField
from fmv.http.json import answer
from fmv.http.query import StrictQuery, read_query
from tasks.api.examples import COMPARISON_EXAMPLE
from tasks.api.serializers import LimitField
from tasks.reports.comparison import BY, SPANS, Asked, compare


class CompareFilterSerializer(serializers.Serializer):
    """What to compare."""

    by = serializers.ChoiceField(
        choices=list(BY),
        default="handler",
        help_text="The rows: handlers, robots, or the locations or labels of robots.",
    )
    span = serializers.ChoiceField(
        choices=list(SPANS),
        default="week",
        help_text="`day`: 24 hours, against the 24 before. `week` and `month`: today so far and the 6 or 27 days "
        "before it in UTC, against the same 7 or 28 days earlier.",
    )
    until = LimitField(
        required=False,
        default=None,
        help_text="The end of the span, cut to a full hour; the last full hour if omitted.",
    )
    handler = StrictCharField(required=False, help_text="Only tasks of this handler.")
    robot = StrictCharField(required=False, help_text="Only tasks of this robot.")
    location = StrictCharField(required=False, help_text="Only tasks of robots at this location.")
    label = StrictCharField(required=False, help_text="Only tasks of robots with this label.")  # type: ignore[assignment]


class FiguresSerializer(serializers.Serializer):
    """How the tasks went that finished in a span. Waits and runs are seconds, within 10 % of the exact number."""

    succeeded = serializers.IntegerField(source="sums.succeeded")
    failed = serializers.IntegerField(source="sums.failed")
    cancelled = serializers.IntegerField(source="sums.cancelled")
    success_rate = serializers.FloatField(
        allow_null=True, help_text="Percent of those that succeeded or failed; null if there were none."
    )
    per_hour = serializers.FloatField(help_text="Finished tasks an hour.")
    wait_p50 = serializers.FloatField(
        allow_null=True, help_text="Half of the tasks waited at most so long: from queued first to their first start."
    )
    wait_p95 = serializers.FloatField(allow_null=True, help_text="95 % of the tasks waited at most so long.")
    run_p50 = serializers.FloatField(
        allow_null=True, help_text="Half of the tasks that succeeded ran at most so long, in their last attempt."
    )
    run_p95 = serializers.FloatField(allow_null=True, help_text="95 % of them ran at most so long.")


class PeriodSerializer(serializers.Serializer):
    """A span of time."""

    begin = Rfc3339Field(source="begun")
    end = Rfc3339Field(source="until", help_text="The first moment after it.")


class GroupSerializer(serializers.Serializer):
    """The tasks of a handler, robot, location or label."""

    name = serializers.CharField(
        help_text="`(no label)` or `(not registered)` stands for robots without a label, and for deleted ones."
    )
    now = FiguresSerializer()
    before = FiguresSerializer()


@extend_schema_serializer(examples=[OpenApiExample("a week", COMPARISON_EXAMPLE, response_only=True)])
class ComparisonSerializer(serializers.Serializer):
    """A span of time, and the one before."""

    now = PeriodSerializer()
    before = PeriodSerializer()
    total = GroupSerializer(help_text="All tasks together, without a name.")
    groups = GroupSerializer(many=True, help_text="At most 1,000, those with most tasks first.")
    complete = serializers.BooleanField(
        help_text="False: there were too many totals to read, so the numbers are too small. Ask for less."
    )


class CompareView(StrictQuery, APIView):
    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}
    query: ClassVar = {"get": CompareFilterSerializer}

    @extend_schema(
        operation_id="compare_compare_get",
        tags=["service"],
        parameters=[CompareFilterSerializer],
        responses=ComparisonSerializer,
    )
    def get(self, request: Request) -> HttpResponse:
        """Compare a day, a week or four weeks with the time before.

        A task counts when the hour in which it finished is over. The numbers of hours are kept for a year, also those
        of tasks that were deleted since.
        """
        return answer(ComparisonSerializer(compare(Asked(**read_query(CompareFilterSerializer, request)))).data)
