"""The admin's pages about handlers: their parameters, success rates and last failures."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.utils.http import urlencode

from robots.models import Robot
from tasks import registry
from tasks.admin.dashboard import task_list
from tasks.admin.parameters import UNSET, Property, properties
from tasks.models import Status, Task
from tasks.reports import tallies
from tasks.templatetags.fleet import robot_url

SPANS = {
    "hour": ("Last hour", tallies.HOUR),
    "day": ("Last 24 hours", tallies.DAY),
    "week": ("Last 7 days", 7 * tallies.DAY),
}
MAX_FAILURES = 8
MAX_SUGGESTIONS = 50  # robot names that the field offers


# --- Results ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """The results of a handler's tasks in a span of time."""

    title: str
    succeeded: int
    failed: int
    cancelled: int
    seconds: float  # total duration of the last attempts of those that succeeded
    attempts: int  # total of those that succeeded or failed

    @property
    def judged(self) -> int:
        """The number of tasks that count for the rate; cancelled ones do not."""
        return self.succeeded + self.failed

    @property
    def rate(self) -> float | None:
        """The percentage that succeeded."""
        return 100 * self.succeeded / self.judged if self.judged else None

    @property
    def mean(self) -> float | None:
        """The mean duration of a success in seconds."""
        return self.seconds / self.succeeded if self.succeeded else None

    @property
    def tries(self) -> float | None:
        """The mean number of attempts."""
        return self.attempts / self.judged if self.judged else None

    @property
    def state(self) -> str:
        if self.rate is None:
            return "idle"
        return "ok" if self.rate >= 99 else "warning" if self.rate >= 90 else "error"


def record(title: str, totals: tallies.FinishedTotals, handler: str) -> Record:
    succeeded, failed, cancelled = (
        totals.count(status, handler) for status in (Status.SUCCESS, Status.FAILURE, Status.REVOKED)
    )
    seconds = totals[Status.SUCCESS, handler, "seconds"]
    attempts = totals[Status.SUCCESS, handler, "attempts"] + totals[Status.FAILURE, handler, "attempts"]
    return Record(title, succeeded, failed, cancelled, seconds, int(attempts))


# --- Parameters ------------------------------------------------------------------------------------------------------


def type_of(parameter: Property) -> str:
    """Return a parameter's type in words: "integer", "list of text", "one of a, b", "text or none"."""
    said = _type(parameter.schema)
    return f"{said} or none" if parameter.nullable else said


WORDS = {"string": "text", "boolean": "yes or no", "array": "list", "null": "none"}


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return f"one of {', '.join(map(str, schema['enum']))}"
    if "const" in schema:
        return f"always {schema['const']}"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if schema.get("type") == "array" and (items := schema.get("items")):
        return f"list of {_type(items)}"
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kind = schema.get("type", "any JSON")
    return str(schema.get("format") or WORDS.get(kind, kind))


def rows(schema: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each parameter: {name, type, required, has_default, default, help}."""
    return [
        {
            "name": parameter.name,
            "type": type_of(parameter),
            "required": parameter.required,
            "has_default": parameter.default is not UNSET,
            "default": parameter.default,
            "help": parameter.help,
        }
        for parameter in properties(schema)
    ]


# --- Pages -----------------------------------------------------------------------------------------------------------


def pages(site: Any) -> list[URLPattern]:
    def list_page(request: HttpRequest) -> HttpResponse:
        return render(request, "admin/handlers/list.html", site.each_context(request) | listed(request))

    def page(request: HttpRequest, name: str) -> HttpResponse:
        return _run_on(request, name) or render(
            request, "admin/handlers/handler.html", site.each_context(request) | shown(request, name)
        )

    return [
        path("handlers/", site.admin_view(list_page), name="handlers"),
        path("handlers/<str:name>/", site.admin_view(page), name="handler"),
    ]


def listed(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the list of handlers."""
    _check_may_view(request)
    [totals] = tallies.finished_within(tallies.DAY)
    handlers = [(handler, record("", totals, handler.name)) for handler in registry.all_handlers()]
    return {"title": "Handlers", "handlers": handlers, "default": registry.DEFAULT}


def shown(request: HttpRequest, name: str) -> dict[str, Any]:
    """Return the context of a handler's page."""
    _check_may_view(request)
    handler = _found(name)
    user: Any = request.user
    fields = ("id", "robot", "finished_at", "error__type", "error__message")
    titles, spans = zip(*SPANS.values(), strict=True)
    return {
        "title": handler.name,
        "handler": handler,
        "schema": handler.schema,
        "parameters": rows(handler.schema),
        "records": [
            record(title, totals, name) for title, totals in zip(titles, tallies.finished_within(*spans), strict=True)
        ],
        "failures": list(Task.objects.failed().filter(handler=name).values(*fields)[:MAX_FAILURES]),
        "all_url": task_list(handler=name),
        "failed_url": task_list(handler=name, show="failed"),
        "may_run": user.has_perms(("tasks.operate_task", "robots.operate_robot")),
        "robots": Robot.objects.in_service().values_list("name", flat=True)[:MAX_SUGGESTIONS],
    }


def _run_on(request: HttpRequest, name: str) -> HttpResponse | None:
    """Redirect to the form that runs the handler on the robot named in the query; None if it names none."""
    robot = request.GET.get("robot", "").strip()
    if not robot:
        return None
    _check_may_view(request)
    if "\0" in robot or not Robot.objects.filter(pk=robot).exists():
        messages.error(request, f"There is no robot {robot[:64]!r}.")
        return HttpResponseRedirect(reverse("admin:handler", args=[_found(name).name]))
    query = urlencode({"handler": _found(name).name})
    return HttpResponseRedirect(f"{robot_url(robot, 'run')}?{query}")


def _found(name: str) -> registry.Handler[Any]:
    try:
        return registry.get(name)
    except registry.UnknownHandler:
        raise Http404(f"There is no handler {name!r}.") from None


def _check_may_view(request: HttpRequest) -> None:
    user: Any = request.user
    if not user.has_perm("tasks.view_task"):
        raise PermissionDenied
