"""What a caller may do. It follows from the caller's role in code, so that a check costs no query."""

from typing import Any
from urllib.parse import urlsplit

from corsheaders.middleware import CorsMiddleware
from django.conf import settings
from django.contrib.auth import get_user
from django.db import DatabaseError, models
from django.http import HttpRequest, HttpResponse
from django.utils.functional import SimpleLazyObject
from pymongo.errors import PyMongoError
from rest_framework.exceptions import AuthenticationFailed, NotAuthenticated, PermissionDenied
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from fmv.accounts.oidc import IssuerUnavailable


class Role(models.TextChoices):
    """What a user may do; each role includes those before it."""

    #: may sign in and nothing else
    NONE = "", "No role"
    #: may read robots, tasks and handlers
    VIEWER = "viewer", "Viewer"
    #: may run, cancel and retry tasks, and take robots out of service
    OPERATOR = "operator", "Operator"
    #: may change the registry
    MANAGER = "manager", "Manager"

    def includes(self, other: "Role") -> bool:
        """Return whether this role may do everything that `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


_READS = frozenset(
    {
        "robots.view_robot",
        "tasks.view_task",
        "tasks.view_bulk",
        "fmv.view_auditentry",
        "django_celery_results.view_taskresult",
    }
)
_OPERATES = frozenset({"robots.operate_robot", "tasks.operate_task"})
_MANAGES = frozenset({"robots.add_robot", "robots.change_robot", "robots.delete_robot"})

#: What each role may do, as Django's permissions. Only superusers manage users and roles.
PERMISSIONS: dict[Role, frozenset[str]] = {
    Role.NONE: frozenset(),
    Role.VIEWER: _READS,
    Role.OPERATOR: _READS | _OPERATES,
    Role.MANAGER: _READS | _OPERATES | _MANAGES,
}


AGENTS_ONLY = "Only a robot's agent may do this, with the token of the robot."
NOT_FOR_AGENTS = "The token of a robot allows only the routes of its agent."


class HasRole(BasePermission):
    """Lets a caller in if their role includes the one that the view's `roles` gives for the action (or method).

    A view whose `agent` is true is for robots' agents only, and they may call no other, whatever FMV_ANONYMOUS says.
    """

    def has_permission(self, request: Request, view: Any) -> bool:
        caller: Any = request.user
        if for_agents(view) or caller.robot:
            self.message = AGENTS_ONLY if for_agents(view) else NOT_FOR_AGENTS
            return for_agents(view) and caller.robot is not None
        if (required := required_role(view, request.method or "")) is None:
            return True  # not offered: the answer is 405
        if not caller.is_authenticated and is_foreign(request):
            return False
        return bool(caller.effective_role.includes(required))

    def lets_anonymous_in(self, view: Any, method: str) -> bool:
        """Return whether callers who have not signed in may do it."""
        if for_agents(view):
            return False
        anonymous, required = settings.ENVIRONMENT.anonymous, required_role(view, method)
        return anonymous != "none" and required is not None and Role(anonymous).includes(required)


def for_agents(view: Any) -> bool:
    """Return whether the view is for robots' agents, and for nobody else."""
    return getattr(view, "agent", False)


def is_foreign(request: Request) -> bool:
    """Return whether a web page of an origin that is neither ours nor in FMV_CORS_ORIGINS wants to change something.

    Browsers send some of these requests without a preflight, and a server with FMV_ANONYMOUS would carry them out.
    """
    origin = request._request.META.get("HTTP_ORIGIN")
    if origin is None or request.method in SAFE_METHODS or origin == f"{request.scheme}://{request.get_host()}":
        return False
    try:
        return not CorsMiddleware(lambda _: HttpResponse()).origin_found_in_white_lists(origin, urlsplit(origin))
    except ValueError:  # not a URL
        return True


def required_role(view: Any, method: str) -> Role | None:
    """Return the least role that the request needs, None if the view does not offer the method."""
    roles: dict[str, Role] = view.roles
    if getattr(view, "action_map", None):
        asked = view.action
    else:
        handler = "get" if method == "HEAD" else method.lower()
        asked = handler if handler in view.http_method_names and hasattr(view, handler) else None
    if asked in ("options", "metadata"):  # as DRF calls OPTIONS of a view and of a viewset
        return Role.VIEWER
    return roles[asked] if asked else None


def still_allowed(view: Any, request: HttpRequest) -> bool:
    """Return whether the view would let this request in again; True while that cannot be checked."""
    try:
        _forget_caller(request)
        again = Request(request, authenticators=view.get_authenticators())
        view.perform_authentication(again)
        view.check_permissions(again)
    except (AuthenticationFailed, NotAuthenticated, PermissionDenied):
        return False
    except (IssuerUnavailable, DatabaseError, PyMongoError):
        pass
    return True


def _forget_caller(request: HttpRequest) -> None:
    """Make the session, if there is one, and its user be loaded again when they are next used."""
    if not hasattr(request, "session"):
        return
    request.session = type(request.session)(request.session.session_key)
    caller: Any = SimpleLazyObject(lambda: get_user(request))
    request.user = caller
