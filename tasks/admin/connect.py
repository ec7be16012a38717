"""How an operator connects a robot: the page with the tokens of its agent, which shows when the agent has reported."""

from typing import Any
from uuid import uuid4

from django import forms
from django.conf import settings
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

import robots.services
from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken
from fmv.errors import FmvError
from fmv.http import sent_forms
from fmv.mongodb.server import recent_now
from robots.models import Robot, RobotState
from robots.models.state import heard_since
from tasks.admin.base import PagesAdmin, username
from tasks.templatetags.fleet import robot_url

MAX_TOKENS = 20  # of a robot that its page lists


class TokenForm(forms.Form):
    days = forms.FloatField(label="Days until it expires", initial=lambda: f"{settings.ENVIRONMENT.token_max_days:g}")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""


class ConnectPages(PagesAdmin):
    """The pages "Connect this robot", for managers."""

    connect_pages = {
        "connect": ("<path:object_id>/connect/", "connect_view"),
        "connection": ("<path:object_id>/connection/", "connection_view"),
    }

    def connect_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show the robot's tokens. A POST revokes one, or makes one, whose secret this answer alone shows."""
        robot = self._robot(request, object_id)
        if robot is None:
            return self.to_list(request, f"There is no robot {unquote(object_id)[:64]}.")
        if "revoke" in request.POST:
            return self._revoke(request, robot)
        form, token = TokenForm(request.POST if request.method == "POST" else None), None
        if form.is_bound and form.is_valid():
            if not sent_forms.is_first(request):
                messages.warning(request, "This form was sent before, so no other token was created.")
                return HttpResponseRedirect(robot_url(robot.name, "connect"))
            token = _create(request, robot, form)
        context = {
            "robot": robot,
            "form": form,
            "tokens": _latest_tokens(robot),
            "once": uuid4(),
            "address": request.build_absolute_uri("/").rstrip("/"),
            **_connection(robot, token),
        }
        page: Any = self.page(request, "robots/robot/connect.html", f"Connect {robot.name}", **context)
        page.shown_once = token is not None  # its secret is not stored
        return page

    def connection_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show whether the agent is online, or with a new `token` (its short id) whether it has reported with it."""
        robot = self._robot(request, object_id)
        if robot is None:
            return HttpResponse(status=404)
        new = request.GET.get("token")
        context = _connection(robot, _find(robot, new) if new else None)
        return self.fragment(request, "robots/robot/connection.html", done=context["step"] == "connected", **context)

    def _robot(self, request: HttpRequest, object_id: str) -> Robot | None:
        if not self.has_change_permission(request):
            raise PermissionDenied
        return Robot.objects.filter(pk=unquote(object_id)).first()

    def _revoke(self, request: HttpRequest, robot: Robot) -> HttpResponse:
        token = _find(robot, request.POST["revoke"])
        if token and api_tokens.revoke(token, by=username(request)):
            messages.success(request, f"The token {token.short_id} is revoked. No agent can use it any more.")
        return HttpResponseRedirect(robot_url(robot.name, "connect"))


def _create(request: HttpRequest, robot: Robot, form: TokenForm) -> ApiToken | None:
    """Return a new token. If that fails, add the error to the form and return None."""
    try:
        return robots.services.create_token(robot.name, by=username(request), days=form.cleaned_data["days"])
    except FmvError as error:
        form.add_error(None, str(error))
        return None


def _find(robot: Robot, short_id: str) -> ApiToken | None:
    """Return the token with this short id, of those that the robot's page lists."""
    return next((token for token in _latest_tokens(robot) if token.short_id == short_id), None)


def _latest_tokens(robot: Robot) -> Any:
    return ApiToken.objects.filter(robot=robot.name).order_by("-created_at")[:MAX_TOKENS]


def _connection(robot: Robot, token: ApiToken | None) -> dict[str, Any]:
    """Return what is known of the robot's agent, and the step that a new token has reached."""
    state = RobotState.objects.filter(pk=robot.name).first()
    online = bool(state and state.online and state.last_seen >= heard_since(recent_now()))
    step = ""
    if token:
        reported = online and state and state.reported_at and state.reported_at >= token.created_at
        step = "waiting" if token.last_used_at is None else "connected" if reported else "called"
    return {"robot": robot, "token": token, "state": state, "online": online, "step": step}
