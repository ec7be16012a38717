"""Health and metrics endpoints: /livez, /readyz, /metrics, and the API's /health."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import ClassVar

import pymongo
from django.db import DatabaseError
from django.http import HttpRequest, HttpResponse
from drf_spectacular.utils import OpenApiExample, extend_schema
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pymongo.errors import PyMongoError
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.views import APIView

from fmv.accounts.permissions import Role
from fmv.deadline import call_in_thread
from fmv.http.json import answer
from fmv.http.query import StrictQuery
from fmv.mongodb.migration_state import migration_state
from fmv.monitoring.metrics import exposition
from fmv.monitoring.servers import TIMEOUT, Unreachable, ask_broker, ask_mongodb, clock_skew, skew_text

MAX_CLOCK_SKEW = 5.0  # seconds between this machine's clock and MongoDB's; /readyz reports a larger difference


def livez(request: HttpRequest) -> HttpResponse:
    """Answer 200 without asking any other server."""
    return HttpResponse("OK", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """Answer 200 if MongoDB and the broker do, else 503, with a line for each; within 3 seconds.

    Migrations that are not applied get a line and 503, too. Two things get a line while the server stays ready. One is
    migrations that this code does not know: while a new version is rolled out, the old one goes on. The other is a
    wrong clock: no task depends on it, and taking every web server out of service would correct none.
    """
    servers: dict[str, Callable[[], object]] = {"mongodb": ask_mongodb, "broker": ask_broker}
    asked = {name: call_in_thread(ask, "readyz") for name, ask in servers.items()}
    lines = {name: _line(future) for name, future in asked.items()}
    status = 200 if set(lines.values()) == {"OK"} else 503
    if lines["mongodb"] == "OK":
        with contextlib.suppress(PyMongoError, DatabaseError), pymongo.timeout(TIMEOUT / 2):
            state = migration_state()
            if text := state.problem or state.warning:
                lines["migrations"] = text
            status = 503 if state.problem else status
            if abs(skew := clock_skew()) > MAX_CLOCK_SKEW:
                lines["clock"] = skew_text(skew)
    text = "".join(f"{name}: {line}\n" for name, line in lines.items())
    return HttpResponse(text, status=status, content_type="text/plain")


def _line(asked: "Future[object]") -> str:
    try:
        asked.result(TIMEOUT + 0.5)
    except Unreachable as error:
        return f"cannot be reached: {error.kind}"
    except TimeoutError:
        return f"no answer within {TIMEOUT:g} s"
    return "OK"


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
        return answer({"health": "OK"})


class MetricsView(APIView):
    """/metrics for callers without FMV_METRICS_TOKEN: viewers may read it."""

    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}
    throttle_classes = []

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        return metrics(request._request)
