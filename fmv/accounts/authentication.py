"""Who calls: authentication of API requests, and sign-in to the admin by password."""

from typing import Any

from django.conf import settings
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.hashers import make_password
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, SessionAuthentication, get_authorization_header
from rest_framework.request import Request

from fmv.accounts import api_tokens, oidc_users
from fmv.accounts.models import User
from fmv.accounts.oidc import refuse
from fmv.accounts.permissions import Role


class RoleBackend(BaseBackend):
    """Password sign-in. Permissions follow from the user's role (`fmv.accounts.permissions.PERMISSIONS`)."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **_: Any
    ) -> User | None:
        if username is None or password is None:
            return None
        user = User.objects.filter(username=username).first()
        if user is None:
            make_password(password)  # as slow as a wrong password, so that timing does not reveal which users exist
            return None
        return user if user.is_active and user.check_password(password) else None

    def get_user(self, user_id: Any) -> User | None:
        return User.objects.filter(pk=user_id, is_active=True).first()


class Anonymous(AnonymousUser):
    """A caller who has not signed in: FMV_ANONYMOUS says what they may do."""

    username: Any = "anonymous"
    robot = None

    @property
    def effective_role(self) -> Role:
        return Role.NONE if settings.ENVIRONMENT.anonymous == "none" else Role(settings.ENVIRONMENT.anonymous)


def bearer_token(request: Request) -> str | None:
    """Return the token of an `Authorization: Bearer` header, None without such a header.

    Raises AuthenticationFailed for one that holds no token: a failed sign-in must not go on as somebody else.
    """
    if "HTTP_AUTHORIZATION" not in request._request.META:
        return None
    scheme, _, token = get_authorization_header(request).strip().partition(b" ")
    if scheme.lower() != b"bearer":
        return None
    token = token.strip()
    if not token or not token.isascii() or b" " in token:
        refuse("it is missing or malformed")
    return token.decode("ascii")


class Bearer(BaseAuthentication):
    """A token in the `Authorization` header. Browsers never add it by themselves, so it needs no CSRF protection."""

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class ApiTokenBearer(Bearer):
    """A program's API token."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        token = bearer_token(request)
        return (api_tokens.sign_in(token), None) if token and api_tokens.is_api_token(token) else None


class OidcBearer(Bearer):
    """A token of the organisation's OpenID Connect issuer: any bearer token that is not an API token."""

    def authenticate(self, request: Request) -> tuple[User, None] | None:
        token = bearer_token(request)
        return (oidc_users.sign_in(token), None) if token and not api_tokens.is_api_token(token) else None


class SessionCookie(SessionAuthentication):
    """The session cookie from the admin's or the API's sign-in, with CSRF protection for unsafe methods.

    A request without a cookie has no session at all, because `fmv.http.middleware.Sessions` skips it.
    """

    def authenticate_header(self, request: Request) -> str:
        return "Bearer"


class SessionScheme(OpenApiAuthenticationExtension):
    target_class = SessionCookie
    name = "session"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        description = (
            "The session that sign-in to the admin or the API opens. Requests that change something also need the "
            f"header `X-CSRFToken` with the value of the cookie `{settings.CSRF_COOKIE_NAME}`."
        )
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME, "description": description}


class ApiTokenScheme(OpenApiAuthenticationExtension):
    target_class = ApiTokenBearer
    name = "token"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        description = (
            f"A program's API token, `{api_tokens.PREFIX}…`, created in the admin or with `manage.py tokens`. One of a "
            "robot is for the robot's agent: it allows the routes under `/agent`, which no other token allows, and "
            "nothing else."
        )
        return {"type": "http", "scheme": "bearer", "description": description}


class OidcScheme(OpenApiAuthenticationExtension):
    target_class = OidcBearer
    name = "oidc"

    def get_security_definition(self, auto_schema: Any) -> dict[str, Any]:
        description = "An ID or access token of the organisation's OpenID Connect issuer."
        return {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": description}
