"""The API's routes about tasks, handlers and robots; the robots' are here because a profile shows tasks."""

from typing import Any, ClassVar
from uuid import UUID

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import ViewSet

import robots.services
from fmv.api import Pages, read_query
from fmv.models import Role
from fmv.schema import error, input_error
from robots.models import Robot
from robots.serializers import (
    RobotFilterSerializer,
    RobotInputSerializer,
    RobotReplacementSerializer,
    RobotSummarySerializer,
)
from tasks import registry, services
from tasks.models import Task
from tasks.serializers import (
    STOPPING_EXAMPLE,
    HandlerSerializer,
    HandlersSerializer,
    LogLineSerializer,
    NewTaskSerializer,
    RobotProfileSerializer,
    SubmitSerializer,
    TaskFilterSerializer,
    TaskSerializer,
)

NAME = OpenApiParameter("name", str, OpenApiParameter.PATH, description="Percent-encoded: `Crow%20T.%20Robot`.")
TASK_ID = OpenApiParameter("task_id", UUID, OpenApiParameter.PATH)


class RobotPages(Pages):
    key = "robots"
    page_size = 1000
    ordering = "name"


class TaskPages(Pages):
    key = "tasks"
    ordering = "-id"

    def check_position(self, position: str) -> None:
        UUID(position or "")


class LogPages(TaskPages):
    key = "lines"
    ordering = "id"


def _read(serializer_class: type[Any], data: Any, **kwargs: Any) -> dict[str, Any]:
    serializer = serializer_class(data=data, **kwargs)
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data


def _page(pages: Pages, queryset: Any, serializer_class: type[Any], request: Request) -> Response:
    rows: Any = pages.paginate_queryset(queryset, request)
    return pages.get_paginated_response(serializer_class(rows, many=True).data)


class RobotViewSet(ViewSet):
    pagination_class = RobotPages
    roles: ClassVar[dict[str, Role]] = {
        "list": Role.VIEWER,
        "create": Role.MANAGER,
        "retrieve": Role.VIEWER,
        "update": Role.MANAGER,
        "partial_update": Role.MANAGER,
        "destroy": Role.MANAGER,
        "run": Role.OPERATOR,
    }

    @extend_schema(
        operation_id="list_robot__get",
        tags=["robots"],
        parameters=[RobotFilterSerializer],
        responses=RobotSummarySerializer(many=True),
    )
    def list(self, request: Request) -> Response:
        """Robots by name, at most 1,000 a page."""
        found = Robot.objects.narrowed(**read_query(RobotFilterSerializer, request))
        return _page(RobotPages(), found, RobotSummarySerializer, request)

    @extend_schema(
        operation_id="create_robot__post",
        tags=["robots"],
        request=RobotInputSerializer,
        responses={
            201: RobotProfileSerializer,
            400: error(400),
            409: input_error("The name is taken"),
        },
    )
    def create(self, request: Request) -> Response:
        """Register a robot."""
        robot = robots.services.create(**_read(RobotInputSerializer, request.data))
        return Response(RobotProfileSerializer(robot).data, status=201)

    @extend_schema(
        operation_id="find_robot__name__get", tags=["robots"], parameters=[NAME], responses=RobotProfileSerializer
    )
    def retrieve(self, request: Request, name: str) -> Response:
        """A robot with its latest 50 tasks, newest first."""
        return Response(RobotProfileSerializer(robots.services.get(name)).data)

    @extend_schema(
        operation_id="replace_robot__name__put",
        tags=["robots"],
        parameters=[NAME],
        request=RobotReplacementSerializer,
        responses={200: RobotProfileSerializer, 201: RobotProfileSerializer, 400: error(400)},
    )
    def update(self, request: Request, name: str) -> Response:
        """Make the robot exactly this, whether it exists or not."""
        values = _read(RobotReplacementSerializer, request.data, context={"name": name})
        robot, created = services.replace_robot(**values | {"name": name})
        return Response(RobotProfileSerializer(robot).data, status=201 if created else 200)

    @extend_schema(
        operation_id="change_robot__name__patch",
        tags=["robots"],
        parameters=[NAME],
        request=RobotReplacementSerializer(partial=True),
        responses={200: RobotProfileSerializer, 400: error(400)},
    )
    def partial_update(self, request: Request, name: str) -> Response:
        """Change the fields that are given."""
        values = _read(RobotReplacementSerializer, request.data, context={"name": name}, partial=True)
        robot = services.change_robot(**values | {"name": name})
        return Response(RobotProfileSerializer(robot).data)

    @extend_schema(
        operation_id="delete_robot__name__delete",
        tags=["robots"],
        parameters=[NAME],
        responses={204: OpenApiResponse(description="It is gone, its finished tasks too"), 409: error(409)},
    )
    def destroy(self, request: Request, name: str) -> Response:
        """Delete a robot and its finished tasks; refused while it has unfinished ones."""
        services.delete_robot(robots.services.get(name))
        return Response(status=204)

    @extend_schema(
        operation_id="run_robot__name__run_post",
        tags=["tasks"],
        parameters=[NAME],
        request=SubmitSerializer,
        responses={200: NewTaskSerializer, 409: error(409)},
    )
    def run(self, request: Request, name: str) -> Response:
        """Submit a task for the robot; without a body `primes` of a random count."""
        robot = robots.services.get(name)
        task = services.submit(robot, by=request.user.get_username(), **_read(SubmitSerializer, request.data))
        return Response(NewTaskSerializer(task).data)


class TaskViewSet(ViewSet):
    pagination_class = TaskPages
    roles: ClassVar[dict[str, Role]] = {
        "list": Role.VIEWER,
        "retrieve": Role.VIEWER,
        "cancel": Role.OPERATOR,
        "retry": Role.OPERATOR,
    }

    @extend_schema(
        operation_id="list_task__get",
        tags=["tasks"],
        parameters=[TaskFilterSerializer],
        responses=TaskSerializer(many=True),
    )
    def list(self, request: Request) -> Response:
        """Tasks, newest first."""
        found = Task.objects.narrowed(**read_query(TaskFilterSerializer, request))
        return _page(TaskPages(), found, TaskSerializer, request)

    @extend_schema(
        operation_id="find_task__task_id__get", tags=["tasks"], parameters=[TASK_ID], responses=TaskSerializer
    )
    def retrieve(self, request: Request, task_id: UUID) -> Response:
        """A task as it is now."""
        return Response(TaskSerializer(services.get(task_id)).data)

    @extend_schema(
        operation_id="cancel_task__task_id__cancel_post",
        tags=["tasks"],
        parameters=[TASK_ID],
        request=None,
        responses={
            200: OpenApiResponse(TaskSerializer, description="It had not started and is REVOKED"),
            202: OpenApiResponse(
                TaskSerializer,
                description="It runs and is being stopped",
                examples=[OpenApiExample("being stopped", STOPPING_EXAMPLE)],
            ),
            409: error(409),
        },
    )
    def cancel(self, request: Request, task_id: UUID) -> Response:
        """Revoke a task that waits, or have a running one stopped."""
        task = services.cancel(services.get(task_id), by=request.user.get_username())
        return Response(TaskSerializer(task).data, status=200 if task.is_finished else 202)

    @extend_schema(
        operation_id="retry_task__task_id__retry_post",
        tags=["tasks"],
        parameters=[TASK_ID],
        request=None,
        responses={200: NewTaskSerializer, 409: error(409)},
    )
    def retry(self, request: Request, task_id: UUID) -> Response:
        """Submit a finished task again, as a new one that names it in `retry_of`."""
        task = services.retry(services.get(task_id), by=request.user.get_username())
        return Response(NewTaskSerializer(task).data)


class TaskLogViewSet(ViewSet):
    pagination_class = LogPages
    roles: ClassVar[dict[str, Role]] = {"list": Role.VIEWER}

    @extend_schema(
        operation_id="log_task__task_id__log_get",
        tags=["tasks"],
        parameters=[TASK_ID],
        responses=LogLineSerializer(many=True),
    )
    def list(self, request: Request, task_id: UUID) -> Response:
        """What the task's handler logged, oldest first."""
        return _page(LogPages(), services.get(task_id).log_lines(), LogLineSerializer, request)


class HandlerViewSet(ViewSet):
    roles: ClassVar[dict[str, Role]] = {"list": Role.VIEWER, "retrieve": Role.VIEWER}

    @extend_schema(operation_id="list_handler__get", tags=["handlers"], responses=HandlersSerializer)
    def list(self, request: Request) -> Response:
        """What can be run, by name."""
        return Response(HandlersSerializer({"handlers": registry.all_handlers()}).data)

    @extend_schema(
        operation_id="find_handler__name__get",
        tags=["handlers"],
        parameters=[OpenApiParameter("name", str, OpenApiParameter.PATH)],
        responses=HandlerSerializer,
    )
    def retrieve(self, request: Request, name: str) -> Response:
        """A handler, with the JSON Schema of its parameters."""
        return Response(HandlerSerializer(registry.get(name)).data)
