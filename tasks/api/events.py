"""The API's routes of live events."""

from collections.abc import Iterable
from functools import partial
from typing import ClassVar
from uuid import UUID

import orjson
from django.http import HttpResponse, HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.viewsets import ViewSet

from fmv.accounts.permissions import Role, still_allowed
from fmv.errors import InvalidInput, Problem
from fmv.http.fields import read_query
from fmv.http.openapi import Error
from fmv.http.sse import MEDIA_TYPE, EventStream, TooManyStreams
from tasks.api.event_log import ID, Key, missed, parse_id
from tasks.api.event_stream import RETRY_HINT, AllTasks, OneTask
from tasks.api.examples import TASK_EXAMPLE
from tasks.api.serializers import EventFilterSerializer
from tasks.queue import services

TASK_ID = OpenApiParameter("task_id", UUID, OpenApiParameter.PATH, description="As a submit answered it.")
LAST = "The `id` of the last event that was seen; the stream goes on after it."
AN_ID = {"type": "string", "pattern": f"^({ID.pattern})?$"}
LAST_EVENT_ID = [
    OpenApiParameter("Last-Event-ID", AN_ID, OpenApiParameter.HEADER, description=LAST),
    OpenApiParameter("last_event_id", AN_ID, description="The same, for clients that cannot set headers."),
]
EXAMPLE = f"""retry: 2000

id: 1795420800020-019ab0f37c1e7a319d3c2f6c1b7e4a10-4
event: task
data: {orjson.dumps(TASK_EXAMPLE).decode()}

: still here

"""
STREAM = OpenApiResponse(
    OpenApiTypes.STR,
    description="Server-sent events: `task`, whose data is a Task. Those of all tasks may begin with a `gap`, whose "
    "data `{before}` tells up to when some are missing: an id older than an hour, or too much that happened since.",
    examples=[OpenApiExample("the end of a task", EXAMPLE, media_type=MEDIA_TYPE)],
)
UNAVAILABLE = OpenApiResponse(
    Error,
    description="As many streams are open as may be, or the database cannot be reached; try again after the seconds in "
    "Retry-After",
    examples=[OpenApiExample("too many", {"detail": TooManyStreams.default_detail})],
)


class EventViewSet(ViewSet):
    roles: ClassVar[dict[str, Role]] = {"of_task": Role.VIEWER, "of_all": Role.VIEWER}

    @extend_schema(
        operation_id="events_task__task_id__events_get",
        tags=["events"],
        parameters=[TASK_ID, *LAST_EVENT_ID],
        responses={
            (200, MEDIA_TYPE): STREAM,
            204: OpenApiResponse(description="The task is over and all of it was seen: do not come back"),
            503: UNAVAILABLE,
        },
    )
    def of_task(self, request: Request, task_id: UUID) -> HttpResponseBase:
        """A task as it is now, then every change of it; the stream ends when the task is over.

        There is an event for each line of its history, and for its handler's reports.
        """
        after = last_event_id(request, task_id)
        task = services.get(task_id)
        if not task.is_finished:
            if request.method == "HEAD":
                return EventStream(())
            is_let_in = partial(still_allowed, self, request._request)
            return EventStream(OneTask(request._request, task_id, after, is_let_in=is_let_in))
        events = missed(task, after)
        if not events:  # a browser would ask for ever: https://html.spec.whatwg.org/#event-stream-interpretation
            return HttpResponse(status=204)
        rendered: Iterable[bytes] = [RETRY_HINT + b"\n", *(event.render(event.key) for event in events)]
        return EventStream(() if request.method == "HEAD" else rendered)

    @extend_schema(
        operation_id="events_events_get",
        tags=["events"],
        parameters=[EventFilterSerializer, *LAST_EVENT_ID],
        responses={(200, MEDIA_TYPE): STREAM, 503: UNAVAILABLE},
    )
    def of_all(self, request: Request) -> HttpResponseBase:
        """Every change of every task, from now on or after the last event that was seen; it does not end by itself.

        There is an event for each line of a task's history, and for its handler's reports. A past line's event shows
        `status`, `attempt` and `history` as they were, and leaves empty what is no longer known.
        """
        filters = read_query(EventFilterSerializer, request)
        after = last_event_id(request)
        if request.method == "HEAD":
            return EventStream(())
        wanted = filters.get("robot", ()), filters.get("status", ())
        is_let_in = partial(still_allowed, self, request._request)
        return EventStream(AllTasks(request._request, after, *wanted, is_let_in=is_let_in))


def last_event_id(request: Request, task_id: UUID | None = None) -> Key | None:
    """Return where the client wants to go on, None for "now": the header counts, the query where there is none.

    Raises InvalidInput when either is no id of this stream.
    """
    header = read_id(request.headers.get("Last-Event-ID", ""), ("header", "Last-Event-ID"), task_id)
    query = read_id(request.query_params.get("last_event_id", ""), ("query", "last_event_id"), task_id)
    return header or query


def read_id(text: str, loc: tuple[str, str], task_id: UUID | None) -> Key | None:
    if not text:
        return None
    try:
        key = parse_id(text)
        if task_id and key.task != task_id.hex:
            raise ValueError(text)
    except ValueError:
        raise InvalidInput([Problem(loc, "Not an id that this stream gave", "value_error")]) from None
    return key
