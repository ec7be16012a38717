"""The API's route about how queue and fleet are doing."""

from typing import ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from fmv.api import answer
from fmv.models import Role
from fmv.rest import View
from tasks import stats
from tasks.serializers import StatsSerializer


class StatsView(View):
    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}

    @extend_schema(operation_id="stats_stats_get", tags=["service"], responses=StatsSerializer)
    def get(self, request: Request) -> HttpResponse:
        """Tasks by status and handler, how long the queue has waited, the last hour, and the robots."""
        return answer(StatsSerializer(stats.overview()).data)
