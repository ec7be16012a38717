"""The API's route with the numbers of the queue and the fleet."""

from typing import ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from fmv.accounts.permissions import Role
from fmv.http.json import answer
from fmv.http.query import StrictQuery
from tasks.api.serializers import StatsSerializer
from tasks.reports import queue_stats


class StatsView(StrictQuery, APIView):
    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}

    @extend_schema(operation_id="stats_stats_get", tags=["service"], responses=StatsSerializer)
    def get(self, request: Request) -> HttpResponse:
        """Get the numbers of the queue and the fleet.

        Unfinished tasks by status and handler, up to 100,000 of each status; all tasks that ever finished, including
        those that were deleted since; the wait of the oldest queued task; the last hour; robots in and out of service.
        """
        return answer(StatsSerializer(queue_stats.overview()).data)
