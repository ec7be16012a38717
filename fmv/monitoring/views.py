"""Health and metrics endpoints: /livez, /readyz, /metrics, and the API's /health."""

from typing import ClassVar

from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiExample, extend_schema
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from fmv.accounts.permissions import Role
from fmv.http.json import answer as json_answer
from fmv.http.query import StrictQuery
from fmv.monitoring import servers
from fmv.monitoring.metrics import exposition

MAX_CLOCK_SKEW = 5.0  # seconds between this machine's clock and MongoDB's; /readyz reports a larger difference


def livez(request: HttpRequest) -> HttpResponse:
    """Answer 200 without asking any other server."""
    return HttpResponse("OK", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """Answer 200 if MongoDB and the broker do their work, else 503, with a line for each; within 3 seconds.

    The answers of a second are kept, so that many callers cost as much as one. Migrations that are not applied get a
    line and 503, too. Two things get a line while the server stays ready. One is migrations that this code does not
    know: while a new version is rolled out, the old one goes on. The other is a wrong clock: no task depends on it, and
    taking every web server out of service would correct none.
    """
    asked = {"mongodb": servers.mongodb, "broker": servers.broker}
    for server in asked.values():
        server.begin_probe()
    found = {name: server.probe() for name, server in asked.items()}
    status = 200 if all(health.state == "ok" for health in found.values()) else 503
    lines = {name: health.line for name, health in found.items()}
    if isinstance(answer := found["mongodb"].answer, servers.MongoDB):
        if answer.migrations and (text := answer.migrations.problem or answer.migrations.warning):
            lines["migrations"] = text
            status = 503 if answer.migrations.problem else status
        if abs(answer.skew) > MAX_CLOCK_SKEW:
            lines["clock"] = servers.skew_text(answer.skew)
    text = "".join(f"{name}: {line}\n" for name, line in lines.items())
    return HttpResponse(text, status=status, content_type="text/plain")


def metrics(request: HttpRequest) -> HttpResponse:
    """Answer with all metrics in Prometheus' text format."""
    return HttpResponse(exposition(), content_type=CONTENT_TYPE_PLAIN_0_0_4)


class HealthCheckResponseSerializer(serializers.Serializer):
    health = serializers.CharField()


class HealthView(StrictQuery, APIView):
    authentication_classes = []
    permission_classes = []
    throttle_classes = []

    @extend_schema(
        operation_id="health_health_get",
        tags=["service"],
        responses=HealthCheckResponseSerializer,
        examples=[OpenApiExample("answering", {"health": "OK"})],
    )
    def get(self, request: Request) -> HttpResponse:
        """The process answers; nothing else is checked."""
        return json_answer({"health": "OK"})


class MetricsView(APIView):
    """/metrics for callers without FMV_METRICS_TOKEN: viewers may read it."""

    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}
    throttle_classes = []

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        return metrics(request._request)
