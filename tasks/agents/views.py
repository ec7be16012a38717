"""The API's routes for robots' agents. The token says which robot; no route names it."""

import time
from contextlib import closing
from typing import Any
from uuid import UUID

from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.request import Request
from rest_framework.views import APIView

from fmv.accounts.authentication import ApiTokenBearer
from fmv.accounts.permissions import still_allowed
from fmv.http.fields import read_body
from fmv.http.json import answer, nothing
from fmv.http.query import StrictQuery
from fmv.http.waiting import TooManyWait, client_is_there, retry_after
from robots import agents
from robots.state_serializers import StateInputSerializer
from tasks import registry
from tasks.agents import services
from tasks.agents.answers import Held
from tasks.agents.errors import AttemptLost
from tasks.agents.serializers import (
    PROTOCOL,
    AgentConflictSerializer,
    ClaimedSerializer,
    ClaimSerializer,
    FinishSerializer,
    GoodbyeSerializer,
    InSessionSerializer,
    LoggedSerializer,
    LogSerializer,
    OpenSessionSerializer,
    ReleaseSerializer,
    RenewedSerializer,
    RenewSerializer,
    SessionSerializer,
    StateTakenSerializer,
)
from tasks.api.rendering import render_object
from tasks.api.serializers import RobotTaskSerializer
from tasks.models.robot_attempt import hold_of, lease_of
from tasks.queue.waiting import WaitingClaim

TASK_ID = OpenApiParameter("task_id", UUID, OpenApiParameter.PATH, description="The task's id, as in the claim.")
CONFLICT = OpenApiResponse(
    AgentConflictSerializer,
    description="Not, or no longer, as the request takes it to be",
    examples=[OpenApiExample("lost", {"detail": str(AttemptLost()), "code": AttemptLost.code})],
)
NO_TASK = OpenApiResponse(description="There is no task for the robot: ask again after `Retry-After` seconds")
PAUSE = (4.0, 6.0)  # seconds, least and most, after which an agent asks again that does not wait
REPORTED = ("progress", "message", "checkpoint")


class AgentView(StrictQuery, APIView):
    """A route for the agent whose token the request has."""

    agent = True
    authentication_classes = [ApiTokenBearer]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        self.robot: str = request.user.robot  # type: ignore[union-attr]

    def read(self, serializer: type[InSessionSerializer], request: Request) -> dict[str, Any]:
        """Return the validated body, and note that the robot's agent was heard. Raises DRF's ValidationError."""
        body = read_body(serializer, request.data)
        agents.seen(self.robot, body["session"])
        return body


def render_held(held: Held) -> dict[str, Any]:
    """Return the same as ClaimedSerializer."""
    return {
        "task": render_object(held.task),
        "attempt": held.task.attempt,
        "lease_seconds": held.lease_seconds,
        "hold_seconds": held.hold_seconds,
        "resumed": held.resumed,
        "checkpoint": held.task.checkpoint,
    }


class SessionView(AgentView):
    @extend_schema(
        operation_id="open_session_agent_session_post",
        tags=["agents"],
        request=OpenSessionSerializer,
        responses={200: SessionSerializer, 409: CONFLICT},
    )
    def post(self, request: Request) -> HttpResponse:
        """Open a session of the robot's agent.

        It ends the session before, whose requests are then answered with 409 `session_replaced`. If the same start of
        the program (the same `boot_id`) has the session already, that goes on: the request may be repeated. The answer
        lists the attempts that the robot holds. After a restart of the program (another `boot_id`) these are only those
        whose handler can go on (`resume`) and is among the session's `handlers`; the others are tried again or fail.
        """
        session, held = services.open_session(self.robot, **read_body(OpenSessionSerializer, request.data))
        lease = registry.Handler.lease
        return answer(
            {
                "session": session.id,
                "robot": self.robot,
                "protocol": PROTOCOL,
                "lease_seconds": lease,
                "renew_seconds": lease / 3,
                "report_seconds": agents.report_seconds(),
                "tasks": [render_held(each) for each in held],
            }
        )

    @extend_schema(
        operation_id="close_session_agent_session_delete",
        tags=["agents"],
        request=GoodbyeSerializer,
        responses={204: OpenApiResponse(description="The robot is offline"), 409: CONFLICT},
    )
    def delete(self, request: Request) -> HttpResponse:
        """Say goodbye.

        The robot is offline at once. Release its tasks before. The body may be left out.
        """
        agents.close_session(self.robot, read_body(GoodbyeSerializer, request.data or {})["session"])
        return nothing()


class ClaimView(AgentView):
    @extend_schema(
        operation_id="claim_agent_claim_post",
        tags=["agents"],
        request=ClaimSerializer,
        responses={200: ClaimedSerializer, 204: NO_TASK, 409: CONFLICT},
    )
    def post(self, request: Request) -> HttpResponse:
        """Ask for the robot's next task.

        Without one the request waits up to `wait` seconds, and 204 is the answer. The robot gets none while it is out
        of service, while its lanes are taken, while its next task is for a worker, or if it does not know the handler
        of its next task. The first lease is short: renew at once, and begin when that has succeeded. A process of the
        web server lets only some requests wait (`FMV_MAX_CLAIMS`).
        """
        body = self.read(ClaimSerializer, request)
        asked = body["session"], body["claim_id"]
        if not client_is_there(request._request):
            return nothing()  # nobody reads it
        until = time.monotonic() + body["wait"]
        try:
            waiting = WaitingClaim(self.robot) if body["wait"] else None
        except TooManyWait:
            return self._answer(services.claim(self.robot, *asked), retry_after())
        if waiting is None:
            return self._answer(services.claim(self.robot, *asked), retry_after(*PAUSE))
        with closing(waiting):
            held = services.claim(self.robot, *asked)
            while held is None:
                if not waiting.wait(request._request, until):
                    return nothing()  # nobody reads it
                if time.monotonic() >= until or waiting.server_is_stopping():
                    break  # the agent's next claim looks at once
                self._check_again(request)
                held = services.claim(self.robot, *asked)
            return self._answer(held, retry_after() if waiting.server_is_stopping() else "0")

    def _check_again(self, request: Request) -> None:
        """Refuse a request whose token was revoked while it waited."""
        if not still_allowed(self, request._request):
            raise AuthenticationFailed("The token is no longer valid.")

    def _answer(self, held: Held | None, pause: str) -> HttpResponse:
        if held is not None:
            return answer(render_held(held))
        response = nothing()
        response["Retry-After"] = pause
        return response


class RenewView(AgentView):
    @extend_schema(
        operation_id="renew_agent_task__task_id__renew_post",
        tags=["agents"],
        parameters=[TASK_ID],
        request=RenewSerializer,
        responses={200: RenewedSerializer, 409: CONFLICT},
    )
    def post(self, request: Request, task_id: UUID) -> HttpResponse:
        """Renew the lease of an attempt, and report its progress.

        Do so at a third of the lease. The answer says if a cancel is asked for: stop, and finish the attempt as
        `cancelled`. A renewal that comes late is accepted while no later attempt has begun and the task is not over.
        If FMV has ended the task because the cancel was not confirmed in time, the answer asks for it again, and the
        lane is free when the attempt is finished.
        """
        body = self.read(RenewSerializer, request)
        report = {name: body[name] for name in REPORTED if name in body}
        handler, cancel = services.renew(self.robot, task_id, body["session"], body["attempt"], report)
        return answer(
            {
                "lease_seconds": lease_of(handler),
                "hold_seconds": hold_of(handler),
                "cancel": cancel and cancel.answer(),
            }
        )


class LogView(AgentView):
    @extend_schema(
        operation_id="log_agent_task__task_id__log_post",
        tags=["agents"],
        parameters=[TASK_ID],
        request=LogSerializer,
        responses={200: LoggedSerializer, 409: CONFLICT},
    )
    def post(self, request: Request, task_id: UUID) -> HttpResponse:
        """Store lines of the log of an attempt.

        Lines that are stored already are dropped. If lines before these are missing, the answer is 409 with `next`. Of
        an attempt 10,000 lines are kept.
        """
        body = self.read(LogSerializer, request)
        return answer({"next": services.log(self.robot, task_id, **body)})


class FinishView(AgentView):
    @extend_schema(
        operation_id="finish_agent_task__task_id__finish_post",
        tags=["agents"],
        parameters=[TASK_ID],
        request=FinishSerializer,
        responses={200: RobotTaskSerializer, 409: CONFLICT},
    )
    def post(self, request: Request, task_id: UUID) -> HttpResponse:
        """Report how an attempt ended.

        The same again has the same answer, so send it until one comes. 200, 404 and 409 are final. After 422 or 413,
        which the same would have again, report that the attempt has failed. A failed attempt is repeated if attempts
        are left, unless `retryable` is false.
        """
        body = self.read(FinishSerializer, request)
        return answer(render_object(services.finish(self.robot, task_id, **body)))


class ReleaseView(AgentView):
    @extend_schema(
        operation_id="release_agent_task__task_id__release_post",
        tags=["agents"],
        parameters=[TASK_ID],
        request=ReleaseSerializer,
        responses={200: RobotTaskSerializer, 409: CONFLICT},
    )
    def post(self, request: Request, task_id: UUID) -> HttpResponse:
        """Give an attempt back to the queue.

        It does not count. After ten such attempts the task fails. The same again has the same answer.
        """
        body = self.read(ReleaseSerializer, request)
        return answer(render_object(services.release(self.robot, task_id, **body)))


class StateView(AgentView):
    @extend_schema(
        operation_id="report_agent_state_put",
        tags=["agents"],
        request=StateInputSerializer,
        responses={200: StateTakenSerializer, 409: CONFLICT},
    )
    def put(self, request: Request) -> HttpResponse:
        """Report the state of the robot.

        What is left out is unknown, and an empty list means none. `"online": false` is a goodbye.
        """
        body = read_body(StateInputSerializer, request.data)
        taken = agents.report(self.robot, body.pop("session", ""), body)
        return answer({"report_seconds": taken.report_seconds, "drain": taken.drain})
