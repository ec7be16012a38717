"""Robots in the admin: the list, a robot's page, and the forms of operators and managers."""

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

import robots.services
from fmv import audit
from fmv.admin_base import wrong_words
from fmv.errors import FmvError, InvalidInput
from fmv.export import Export
from fmv.mongodb.server import recent_now
from fmv.templatetags.display import counted
from robots.models import Robot, RobotQuerySet, plain_name
from tasks.admin import charts, robot_day
from tasks.admin.base import username
from tasks.admin.connect import ConnectPages
from tasks.admin.pages import map_page
from tasks.admin.queue_pages import QueuePages
from tasks.admin.run_page import RunPage
from tasks.models import Status, Task
from tasks.queue import services
from tasks.reports import export, waiting_reason
from tasks.reports.robot_status import QUEUE_CAP, STATES, RobotStatus, in_state, robot_statuses, slim
from tasks.reports.waiting_reason import Waiting
from tasks.templatetags.fleet import robot_url

WORDS = ("state", "label", "q", "after")  # parameters of the list
PAGE_ROWS = 50  # robots on a page of the list
QUEUE_ROWS = 20  # tasks of its queue on a robot's page
LATEST_ROWS = 20  # its latest tasks there, whatever their status

QUEUE_FIELDS = ("id", "handler", "runs_on", "priority", "requested_by")
LATEST_FIELDS = ("id", "handler", "status", "started_at", "finished_at", "requested_by")
ENDED_FIELDS = ("id", "status", "handler", "started_at", "finished_at")
#: reasons why a task waits that are as they should be, or that are shown beside the robot's state
GOES_ON = ("robot_busy", "starting", "queue_held")


class RobotForm(forms.ModelForm):
    class Meta:
        model = Robot
        fields = ("name", "is_great", "location", "description", "enabled", "lanes", "labels", "endpoint")
        widgets = {"description": forms.Textarea(attrs={"rows": 3})}
        help_texts = {"labels": "Separated by commas."}

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["description"].required = False  # an imported robot may have none

    def clean_name(self) -> str:
        return plain_name(self.cleaned_data["name"])

    def clean_endpoint(self) -> str | None:
        return self.cleaned_data["endpoint"] or None


@admin.register(Robot)
class RobotAdmin(ConnectPages, QueuePages, RunPage):
    form = RobotForm
    pages = (
        ConnectPages.connect_pages
        | QueuePages.queue_pages
        | {
            "rows": ("rows/", "rows_view"),
            "live": ("<path:object_id>/live/", "live_view"),
            "day": ("<path:object_id>/day/", "day_view"),
            "edit": ("<path:object_id>/edit/", "edit_view"),
            "run": ("<path:object_id>/run/", "run_view"),
        }
    )

    export_columns = export.ROBOTS

    # --- The list ----------------------------------------------------------------------------------------------------

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        self.check_may_view(request)
        if problems := _wrong_filters(request):
            words: dict[str, Any] = {"words": {}, "states": _states({"state": "", "label": "", "q": ""})}
            return self.page(request, "robots/robot/list.html", "Robots", problems=problems, **words)
        return self.page(request, "robots/robot/list.html", "Robots", **_rows(request))

    def exported(self, request: HttpRequest) -> Export:
        if _wrong_filters(request):
            raise InvalidInput([])
        found = _found(_words(request))
        return Export(self.export_columns, export.robots(found), found.count())

    def rows_view(self, request: HttpRequest) -> HttpResponse:
        self.check_may_view(request)
        if _wrong_filters(request):
            return HttpResponse(status=204)
        return self.fragment(request, "robots/robot/rows.html", **_rows(request))

    # --- A robot's page ----------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        self.check_may_view(request)
        robot = _find(object_id)
        if robot is None:
            return self.to_list(request, f"There is no robot {unquote(object_id)[:64]}.")
        day = robot_day.charts(robot.name, recent_now())
        context = {"audit": audit.of("robot", robot.name), **_live(robot), **day}
        return self.page(request, "robots/robot/page.html", robot.name, **context)

    def live_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        self.check_may_view(request)
        robot = _find(object_id)
        if robot is None:
            return HttpResponse(status=404)
        return self.fragment(request, "robots/robot/live.html", **_live(robot))

    def day_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        self.check_may_view(request)
        robot = _find(object_id)
        if robot is None:
            return HttpResponse(status=404)
        return self.fragment(request, "robots/robot/day.html", **robot_day.charts(robot.name, recent_now()))

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        return HttpResponseRedirect(robot_url(unquote(object_id)))

    # --- For managers ------------------------------------------------------------------------------------------------

    def edit_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        if not self.has_change_permission(request):
            raise PermissionDenied
        return self.changeform_view(request, object_id, "", {"title": f"Edit {unquote(object_id)[:64]}"})

    def get_readonly_fields(self, request: HttpRequest, obj: Robot | None = None) -> tuple[str, ...]:
        return () if obj is None else ("name",)  # the name is the primary key: another name would be another robot

    def get_fields(self, request: HttpRequest, obj: Robot | None = None) -> Any:
        # `enabled` has a page of its own, which asks what happens to the queue.
        return [name for name in RobotForm.Meta.fields if obj is None or name != "enabled"]

    def save_model(self, request: HttpRequest, obj: Robot, form: forms.ModelForm, change: bool) -> None:
        if change:  # write changed fields only: others may have been changed elsewhere meanwhile
            changed = {field: form.cleaned_data[field] for field in form.changed_data}
            services.change_robot(obj.name, by=username(request), **changed)
        else:
            robots.services.create(**form.cleaned_data, by=username(request))
            for twin in Robot.objects.twins(obj.name)[:1]:
                messages.warning(request, f"There is also a robot {twin.name}: the names differ by case only.")

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except FmvError as error:  # the robot was changed or deleted meanwhile
            messages.error(request, str(error))
            return HttpResponseRedirect(request.get_full_path())

    def response_post_save_add(self, request: HttpRequest, obj: Robot) -> HttpResponseRedirect:
        return HttpResponseRedirect(robot_url(obj.name))

    def response_post_save_change(self, request: HttpRequest, obj: Robot) -> HttpResponseRedirect:
        return HttpResponseRedirect(robot_url(obj.name))

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        robot = _find(object_id)
        if robot and self.has_delete_permission(request) and services.has_work(robot.name):
            text = f"{robot.name} has unfinished tasks or a blocked lane. Cancel or move them, or wait until they end."
            messages.error(request, text)
            return HttpResponseRedirect(robot_url(robot.name))
        try:
            return super().delete_view(request, object_id, extra_context)
        except FmvError as error:  # a task was submitted at the last moment
            messages.error(request, str(error))
            return HttpResponseRedirect(robot_url(unquote(object_id)))

    def delete_model(self, request: HttpRequest, obj: Robot) -> None:
        services.delete_robot(obj.name, by=username(request))


# --- The content of the pages ----------------------------------------------------------------------------------------


def _find(object_id: str) -> Robot | None:
    return Robot.objects.filter(pk=unquote(object_id)).first()


def _wrong_filters(request: HttpRequest) -> list[str]:
    """Return what is wrong with the list's address, in sentences."""
    wrong = [problem.msg for problem in wrong_words(request.GET, *WORDS)]
    state = request.GET.get("state", "").strip()
    if state and state not in STATES:
        wrong.append(f"Unknown state {state[:50]!r}. Use one of: {', '.join(STATES)}.")
    return wrong


def _rows(request: HttpRequest) -> dict[str, Any]:
    """Return one page of the list: robots by name, beginning after the name `after`."""
    words = _words(request)
    robots = list(_found(words).order_by("name")[: PAGE_ROWS + 1])
    shown = robots[:PAGE_ROWS]
    statuses = robot_statuses(shown)
    return {
        "robot_statuses": statuses,
        "held_up": _held_up(statuses),
        "words": words,
        "query": urlencode(words),
        "first": urlencode(words | {"after": ""}),
        "next": urlencode(words | {"after": shown[-1].name}) if len(robots) > PAGE_ROWS else "",
        "states": _states(words),
    }


def _words(request: HttpRequest) -> dict[str, str]:
    return {name: request.GET.get(name, "").strip() for name in WORDS}


def _found(words: dict[str, str]) -> RobotQuerySet:
    found = Robot.objects.matching(label=words["label"] or None, q=words["q"])
    if words["after"]:
        found = found.filter(name__gt=words["after"])
    return in_state(found, words["state"])


def _states(words: dict[str, str]) -> list[tuple[str, Any, bool, str]]:
    """Return each state, its description, whether it is selected, and the query string that toggles it."""
    return [(name, state, name == words["state"], _toggle(words, name)) for name, state in STATES.items()]


def _live(robot: Robot) -> dict[str, Any]:
    """Return the live part of a robot's page: eleven queries, twelve of one with an agent, thirteen of one with a
    position, each bounded, and those of its queue's reason.
    """
    [status] = robot_statuses([robot])
    of_robot = Task.objects.of_robot(robot.name)
    ended = slim(of_robot.ended()[: charts.MAX_BARS], ENDED_FIELDS)
    queue = slim(of_robot.queued().next_first()[:QUEUE_ROWS], QUEUE_FIELDS)
    return {
        "robot": robot,
        "robot_status": status,
        "next": queue,
        "near": map_page.near(status),
        "held_up": _held_up([status]).get(robot.name),
        "blocking": Task.blocking(robot.name) if status.condition else [],
        "later": counted(of_robot.waiting_for_time().up_to(QUEUE_CAP), QUEUE_CAP),
        "bars": charts.task_bars(ended),
        "longest": max((charts.seconds_of(task) for task in ended), default=0.0),
        "failed": sum(task.status == Status.FAILURE for task in ended),
        "chart": {"width": charts.CHART_WIDTH, "height": charts.CHART_HEIGHT, "least": charts.MIN_BARS},
        "latest": slim(of_robot.newest_first()[:LATEST_ROWS], LATEST_FIELDS),
    }


def _held_up(statuses: Iterable[RobotStatus]) -> dict[str, tuple[Task, Waiting]]:
    """Return the next task of each of these robots that does not take it, and why, by the robot's name."""
    found = waiting_reason.of_robots([status.robot.name for status in statuses if status.queued])
    return {name: (task, why) for name, (task, why) in found.items() if why.reason not in GOES_ON}


def _toggle(words: dict[str, str], state: str) -> str:
    """Return the query string that filters by this state, or, if it is filtered already, by none."""
    return urlencode(words | {"after": "", "state": "" if state == words["state"] else state})
