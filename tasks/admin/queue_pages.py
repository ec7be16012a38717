"""What operators do with queues: hold and release one, move its tasks, take its robot out of service and put it back;
and change the place of a task.
"""

from collections.abc import Callable
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect, QueryDict
from django.urls import reverse

from fmv.errors import FmvError, InvalidInput
from robots.errors import UnknownRobot
from robots.models import Robot
from tasks.admin.base import PagesAdmin, username
from tasks.admin.queue_forms import HoldForm, MoveForm, OutForm, PriorityForm
from tasks.models import Task
from tasks.models.status import MAX_PRIORITY
from tasks.queue import place, services
from tasks.queue.errors import UnknownTask
from tasks.reports.robot_status import robot_statuses
from tasks.templatetags.fleet import robot_url


class QueuePages(PagesAdmin):
    """The pages and buttons of a robot's queue, for operators."""

    queue_pages = {
        "hold": ("<path:object_id>/hold/", "hold_view"),
        "release": ("<path:object_id>/release/", "release_view"),
        "move": ("<path:object_id>/move/", "move_view"),
        "out": ("<path:object_id>/out/", "out_view"),
        "in": ("<path:object_id>/in/", "in_view"),
    }

    def hold_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask why, then hold the robot's queue."""

        def hold(robot: Robot, form: Any) -> str:
            services.hold_queue(robot.name, by=username(request), why=form.cleaned_data["why"])
            messages.success(request, f"The queue of {robot.name} is held.")
            return robot_url(robot.name)

        form = HoldForm(_sent(request))
        return self._ask(request, object_id, "hold", "Hold the queue of {}", lambda robot: form, hold)

    def release_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._press(request, object_id, services.release_queue, "The queue of {} is released.")

    def move_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask where to, then move the robot's queue."""

        def move(robot: Robot, form: Any) -> str:
            run = services.move_queue(robot.name, by=username(request), **form.where)
            return reverse("admin:tasks_bulk_change", args=[run.pk])

        return self._ask(
            request,
            object_id,
            "move",
            "Move the queue of {}",
            lambda robot: MoveForm(_sent(request), robot=robot.name),
            move,
        )

    def out_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask what happens to the robot's queue, then take the robot out of service."""

        def take_out(robot: Robot, form: Any) -> str:
            chosen = form.cleaned_data["queue"]
            queue: Any = "move" if chosen == "spread" else chosen
            _, run = services.take_out_of_service(robot.name, by=username(request), queue=queue, **form.where)
            messages.success(request, f"{robot.name} is out of service.")
            return reverse("admin:tasks_bulk_change", args=[run.pk]) if run else robot_url(robot.name)

        return self._ask(
            request,
            object_id,
            "out",
            "Take {} out of service",
            lambda robot: OutForm(_sent(request), robot=robot.name),
            take_out,
        )

    def in_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return self._press(request, object_id, services.put_in_service, "{} is in service.")

    def _ask(
        self,
        request: HttpRequest,
        object_id: str,
        page: str,
        title: str,
        form_for: Callable[[Robot], Any],
        act: Callable[[Robot, Any], str],
    ) -> HttpResponse:
        """Show the form; when it is sent and valid, act, and redirect to the URL that `act` returns."""
        self.check_may_operate(request)
        robot = Robot.objects.filter(pk=unquote(object_id)).first()
        if robot is None:
            return self.to_list(request, f"There is no robot {unquote(object_id)[:64]}.")
        form = form_for(robot)
        if form.is_bound and form.is_valid():
            try:
                return HttpResponseRedirect(act(robot, form))
            except FmvError as error:
                form.add_error(_field_of(form), _sentences(error))
        [status] = robot_statuses([robot])
        context = {"robot": robot, "form": form, "robot_status": status}
        return self.page(request, f"robots/robot/{page}.html", title.format(robot.name), **context)

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


class PlacePages(PagesAdmin):
    """The page of a task's place in the queue of its robot, and the button that puts the task in front."""

    place_pages = {
        "place": ("<uuid:id>/place/", "place_view"),
        "front": ("<uuid:id>/front/", "front_view"),
    }

    def place_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        """Show where the task stands; change its priority, or move it to another robot."""
        self.check_may_operate(request)
        try:
            task = services.get(id)
        except UnknownTask:
            return self.to_list(request, f"There is no task {id}.")
        sent, moves = _sent(request), "move" in request.POST
        first = {"priority": min(task.priority, MAX_PRIORITY)}
        priority_form = PriorityForm(None if moves else sent, initial=first)
        move_form = MoveForm(sent if moves else None, robot=task.robot)
        form = move_form if moves else priority_form
        if form.is_bound and form.is_valid():
            try:
                self._place(request, task, form)
                return HttpResponseRedirect(reverse("admin:tasks_task_change", args=[id]))
            except FmvError as error:
                form.add_error(_field_of(form), _sentences(error))
        context = {"task": task, "priority_form": priority_form, "form": move_form, "before": place.before(task)}
        return self.page(request, "tasks/task/place.html", f"Place of {task.handler} in the queue", **context)

    def _place(self, request: HttpRequest, task: Task, form: PriorityForm | MoveForm) -> None:
        if isinstance(form, MoveForm):
            moved = services.move(task, by=username(request), **form.where)
            messages.success(request, f"The task waits for {moved.robot} now.")
        else:
            changed = place.prioritize(task, form.cleaned_data["priority"], by=username(request))
            messages.success(request, f"The priority is {changed.priority}.")

    def front_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        """Put the task in front, and redirect to the page on which the button was: the robot's, or the task's."""
        self.check_may_operate(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        url = reverse("admin:tasks_task_change", args=[id])
        try:
            task = place.put_first(services.get(id), by=username(request))
            messages.success(request, f"{task.handler} …{str(task.pk)[-8:]} is first in the queue of {task.robot}.")
        except UnknownTask:
            return self.to_list(request, f"There is no task {id}.")
        except FmvError as error:
            messages.error(request, str(error))
        else:
            url = robot_url(task.robot) if request.GET.get("back") == "robot" else url
        return HttpResponseRedirect(url)


def _field_of(form: Any) -> str | None:
    """Return the field beside which a refusal stands: where tasks were to move, if they were."""
    return next((name for name, value in getattr(form, "where", {}).items() if value), None)


def _sent(request: HttpRequest) -> QueryDict | None:
    return request.POST if request.method == "POST" else None


def _sentences(error: FmvError) -> str:
    return "; ".join(problem.msg for problem in error.problems) if isinstance(error, InvalidInput) else str(error)
