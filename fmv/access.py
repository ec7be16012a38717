"""Who calls, and what they may do: roles, never a query beyond the user's own document."""

from typing import Any

from django.conf import settings
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import AnonymousUser
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from fmv.models import Role, User


class RoleBackend(BaseBackend):
    """Password sign-in. Permissions follow from the user's role (`fmv.models.PERMISSIONS`)."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **_: Any
    ) -> User | None:
        if username is None or password is None:
            return None
        user = User.objects.filter(username=username).first()
        if user is None:
            make_password(password)  # as slow as a wrong password, so that answers do not tell who exists
            return None
        return user if user.is_active and user.check_password(password) else None

    def get_user(self, user_id: Any) -> User | None:
        try:
            return User.objects.filter(pk=user_id, is_active=True).first()
        except ValidationError:  # a session from before the key was a UUID
            return None


class Anonymous(AnonymousUser):
    """A caller who has not signed in: FMV_ANONYMOUS says what they may do."""

    username: Any = "anonymous"

    @property
    def effective_role(self) -> Role:
        return Role.NONE if settings.FMV_ANONYMOUS == "none" else Role(settings.FMV_ANONYMOUS)


class Session(SessionAuthentication):
    """The session cookie from the admin's or the API's sign-in, with CSRF protection of whatever changes something."""

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class SessionScheme(OpenApiAuthenticationExtension):
    target_class = Session
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


class HasRole(BasePermission):
    """Lets a caller in whose role includes the one the view's `roles` names for the action (or method)."""

    def has_permission(self, request: Request, view: Any) -> bool:
        if (required := required_role(view, request.method or "")) is None:
            return True  # not offered: the answer is 405
        caller: Any = request.user
        return bool(caller.effective_role.includes(required))


def required_role(view: Any, method: str) -> Role | None:
    """Return the least role for what the view is asked, None when it offers no such thing."""
    roles: dict[str, Role] = view.roles
    if hasattr(view, "action_map"):
        roles = roles | {"metadata": Role.VIEWER}  # how DRF calls OPTIONS
        return roles[view.action] if view.action else None
    handler = "get" if method == "HEAD" else method.lower()
    return roles[handler] if hasattr(view, handler) else None
