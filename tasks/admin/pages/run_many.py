"""The admin's page that runs a task on each of many robots, which were chosen in their list, one by one or by a filter.

Its form makes one bulk run, however often it is sent, and the run makes one task for each robot.
"""

import uuid
from collections.abc import Mapping
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from rest_framework.exceptions import ValidationError

from fmv.errors import FmvError, InvalidInput
from fmv.http import sent_forms
from fmv.http.errors import flatten
from fmv.http.fields import read_body
from fmv.http.json import check_json
from robots.models import Robot
from tasks import registry
from tasks.admin.base import username
from tasks.admin.run_form import RunForm
from tasks.api.serializers import SubmitSerializer
from tasks.models import Bulk
from tasks.queue import bulk, bulk_runs, services
from tasks.reports.robot_status import STATES, in_state

FILTER = ("state", "label", "q")  # of the list of robots
MAX_CHOSEN = 200  # robots that are chosen one by one: the list shows fewer on a page
SHOWN = 50  # names on the page


def pages(site: Any) -> list[URLPattern]:
    def page(request: HttpRequest) -> HttpResponse:
        user: Any = request.user
        if not user.has_perms(("robots.operate_robot", "tasks.operate_task")):
            raise PermissionDenied
        to_list = HttpResponseRedirect(reverse("admin:robots_robot_changelist"))
        if request.method != "POST":  # the choice is in the form, not in the address
            return to_list
        robots = chosen(request.POST)
        if not robots:
            messages.warning(request, "Nothing was run: no robot is chosen, or none matches any more.")
            return to_list
        sends = "send" in request.POST
        try:
            handler = registry.get(request.POST.get("handler") or registry.DEFAULT)
        except registry.UnknownHandler:
            messages.error(request, f"There is no handler {request.POST['handler'][:64]}.")
            return to_list
        out = sum(not enabled for enabled in robots.values())
        form = RunForm(handler, request.POST if sends else None, robot_enabled=not out)
        if sends and form.is_valid() and (answer := _run(request, list(robots), form)):
            return answer
        context = {
            "title": f"Run a task on {len(robots):,} robot{'s' if len(robots) > 1 else ''}",
            "handler": handler,
            "handlers": registry.all_handlers(),
            "form": form,
            "names": list(robots)[:SHOWN],
            "more": max(0, len(robots) - SHOWN),
            "count": len(robots),
            "out": out,
            "by_filter": request.POST.get("scope") == "all",
            "kept": _kept(request.POST),
            "once": request.POST.get("once") or uuid.uuid4(),
        }
        return TemplateResponse(request, "admin/pages/run_many.html", site.each_context(request) | context)

    return [path("robots/robot/run/", site.admin_view(page), name="run_many")]


def chosen(said: Mapping[str, Any]) -> dict[str, bool]:
    """Return the names of the robots that a form chooses, in order, and whether each is in service."""
    found = Robot.objects.all()
    if said.get("scope") == "all":
        state = said.get("state", "")
        if state and state not in STATES:
            return {}  # a misspelt filter must not choose all
        matching = found.matching(label=said.get("label") or None, q=said.get("q", ""))
        found = in_state(matching, state)
    else:
        names = said.getlist("id")[:MAX_CHOSEN]  # type: ignore[attr-defined]
        found = found.filter(pk__in=[name for name in names if "\0" not in name])
    return dict(found.order_by("name").values_list("name", "enabled")[: bulk_runs.MAX_ROBOTS + 1])


def _kept(said: Any) -> list[tuple[str, str]]:
    """Return the fields by which the form chooses its robots."""
    if said.get("scope") == "all":
        return [("scope", "all"), *((name, said[name]) for name in FILTER if said.get(name))]
    return [("id", name) for name in said.getlist("id")[:MAX_CHOSEN]]


def _run(request: HttpRequest, robots: list[str], form: RunForm) -> HttpResponse | None:
    """Begin the bulk run and redirect to it; None if the form says what is wrong with it."""
    body = form.send()
    try:
        check_json(body, ("body",))
        run = read_body(SubmitSerializer, body)
        bulk_runs.check(robots, run, by=username(request))
        if not sent_forms.is_first(request):
            messages.warning(
                request,
                "This form was sent before, so nothing else was started. If it began a run, that is your latest.",
            )
            return HttpResponseRedirect(reverse("admin:tasks_bulk_changelist"))
        started: Bulk = bulk_runs.start(robots, run, by=username(request))
    except ValidationError as error:
        form.place(flatten(error.detail, ("body",)))
    except InvalidInput as error:
        form.place(error.problems)
    except FmvError as error:
        form.add_error(None, str(error))
    else:
        bulk.run(started, services.REQUEST_BUDGET)
        return HttpResponseRedirect(reverse("admin:tasks_bulk_change", args=[started.pk]))
    return None
