"""The API's routes that stream events."""

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
from fmv.http.openapi import HTTPError
from fmv.http.query import StrictQuery, read_query
from fmv.http.sse import MEDIA_TYPE, EventStream, TooManyStreams
from tasks.api.event_log import ID, Key, missed, parse_id
from tasks.api.event_stream import RETRY_HINT, AllTasks, OneTask
from tasks.api.examples import TASK_EXAMPLE
from tasks.api.serializers import EventFilterSerializer, ResumeSerializer
from tasks.queue import services

TASK_ID = OpenApiParameter(
    "task_id", UUID, OpenApiParameter.PATH, description="The task's id, as in the answer to its submit."
)
AN_ID = {"type": "string", "pattern": f"^({ID.pattern})?$"}
LAST_EVENT_ID = OpenApiParameter(  # the header is not listed beside it: generated clients would name both alike
    "last_event_id",
    AN_ID,
    description="The `id` of the last event that the client received: the stream continues after it. The header "
    "`Last-Event-ID`, which browsers send by themselves, means the same and has precedence.",
)
STREAM_RULES = """
The stream is [server-sent events](https://html.spec.whatwg.org/multipage/server-sent-events.html), as `EventSource`
reads them.

- Each line of a task's history makes one event `task`, and so does each report of its handler (progress or message); of
  reports in quick succession only the last one does. The event's data is the Task as it was then. Values of an earlier
  step that are no longer known, such as its `progress` or `error`, are empty.
- To continue a stream that was cut, send the `id` of the last event as `Last-Event-ID` or `?last_event_id=`, to any web
  server. Nothing is lost or repeated, unless a write to MongoDB took more than 0.5 seconds to become visible.
- A comment line every 15 seconds (`FMV_STREAM_COMMENT_SECONDS`) keeps proxies from closing a quiet stream. With each
  comment the caller's rights are checked again.
- A client that accepts no data for 30 seconds is disconnected. Every stream ends after an hour, and when the server
  stops; the client then connects again. While MongoDB cannot be reached, the stream stays open and waits.
- A web server process has a limited number of streams (`FMV_MAX_STREAMS`). Beyond it the answer is 503 with
  `Retry-After`.
"""
OF_TASK = f"""Follow a task until it is finished.

The stream begins with the task in its current state and ends when the task is finished. A client that has received all
events of a finished task and asks again gets 204, on which a browser stops asking.
{STREAM_RULES}"""
OF_ALL = f"""Follow all tasks and robots, or those of some robots and statuses.

An event `robot` says that a robot came online or went offline, changed its mode or its emergency stop, or reports
other errors than before. Its data is `{{name, state}}`, with the state as it is now, so of several changes in quick
succession only the last one makes an event. With `status` there are none.

The stream begins now, or after the event that `Last-Event-ID` names. It is about a second behind, because its events
come in the order of MongoDB's clock. It goes back at most one hour and 20,000 changed tasks: if events before that are
missing, an event `gap` with `{{"before": <time>}}` says so.
{STREAM_RULES}"""
EXAMPLE = f"""retry: 2000

id: 1795420800020-019ab0f37c1e7a319d3c2f6c1b7e4a10-4
event: task
data: {orjson.dumps(TASK_EXAMPLE).decode()}

: still here

"""
STREAM = OpenApiResponse(
    OpenApiTypes.STR,
    description="Server-sent events: `task`, whose data is a Task, and in the stream of all tasks also `robot`, whose "
    "data is `{name, state}`, and `gap`, whose data is `{before}`: events before that time are missing.",
    examples=[OpenApiExample("the end of a task", EXAMPLE, media_type=MEDIA_TYPE)],
)
UNAVAILABLE = OpenApiResponse(
    HTTPError,
    description="Too many streams are open, or MongoDB cannot be reached; Retry-After says how many seconds to wait",
    examples=[OpenApiExample("too many", {"detail": TooManyStreams.default_detail})],
)


class EventViewSet(StrictQuery, ViewSet):
    query: ClassVar = {"of_task": ResumeSerializer, "of_all": EventFilterSerializer}
    roles: ClassVar[dict[str, Role]] = {"of_task": Role.VIEWER, "of_all": Role.VIEWER}

    @extend_schema(
        operation_id="events_task__task_id__events_get",
        description=OF_TASK,
        tags=["events"],
        parameters=[TASK_ID, LAST_EVENT_ID],
        responses={
            (200, MEDIA_TYPE): STREAM,
            204: OpenApiResponse(
                description="The task is finished and the client has received all of its events: do not connect again"
            ),
            503: UNAVAILABLE,
        },
    )
    def of_task(self, request: Request, task_id: UUID) -> HttpResponseBase:
        after = last_event_id(request, task_id)
        task = services.get(task_id)
        if not task.is_finished:
            if request.method == "HEAD":
                return EventStream(())
            allowed = partial(still_allowed, self, request._request)
            return EventStream(OneTask(request._request, task_id, after, still_allowed=allowed))
        events = missed(task, after)
        if not events:  # otherwise a browser asks for ever: https://html.spec.whatwg.org/#event-stream-interpretation
            return HttpResponse(status=204)
        rendered: Iterable[bytes] = [RETRY_HINT + b"\n", *(event.render(event.key) for event in events)]
        return EventStream(() if request.method == "HEAD" else rendered)

    @extend_schema(
        operation_id="events_events_get",
        description=OF_ALL,
        tags=["events"],
        parameters=[EventFilterSerializer, LAST_EVENT_ID],
        responses={(200, MEDIA_TYPE): STREAM, 503: UNAVAILABLE},
    )
    def of_all(self, request: Request) -> HttpResponseBase:
        filters = read_query(EventFilterSerializer, request)
        after = last_event_id(request)
        if request.method == "HEAD":
            return EventStream(())
        wanted = filters.get("robot", ()), filters.get("status", ())
        allowed = partial(still_allowed, self, request._request)
        return EventStream(AllTasks(request._request, after, *wanted, still_allowed=allowed))


def last_event_id(request: Request, task_id: UUID | None = None) -> Key | None:
    """Return the event after which the client wants to continue, None for "now". The header precedes the query.

    Raises InvalidInput when either is not an id of this stream.
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
        raise InvalidInput([Problem(loc, "Not an id of this stream", "value_error")]) from None
    return key
