"""The API's route about how queue and fleet are doing."""

from typing import ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from fmv.accounts.permissions import Role
from fmv.http.json import answer
from tasks.api.serializers import StatsSerializer
from tasks.reports import queue_stats


class StatsView(APIView):
    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}

    @extend_schema(operation_id="stats_stats_get", tags=["service"], responses=StatsSerializer)
    def get(self, request: Request) -> HttpResponse:
        """Tasks by status and handler, how long the queue has waited, the last hour, and the robots."""
        return answer(StatsSerializer(queue_stats.overview()).data)
