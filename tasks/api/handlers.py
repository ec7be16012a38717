"""The API's routes about handlers."""

from typing import ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.viewsets import ViewSet

from fmv.accounts.permissions import Role
from fmv.http.json import answer
from fmv.http.query import StrictQuery
from tasks import registry
from tasks.api.serializers import TaskHandlerSerializer, TaskHandlersSerializer

NAME = OpenApiParameter(
    "name",
    str,
    OpenApiParameter.PATH,
    description="The handler's name.",
    examples=[OpenApiExample("a handler", "wait")],
)


class HandlerViewSet(StrictQuery, ViewSet):
    roles: ClassVar[dict[str, Role]] = {"list": Role.VIEWER, "retrieve": Role.VIEWER}

    @extend_schema(operation_id="list_handler__get", tags=["handlers"], responses=TaskHandlersSerializer)
    def list(self, request: Request) -> HttpResponse:
        """List the handlers that tasks can run, by name."""
        return answer(TaskHandlersSerializer({"handlers": registry.all_handlers()}).data)

    @extend_schema(
        operation_id="find_handler__name__get",
        tags=["handlers"],
        parameters=[NAME],
        responses=TaskHandlerSerializer,
    )
    def retrieve(self, request: Request, name: str) -> HttpResponse:
        """Get a handler with the JSON Schema of its parameters."""
        return answer(TaskHandlerSerializer(registry.get(name)).data)
