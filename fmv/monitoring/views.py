"""The API's routes about the service itself: /health, and /metrics for who may read the rest too."""

from typing import ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from fmv.accounts.permissions import Role
from fmv.http.json import answer
from fmv.monitoring import probes


class HealthSerializer(serializers.Serializer):
    health = serializers.CharField()


class HealthView(APIView):
    authentication_classes = []
    permission_classes = []
    throttle_classes = []

    @extend_schema(
        operation_id="health_health_get",
        tags=["service"],
        responses=HealthSerializer,
        examples=[OpenApiExample("answering", {"health": "OK"})],
    )
    def get(self, request: Request) -> HttpResponse:
        """The process answers; nothing else is checked."""
        return answer({"health": "OK"})


class MetricsView(APIView):
    """What Prometheus reads, for callers who may read the rest too."""

    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}
    throttle_classes = []

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        return probes.metrics(request._request)
