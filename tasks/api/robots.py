"""The API's routes about robots. They are not in `robots` because a robot's profile shows its tasks."""

import re
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from django.http import HttpResponse
from django.utils.http import parse_etags
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.viewsets import ViewSet

import robots.services
from fmv.accounts.permissions import Role
from fmv.errors import InvalidInput, Problem
from fmv.http.fields import read_body
from fmv.http.json import answer, nothing
from fmv.http.openapi import conflict_schema, error_schema
from fmv.http.pagination import Pages, first_rows
from fmv.http.query import StrictQuery, read_query
from fmv.mongodb.documents import columns_of, find_document
from robots import rendering
from robots.errors import Changed, NameTaken, UnknownRobot
from robots.models import Robot, RobotState
from robots.serializers import (
    HoldInputSerializer,
    RobotChangeSerializer,
    RobotFilterSerializer,
    RobotInputSerializer,
    RobotReplacementSerializer,
    RobotSerializer,
)
from tasks.api.idempotency import IDEMPOTENCY_KEY, idempotency_key
from tasks.api.rendering import render, render_new
from tasks.api.serializers import RobotProfileSerializer, SubmitSerializer, SubmittedTaskSerializer
from tasks.models import Task
from tasks.queue import services
from tasks.reports import mismatches

NAME_TAKEN = {"loc": ["body", "name"], "msg": "A robot named 'Bender' exists already", "type": "name_taken"}
HELD = "The queue is held by leela (“The lift is being repaired”) since 2026-11-23 08:00:00 UTC. Release it first."
LATEST = 50  # tasks in a robot's profile

NAME = OpenApiParameter(
    "name",
    str,
    OpenApiParameter.PATH,
    description="The robot's name, percent-encoded: `Crow%20T.%20Robot`.",
    examples=[OpenApiExample("a robot", "Bender")],
)
IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    description="Do it only if the robot still has this `ETag`; otherwise the answer is 412.",
)
IF_NONE_MATCH = OpenApiParameter(
    "If-None-Match",
    {"type": "string", "enum": ["*"]},
    OpenApiParameter.HEADER,
    description="Create the robot; if it exists already, the answer is 412.",
)
ETAG = OpenApiParameter(
    "ETag",
    str,
    OpenApiParameter.HEADER,
    description="The robot's revision; it changes with each change of the robot.",
    response=[200, 201],
    required=True,
)


class RobotPages(Pages):
    key = "robots"
    page_size = 1000
    columns = ("is_great", "location")


class RobotStatePages(RobotPages):
    read = staticmethod(mismatches.documents_with_alarms)


def revisions(request: Request) -> Collection[int] | None:
    """Return the revisions that `If-Match` names, None for `*` and without the header."""
    tags = parse_etags(request.headers.get("If-Match", "*"))
    return None if "*" in tags else {int(tag.strip('"')) for tag in tags if re.fullmatch(r'"[0-9]{1,9}"', tag)}


def caller(request: Request) -> str:
    """Return the caller's name for histories and the audit list."""
    return request.user.get_username()


def only_if_new(request: Request) -> bool:
    """Return whether the request has `If-None-Match: *`. Raises InvalidInput for another value."""
    value = request.headers.get("If-None-Match", "*").strip()
    if value != "*":
        raise InvalidInput([Problem(("header", "If-None-Match"), "Input should be *", "enum")])
    return "If-None-Match" in request.headers


def profile(robot: Mapping[str, Any], *, is_new: bool = False) -> HttpResponse:
    """Answer with the robot, given its columns, and its latest tasks; a new robot has none, so none are looked up."""
    latest = [] if is_new else first_rows(Task, {"robot": robot["_id"]}, render, LATEST, descending=True).json
    state = None if is_new else find_document(RobotState, robot["_id"])
    alarms = mismatches.of_documents([state])[robot["_id"]] if state else ()
    status, etag = 201 if is_new else 200, f'"{robot["revision"]}"'
    return answer(rendering.profile(robot, latest, state, alarms), status, {"ETag": etag})


class RobotViewSet(StrictQuery, ViewSet):
    query: ClassVar = {"list": RobotFilterSerializer}
    pagination_class = RobotPages
    roles: ClassVar[dict[str, Role]] = {
        "list": Role.VIEWER,
        "create": Role.MANAGER,
        "retrieve": Role.VIEWER,
        "update": Role.MANAGER,
        "partial_update": Role.OPERATOR,
        "destroy": Role.MANAGER,
        "run": Role.OPERATOR,
        "hold": Role.OPERATOR,
        "release": Role.OPERATOR,
    }

    @extend_schema(
        operation_id="list_robot__get",
        tags=["robots"],
        parameters=[RobotFilterSerializer],
        responses=RobotSerializer(many=True),
    )
    def list(self, request: Request) -> HttpResponse:
        """List robots by name, 1,000 to a page unless `limit` says otherwise.

        `next` and `previous` are the URLs of the neighbouring pages, or null.
        """
        filters = read_query(RobotFilterSerializer, request)
        with_state = filters.pop("state")
        found = Robot.objects.matching(**filters)
        if with_state:
            return RobotStatePages().answer(found, rendering.summary_with_state, request)
        return RobotPages().answer(found, rendering.summary, request)

    @extend_schema(
        operation_id="create_robot__post",
        tags=["robots"],
        parameters=[ETAG],
        request=RobotInputSerializer,
        responses={
            201: RobotProfileSerializer,
            400: error_schema(400),
            409: conflict_schema([NAME_TAKEN], "The name is taken"),
        },
    )
    def create(self, request: Request) -> HttpResponse:
        """Create a robot.

        `is_great` is refused with 400 for every robot but `Bender`. A name that is taken is refused with 409.
        """
        robot = robots.services.create(**read_body(RobotInputSerializer, request.data), by=caller(request))
        return profile(columns_of(robot), is_new=True)

    @extend_schema(
        operation_id="find_robot__name__get", tags=["robots"], parameters=[NAME, ETAG], responses=RobotProfileSerializer
    )
    def retrieve(self, request: Request, name: str) -> HttpResponse:
        """Get a robot with its latest 50 tasks, newest first. The header `ETag` is its revision.

        There are fewer tasks when 50 have more than 2 MiB (`FMV_PAGE_BYTES`); `GET /task/?robot=` lists all.
        """
        return profile(robots.services.document(name))

    @extend_schema(
        operation_id="replace_robot__name__put",
        tags=["robots"],
        parameters=[NAME, IF_MATCH, IF_NONE_MATCH, ETAG],
        request=RobotReplacementSerializer,
        responses={
            200: RobotProfileSerializer,
            201: RobotProfileSerializer,
            400: error_schema(400),
            412: error_schema(412),
        },
    )
    def update(self, request: Request, name: str) -> HttpResponse:
        """Create or replace the robot.

        Fields that the body leaves out get their defaults. With `If-Match` the robot is replaced only if its `ETag` is
        still that one; with `If-None-Match: *` it is created only if it does not exist. Otherwise the answer is 412.
        """
        values = read_body(RobotReplacementSerializer, request.data, context={"name": name})
        robot, created = _replace(request, **values | {"name": name, "by": caller(request)})
        return profile(columns_of(robot), is_new=created)

    @extend_schema(
        operation_id="change_robot__name__patch",
        tags=["robots"],
        parameters=[NAME, IF_MATCH, ETAG],
        request=RobotChangeSerializer,
        responses={200: RobotProfileSerializer, 400: error_schema(400), 412: error_schema(412)},
    )
    def partial_update(self, request: Request, name: str) -> HttpResponse:
        """Change the fields that the body names.

        Operators may change `enabled` only, which takes a robot out of service and back; managers may change all. With
        `If-Match` the robot is changed only if its `ETag` is still that one; otherwise the answer is 412.
        """
        values = read_body(RobotChangeSerializer, request.data, context={"name": name})
        user: Any = request.user
        if values.keys() - {"name", "enabled"} and not user.effective_role.includes(Role.MANAGER):
            self.permission_denied(request, "An operator may change `enabled` only")
        values |= {"name": name, "by": caller(request), "revisions": revisions(request)}
        return profile(columns_of(services.change_robot(**values)))

    @extend_schema(
        operation_id="delete_robot__name__delete",
        tags=["robots"],
        parameters=[NAME, IF_MATCH],
        responses={
            204: OpenApiResponse(description="The robot and its finished tasks are deleted"),
            409: conflict_schema(),
            412: error_schema(412),
        },
    )
    def destroy(self, request: Request, name: str) -> HttpResponse:
        """Delete a robot and its finished tasks.

        A robot with unfinished tasks or a blocked lane is refused with 409. With `If-Match` the robot is deleted only
        if its `ETag` is still that one; otherwise the answer is 412.
        """
        services.delete_robot(name, by=caller(request), revisions=revisions(request))
        return nothing()

    @extend_schema(
        operation_id="run_robot__name__run_post",
        tags=["tasks"],
        parameters=[NAME, IDEMPOTENCY_KEY],
        request=SubmitSerializer,
        responses={200: SubmittedTaskSerializer, 409: conflict_schema()},
    )
    def run(self, request: Request, name: str) -> HttpResponse:
        """Submit a task for the robot.

        Without a body the task runs the handler `primes` with a random count. A robot that is out of service is refused
        with 409 unless the body says `"queue_anyway": true`. Send an `Idempotency-Key` to be able to repeat the request
        safely.
        """
        body: Any = request.data
        if body is None:  # some generated clients send `null` for no body
            body = {}
        run = {"robot": name, **read_body(SubmitSerializer, body)}
        return answer(render_new(services.submit(run, by=caller(request), key=idempotency_key(request))))

    @extend_schema(
        operation_id="hold_robot__name__hold_post",
        tags=["robots"],
        parameters=[NAME, ETAG],
        request=HoldInputSerializer,
        responses={200: RobotProfileSerializer, 409: conflict_schema(HELD)},
    )
    def hold(self, request: Request, name: str) -> HttpResponse:
        """Hold the robot's queue.

        The robot starts no task until the queue is released; the tasks that run go on. A robot out of service refuses
        new tasks and need not be online; one whose queue is held stays in service: it takes new tasks, which wait. The
        `hold` of its profile says who holds it, since when and why. The same request again changes nothing. A queue
        that somebody else holds, or that is held for another reason, is refused with 409.
        """
        body: Any = request.data
        if body is None:
            body = {}
        why = read_body(HoldInputSerializer, body)["why"]
        return profile(columns_of(services.hold_queue(name, by=caller(request), why=why)))

    @extend_schema(
        operation_id="release_robot__name__release_post",
        tags=["robots"],
        parameters=[NAME, ETAG],
        request=None,
        responses={200: RobotProfileSerializer},
    )
    def release(self, request: Request, name: str) -> HttpResponse:
        """Release the robot's queue.

        Its tasks start again, unless the robot is out of service. A queue that is not held stays as it is.
        """
        return profile(columns_of(services.release_queue(name, by=caller(request))))


def _replace(request: Request, **values: Any) -> tuple[Robot, bool]:
    try:
        if only_if_new(request):
            return robots.services.create(**values), True
        if "If-Match" in request.headers:
            return services.change_robot(**values, revisions=revisions(request)), False
    except (NameTaken, UnknownRobot):
        raise Changed from None
    return services.replace_robot(**values)
