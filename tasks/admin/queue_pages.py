"""What operators do with the queue of a robot: hold and release it, take the robot out of service and put it back."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse

from fmv.errors import FmvError, InvalidInput
from robots.errors import UnknownRobot
from robots.models import MAX_REASON, Robot
from tasks.admin.base import PagesAdmin, username
from tasks.queue import services
from tasks.reports.robot_status import robot_statuses
from tasks.templatetags.fleet import robot_url

MAX_SUGGESTIONS = 500  # robot names that a field offers
QUEUE_CHOICES = {
    "keep": "Keep the tasks in its queue until it is back in service",
    "cancel": "Cancel the tasks in its queue",
    "move": "Move the tasks in its queue to another robot",
}


class HoldForm(forms.Form):
    """Why a robot's queue is held."""

    why = forms.CharField(
        required=False,
        max_length=MAX_REASON,
        label="Why",
        help_text="Shown wherever its tasks wait, with your name.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""


class QueuePages(PagesAdmin):
    """The pages and buttons of a robot's queue, for operators."""

    queue_pages = {
        "hold": ("<path:object_id>/hold/", "hold_view"),
        "release": ("<path:object_id>/release/", "release_view"),
        "out": ("<path:object_id>/out/", "out_view"),
        "in": ("<path:object_id>/in/", "in_view"),
    }

    def hold_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask why, then hold the robot's queue."""
        self.check_may_operate(request)
        robot = _find(object_id)
        if robot is None:
            return self.to_list(request, f"There is no robot {unquote(object_id)[:64]}.")
        form = HoldForm(request.POST if request.method == "POST" else None)
        if form.is_bound and form.is_valid():
            try:
                services.hold_queue(robot.name, by=username(request), why=form.cleaned_data["why"])
            except FmvError as error:
                form.add_error(None, str(error))
            else:
                messages.success(request, f"The queue of {robot.name} is held.")
                return HttpResponseRedirect(robot_url(robot.name))
        [status] = robot_statuses([robot])
        context = {"robot": robot, "form": form, "robot_status": status}
        return self.page(request, "robots/robot/hold.html", f"Hold the queue of {robot.name}", **context)

    def release_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._press(request, object_id, services.release_queue, "The queue of {} is released.")

    def out_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask what happens to the robot's queue, then take the robot out of service."""
        self.check_may_operate(request)
        robot = _find(object_id)
        if robot is None:
            return self.to_list(request, f"There is no robot {unquote(object_id)[:64]}.")
        form = OutForm(request.POST if request.method == "POST" else None, robot=robot)
        if form.is_bound and form.is_valid() and (answer := self._take_out(request, form)):
            return answer
        [status] = robot_statuses([robot])
        context = {"robot": robot, "form": form, "robot_status": status}
        return self.page(request, "robots/robot/out.html", f"Take {robot.name} out of service", **context)

    def _take_out(self, request: HttpRequest, form: "OutForm") -> HttpResponse | None:
        """Take the robot out of service and redirect. If that fails, add the error to the form and return None."""
        name, queue, to = form.robot.name, form.cleaned_data["queue"], form.cleaned_data["to"]
        try:
            _, run = services.take_out_of_service(
                name, by=username(request), queue=queue, to=to if queue == "move" else None
            )
        except FmvError as error:
            form.add_error("to" if queue == "move" else None, _sentences(error))
            return None
        messages.success(request, f"{name} is out of service.")
        return HttpResponseRedirect(reverse("admin:tasks_bulk_change", args=[run.pk]) if run else robot_url(name))

    def in_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._press(request, object_id, services.put_in_service, "{} is in service.")

    def _press(self, request: HttpRequest, object_id: str, act: Callable[..., Robot], done: str) -> HttpResponse:
        """Do what a button says, and redirect to the robot's page."""
        self.check_may_operate(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            robot = act(unquote(object_id), by=username(request))
        except UnknownRobot:
            return self.to_list(request, f"There is no robot {unquote(object_id)[:64]}.")
        messages.success(request, done.format(robot.name))
        return HttpResponseRedirect(robot_url(robot.name))


class OutForm(forms.Form):
    """What happens to the queue of a robot that is taken out of service."""

    queue = forms.ChoiceField(
        choices=list(QUEUE_CHOICES.items()),
        initial="keep",
        widget=forms.RadioSelect,
        label="Its queue",
    )
    to = forms.CharField(
        required=False,
        label="Other robot",
        help_text="The name of a robot in service.",
        widget=forms.TextInput(attrs={"list": "robots", "autocomplete": "off"}),
    )

    def __init__(self, *args: Any, robot: Robot, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.robot = robot

    def clean(self) -> None:
        if self.cleaned_data.get("queue") == "move" and not self.cleaned_data.get("to"):
            self.add_error("to", "Name the robot to which the queue moves.")

    @property
    def offered(self) -> list[str]:
        """The names of robots that the field offers, in order."""
        others = Robot.objects.in_service().exclude(pk=self.robot.pk)
        return list(others.order_by("name").values_list("name", flat=True)[:MAX_SUGGESTIONS])


def _find(object_id: str) -> Robot | None:
    return Robot.objects.filter(pk=unquote(object_id)).first()


def _sentences(error: FmvError) -> str:
    return "; ".join(problem.msg for problem in error.problems) if isinstance(error, InvalidInput) else str(error)
