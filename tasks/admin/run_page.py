"""The page that runs a task on a robot. Its form has a key, so that it submits one task, however often it is sent."""

import uuid
from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from rest_framework.exceptions import ValidationError

from fmv.admin_base import wrong_words
from fmv.errors import FmvError, InvalidInput
from fmv.http import sent_forms
from fmv.http.errors import flatten
from fmv.http.fields import read_body
from fmv.http.json import check_json
from robots.models import Robot
from tasks import registry
from tasks.admin.base import PagesAdmin, username
from tasks.admin.run_form import RunForm
from tasks.admin.task_filters import uuid_or_none
from tasks.admin.tasks import task_url
from tasks.api.serializers import SubmitSerializer
from tasks.models import Task
from tasks.queue import services, submissions
from tasks.queue.errors import RobotOutOfService
from tasks.templatetags.fleet import robot_url


class RunPage(PagesAdmin):
    """The page "Run a task", for operators."""

    def run_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        self.check_may_operate(request)
        robot = Robot.objects.filter(pk=unquote(object_id)).first()
        if robot is None:
            return self.to_list(request, f"There is no robot {unquote(object_id)[:64]}.")
        # An unknown word in the address could be a misspelt one: the form would be that of another handler.
        if wrong := [*wrong_words(request.GET, "handler", "like", "once", sent_forms.ANSWER)]:
            messages.error(request, wrong[0].msg)
            return HttpResponseRedirect(robot_url(robot.name))
        like = _task_to_repeat(request)
        try:
            handler = registry.get(request.GET.get("handler") or (like.handler if like else registry.DEFAULT))
        except registry.UnknownHandler:
            messages.error(request, f"There is no handler {request.GET.get('handler', '')[:64]}.")
            return HttpResponseRedirect(robot_url(robot.name, "run"))
        if request.method == "GET" and sent_forms.is_browser(request) and "once" not in request.GET:
            with_key = urlencode({**request.GET.dict(), "once": uuid.uuid4()})
            return HttpResponseRedirect(f"{request.path}?{with_key}")  # Back leads to the same form, with the same key
        form = _run_form(request, robot, handler, like)
        before = _sent_before(request)
        if request.method == "POST" and form.is_valid() and (task := _submit(request, robot, form)):
            if before:
                messages.warning(request, "This form was sent before. It submitted this task, and no other.")
            else:
                messages.success(request, f"Submitted. {_when_it_starts(task, robot)}")
            return HttpResponseRedirect(task_url(task.pk))
        once = uuid.uuid4() if _is_spent(form) else _once(request) or uuid.uuid4()
        context = {
            "robot": robot,
            "form": form,
            "handler": handler,
            "handlers": registry.all_handlers(),
            "once": once,
            "before": before if request.method == "GET" else None,
        }
        return self.page(request, "robots/robot/run.html", f"Run a task on {robot.name}", **context)


def _task_to_repeat(request: HttpRequest) -> Task | None:
    """Return the task whose parameters prefill the form."""
    id = uuid_or_none(request.GET.get("like", ""))
    return Task.objects.filter(pk=id).first() if id else None


def _run_form(request: HttpRequest, robot: Robot, handler: registry.Handler[Any], like: Task | None) -> RunForm:
    params = like.params if like and like.handler == handler.name else None
    data = request.POST if request.method == "POST" else None
    return RunForm(handler, data, params=params, robot_enabled=robot.enabled)


def _submit(request: HttpRequest, robot: Robot, form: RunForm) -> Task | None:
    """Submit what the form says, once however often it is sent; None when the form says what is wrong with it."""
    body = form.send()
    key = _key(_once(request) or uuid.uuid4())

    try:
        check_json(body, ("body",))
        run = {"robot": robot.name, **read_body(SubmitSerializer, body)}
        return services.submit(run, by=username(request), key=key)
    except ValidationError as error:
        form.place(flatten(error.detail, ("body",)))
    except InvalidInput as error:
        form.place(error.problems)
    except FmvError as error:
        form.add_error("queue_anyway" if isinstance(error, RobotOutOfService) else None, str(error))
    return None


def _once(request: HttpRequest) -> uuid.UUID | None:
    """Return the form's key: that of the form that is sent, or the one in the address."""
    return uuid_or_none((request.POST if request.method == "POST" else request.GET).get("once", ""))


def _key(once: uuid.UUID) -> str:
    return f"admin form {once}"


def _sent_before(request: HttpRequest) -> uuid.UUID | None:
    """Return the id of the task that the form with this key has submitted, if it was sent before."""
    once = _once(request)
    return submissions.first_task(_key(once), by=username(request)) if once else None


def _is_spent(form: RunForm) -> bool:
    """Return whether the form was sent before with other values. Sent again, it submits another task."""
    return any(error.code == "reused" for error in form.non_field_errors().as_data())


def _when_it_starts(task: Task, robot: Robot) -> str:
    if task.run_at:
        return "The task waits for its time."
    if not robot.enabled:
        return "The task waits until its robot is in service."
    if robot.held_since:
        return "The task waits until the queue of its robot is released."
    return "The task starts when its robot is free."
