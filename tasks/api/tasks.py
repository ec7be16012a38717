"""The API's routes about tasks."""

from typing import Any, ClassVar
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.viewsets import ViewSet

from fmv.accounts.permissions import Role
from fmv.errors import InvalidInput, Problem
from fmv.http.fields import read_body
from fmv.http.json import answer
from fmv.http.openapi import conflict_schema
from fmv.http.pagination import Pages
from fmv.http.query import StrictQuery, read_query
from robots.errors import UnknownRobot
from tasks.api.attention_serializers import TaskWaitingSerializer
from tasks.api.examples import STOPPING_EXAMPLE
from tasks.api.idempotency import IDEMPOTENCY_KEY, idempotency_key
from tasks.api.rendering import render, render_line, render_new, render_object, render_waiting
from tasks.api.serializers import (
    BatchSerializer,
    CancellationSerializer,
    LogLineSerializer,
    MoveSerializer,
    PrioritySerializer,
    RobotTaskSerializer,
    SubmittedTaskSerializer,
    SubmittedTasksSerializer,
    TaskFilterSerializer,
)
from tasks.models import Task
from tasks.queue import place, robots_lost, services
from tasks.reports import waiting_reason

TASK_ID = OpenApiParameter(
    "task_id", UUID, OpenApiParameter.PATH, description="The task's id, as in the answer to its submit."
)


class TaskPages(Pages):
    key = "tasks"
    newest_first = True

    def check_position(self, position: str) -> None:
        UUID(position or "")


class LogPages(TaskPages):
    key = "lines"
    newest_first = False


class TaskViewSet(StrictQuery, ViewSet):
    query: ClassVar = {"list": TaskFilterSerializer}
    pagination_class = TaskPages
    roles: ClassVar[dict[str, Role]] = {
        "list": Role.VIEWER,
        "retrieve": Role.VIEWER,
        "waiting": Role.VIEWER,
        "batch": Role.OPERATOR,
        "cancel": Role.OPERATOR,
        "retry": Role.OPERATOR,
        "priority": Role.OPERATOR,
        "move": Role.OPERATOR,
        "end": Role.OPERATOR,
        "free": Role.OPERATOR,
    }

    @extend_schema(
        operation_id="list_task__get",
        tags=["tasks"],
        parameters=[TaskFilterSerializer],
        responses=RobotTaskSerializer(many=True),
    )
    def list(self, request: Request) -> HttpResponse:
        """List tasks, newest first, 100 to a page unless `limit` says otherwise.

        The filters are combined. A page ends earlier when its tasks have 2 MiB (`FMV_PAGE_BYTES`). `next` and
        `previous` are the URLs of the neighbouring pages, or null.
        """
        found = Task.objects.matching(**read_query(TaskFilterSerializer, request))
        return TaskPages().answer(found, render, request)

    @extend_schema(
        operation_id="find_task__task_id__get", tags=["tasks"], parameters=[TASK_ID], responses=RobotTaskSerializer
    )
    def retrieve(self, request: Request, task_id: UUID) -> HttpResponse:
        """Get a task in its current state."""
        return answer(render(services.document(task_id)))

    @extend_schema(
        operation_id="waiting_task__task_id__waiting_get",
        tags=["tasks"],
        parameters=[TASK_ID],
        responses=TaskWaitingSerializer,
    )
    def waiting(self, request: Request, task_id: UUID) -> HttpResponse:
        """Get why a task waits: its robot, the lanes, the task before it, the workers, the robot's agent, or its time.

        Of several reasons it is the one that must end first.
        """
        task = services.get(task_id)
        return answer(render_waiting(task, waiting_reason.of_task(task)))

    @extend_schema(
        operation_id="batch_task_batch_post",
        tags=["tasks"],
        parameters=[IDEMPOTENCY_KEY],
        request=BatchSerializer,
        responses={200: SubmittedTasksSerializer, 409: conflict_schema()},
    )
    def batch(self, request: Request) -> HttpResponse:
        """Submit up to 1,000 tasks, all or none.

        The answer has one task for each run, in order. The batch is accepted in one write; once accepted, it is queued
        even if the web server dies in the middle of it. Send an `Idempotency-Key` to be able to repeat the request
        safely.
        """
        runs = read_body(BatchSerializer, request.data)["runs"]
        tasks = services.submit(runs, by=request.user.get_username(), key=idempotency_key(request))
        return answer({"tasks": [render_new(task) for task in tasks]})

    @extend_schema(
        operation_id="cancel_task__task_id__cancel_post",
        tags=["tasks"],
        parameters=[TASK_ID],
        request=CancellationSerializer,
        responses={
            200: OpenApiResponse(RobotTaskSerializer, description="The task had not started and is now REVOKED"),
            202: OpenApiResponse(
                RobotTaskSerializer,
                description="The task is running and is being stopped",
                examples=[OpenApiExample("being stopped", STOPPING_EXAMPLE)],
            ),
            409: conflict_schema(),
        },
    )
    def cancel(self, request: Request, task_id: UUID) -> HttpResponse:
        """Cancel a task.

        A task that has not started is revoked at once (200). A running one is asked to stop (202); it becomes REVOKED
        when its handler has stopped. One that runs on the robot becomes so too, with its lane blocked, if the robot has
        not confirmed that it stopped when the `cancel_grace` of the handler is over. A finished task is refused with
        409. The body may be left out, or say why.
        """
        body: Any = request.data
        reason = read_body(CancellationSerializer, {} if body is None else body)["reason"]
        task = services.cancel(services.get(task_id), by=request.user.get_username(), reason=reason)
        return answer(render_object(task), 200 if task.is_finished else 202)

    @extend_schema(
        operation_id="priority_task__task_id__priority_post",
        tags=["tasks"],
        parameters=[TASK_ID],
        request=PrioritySerializer,
        responses={200: RobotTaskSerializer, 409: conflict_schema()},
    )
    def priority(self, request: Request, task_id: UUID) -> HttpResponse:
        """Change the place of a waiting task in the queue of its robot.

        A robot takes its tasks by priority, then by age. `front` gives a queued task the priority that puts it before
        all others that are queued now; later ones of a higher priority still come before it. A line of the history says
        who did it. A task that runs or is over is refused with 409.
        """
        place_wanted, by = read_body(PrioritySerializer, request.data), request.user.get_username()
        task = services.get(task_id)
        if place_wanted.get("front"):
            task = place.put_first(task, by=by)
        elif "priority" in place_wanted:
            task = place.prioritize(task, place_wanted["priority"], by=by)
        return answer(render_object(task))

    @extend_schema(
        operation_id="move_task__task_id__move_post",
        tags=["tasks"],
        parameters=[TASK_ID],
        request=MoveSerializer,
        responses={200: RobotTaskSerializer, 409: conflict_schema()},
    )
    def move(self, request: Request, task_id: UUID) -> HttpResponse:
        """Move a waiting task to another robot.

        It keeps its priority, its age and its times. A line of the history says who moved it, from where to where. A
        task that runs or is over is refused with 409; so is one for a robot out of service, and one that runs on the
        robot for a robot whose agent is not signed in or does not know the handler.
        """
        where = read_body(MoveSerializer, request.data)
        to, label, by = where.get("robot", ""), where.get("label", ""), request.user.get_username()
        task = services.get(task_id)
        try:
            return answer(render_object(services.move(task, to=to, label=label, by=by)))
        except UnknownRobot:
            raise InvalidInput([Problem(("body", "robot"), "No such robot", "unknown_robot")]) from None

    @extend_schema(
        operation_id="retry_task__task_id__retry_post",
        tags=["tasks"],
        parameters=[TASK_ID, IDEMPOTENCY_KEY],
        request=None,
        responses={200: SubmittedTaskSerializer, 409: conflict_schema()},
    )
    def retry(self, request: Request, task_id: UUID) -> HttpResponse:
        """Submit a finished task again.

        The new task names the old one in `retry_of`. It starts as soon as it can, or at the `run_at` of the old one if
        that was cancelled before this time and the time is still ahead. An unfinished task is refused with 409. Send an
        `Idempotency-Key` to be able to repeat the request safely.
        """
        task = services.retry(services.get(task_id), by=request.user.get_username(), key=idempotency_key(request))
        return answer(render_new(task))

    @extend_schema(
        operation_id="end_task__task_id__end_post",
        tags=["tasks"],
        parameters=[TASK_ID],
        request=None,
        responses={200: RobotTaskSerializer, 409: conflict_schema()},
    )
    def end(self, request: Request, task_id: UUID) -> HttpResponse:
        """End the wait for a robot that is out of contact.

        The attempt ends at once and is tried again, or fails if no attempts are left. The robot may still move: look
        first. A task whose robot is in contact, or whose cancel was asked for, is refused with 409.
        """
        robots_lost.end_silent(services.get(task_id), by=request.user.get_username())
        return answer(render_object(services.get(task_id)))

    @extend_schema(
        operation_id="free_task__task_id__free_post",
        tags=["tasks"],
        parameters=[TASK_ID],
        request=None,
        responses={200: RobotTaskSerializer, 409: conflict_schema()},
    )
    def free(self, request: Request, task_id: UUID) -> HttpResponse:
        """Free the lane that a task has kept after its end.

        When a robot does not confirm that it has stopped a task, no other task starts on that lane until the robot's
        agent reports the end of the attempt, or is started again. Free the lane only if you have seen that the robot
        stands still. A task that keeps no lane is refused with 409.
        """
        robots_lost.free_lane(services.get(task_id), by=request.user.get_username())
        return answer(render_object(services.get(task_id)))


class TaskLogViewSet(StrictQuery, ViewSet):
    pagination_class = LogPages
    roles: ClassVar[dict[str, Role]] = {"list": Role.VIEWER}

    @extend_schema(
        operation_id="log_task__task_id__log_get",
        tags=["tasks"],
        parameters=[TASK_ID],
        responses=LogLineSerializer(many=True),
    )
    def list(self, request: Request, task_id: UUID) -> HttpResponse:
        """List the lines that the task's handler logged, oldest first.

        There are 100 to a page unless `limit` says otherwise, and fewer when these have more than 2 MiB
        (`FMV_PAGE_BYTES`). `next` and `previous` are the URLs of the neighbouring pages, or null.
        """
        return LogPages().answer(services.get(task_id).log_lines(), render_line, request)
