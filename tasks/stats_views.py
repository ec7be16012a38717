"""The API's route about how queue and fleet are doing."""

from typing import ClassVar

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from fmv.models import Role
from tasks import stats
from tasks.serializers import StatsSerializer


class StatsView(APIView):
    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}

    @extend_schema(operation_id="stats_stats_get", tags=["service"], responses=StatsSerializer)
    def get(self, request: Request) -> Response:
        """Tasks by status and handler, how long the queue has waited, the last hour, and the robots."""
        return Response(StatsSerializer(stats.overview()).data)
