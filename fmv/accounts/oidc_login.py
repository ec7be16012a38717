"""Signing in to the admin by the organisation's issuer: OpenID Connect's authorization code flow, with PKCE.

The browser is sent to the issuer and comes back with a code. FMV exchanges the code for an ID token, which is verified
like any bearer token (fmv.accounts.oidc, fmv.accounts.oidc_users) and must also belong to this sign-in. The state of a
sign-in is kept in a signed cookie, so that a request for the page stores nothing in FMV.

Authlib implements the protocol. Its Django client is not used, because it would fetch the issuer's configuration and
keys itself, without the limits of fmv.accounts.oidc.
"""

import hmac
import logging
import re
import secrets
from urllib.parse import urlencode, urlsplit

import requests
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import REDIRECT_FIELD_NAME, login
from django.core import signing
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.urls import URLPattern, path, reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET
from rest_framework.exceptions import AuthenticationFailed

from fmv.accounts import oidc, oidc_users
from fmv.accounts.models import User

logger = logging.getLogger(__name__)

COOKIE = "fmv_sign_in"
SIGN_IN_SECONDS = 600  # that a user has to sign in at the issuer
SCOPE = "openid profile email"
BY_ORGANISATION = "by_organisation"  # key in a session that was opened this way
UNKNOWN = "This sign-in took too long, or was started in another window. Please try again."
UNREACHABLE = "Your organisation's sign-in cannot be reached. Try again soon, or sign in with a password."


class Refused(Exception):
    """The sign-in failed: the message for the user, and the reason for the log unless it has been logged already."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class NoToken(oidc.IssuerFault):
    """The issuer answered, but without an ID token for the code."""


def pages() -> list[URLPattern]:
    return [path("oidc/login/", begin, name="oidc_login"), path("oidc/callback/", finish, name="oidc_callback")]


def sign_in_url(request: HttpRequest) -> str:
    """Return the URL where a sign-in by the organisation begins, "" if none is configured."""
    if not settings.ENVIRONMENT.oidc_client_id:
        return ""
    asked_for = request.POST.get(REDIRECT_FIELD_NAME) or request.GET.get(REDIRECT_FIELD_NAME, "")
    return _with(reverse("admin:oidc_login"), **{REDIRECT_FIELD_NAME: asked_for})


def sign_out_url(request: HttpRequest) -> str:
    """Return the URL where this session's user can also sign out of the organisation, "" if there is none."""
    if not settings.ENVIRONMENT.oidc_client_id or not request.session.get(BY_ORGANISATION):
        return ""
    try:
        url = oidc.endpoint("end_session_endpoint")
    except oidc.IssuerUnavailable:
        return ""
    return _with(url, client_id=settings.ENVIRONMENT.oidc_client_id) if url else ""


# --- Views -----------------------------------------------------------------------------------------------------------


@require_GET
@never_cache
def begin(request: HttpRequest) -> HttpResponse:
    """Send the browser to the issuer."""
    _require_client()
    pending = {name: secrets.token_urlsafe(32) for name in ("state", "nonce", "verifier")}
    pending["next"] = _safe(request, request.GET.get(REDIRECT_FIELD_NAME, ""))
    try:
        url = _authorization_url(request, pending)
    except Refused as refusal:
        return _refuse(request, refusal, pending["next"])
    response = HttpResponseRedirect(url)
    response.set_cookie(
        COOKIE,
        signing.dumps(pending, salt=COOKIE),
        max_age=SIGN_IN_SECONDS,
        path=reverse("admin:oidc_callback"),
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",  # the browser comes back from the issuer's page
    )
    return response


@require_GET
@never_cache
def finish(request: HttpRequest) -> HttpResponse:
    """Open a session for the user that the issuer confirms, or show on the sign-in page why that failed."""
    _require_client()
    pending = _pending(request)
    try:
        user = _user(request, pending)
    except Refused as refusal:
        response = _refuse(request, refusal, pending.get("next", ""))
        response.is_refusal = True  # type: ignore[attr-defined] # fmv.http.throttle counts it
    else:
        login(request, user)
        request.session[BY_ORGANISATION] = True
        response = HttpResponseRedirect(pending["next"] or reverse("admin:index"))
    response.delete_cookie(COOKIE, path=reverse("admin:oidc_callback"), samesite="Lax")
    return response


def _require_client() -> None:
    if not settings.ENVIRONMENT.oidc_client_id:
        raise Http404


def _refuse(request: HttpRequest, refusal: Refused, asked_for: str) -> HttpResponse:
    if refusal.reason:
        logger.warning("Sign-in refused: %s", refusal.reason)
    messages.error(request, str(refusal))
    return HttpResponseRedirect(_with(reverse("admin:login"), **{REDIRECT_FIELD_NAME: asked_for}))


def _with(url: str, **parameters: str) -> str:
    """Return the URL with those of the parameters that are not empty."""
    query = urlencode({name: value for name, value in parameters.items() if value})
    return f"{url}{'&' if urlsplit(url).query else '?'}{query}" if query else url


def _safe(request: HttpRequest, url: str) -> str:
    """Return the URL if it leads to a page of this site, else ""."""
    ours = url_has_allowed_host_and_scheme(url, {request.get_host()}, require_https=request.is_secure())
    return url if ours else ""


def _pending(request: HttpRequest) -> dict[str, str]:
    """Return the state of this browser's sign-in, {} if it has none or it began too long ago."""
    try:
        pending: dict[str, str] = signing.loads(request.COOKIES.get(COOKIE, ""), salt=COOKIE, max_age=SIGN_IN_SECONDS)
    except signing.BadSignature:
        return {}
    return pending


# --- The protocol ----------------------------------------------------------------------------------------------------


def _client(request: HttpRequest) -> OAuth2Session:
    return OAuth2Session(
        settings.ENVIRONMENT.oidc_client_id,
        settings.ENVIRONMENT.oidc_client_secret,
        scope=SCOPE,
        redirect_uri=request.build_absolute_uri(reverse("admin:oidc_callback")),
        code_challenge_method="S256",
    )


def _authorization_url(request: HttpRequest, pending: dict[str, str]) -> str:
    try:
        endpoint = oidc.endpoint("authorization_endpoint")
    except oidc.IssuerUnavailable:
        raise Refused(UNREACHABLE) from None
    if not endpoint:
        raise Refused(UNREACHABLE, "the issuer announces no authorization_endpoint")
    url, _ = _client(request).create_authorization_url(
        endpoint, state=pending["state"], nonce=pending["nonce"], code_verifier=pending["verifier"]
    )
    return str(url)


def _user(request: HttpRequest, pending: dict[str, str]) -> User:
    """Return the user that the issuer confirms. Raises Refused."""
    code = _code(request.GET, pending)
    try:
        token = oidc.within(
            settings.ENVIRONMENT.oidc_timeout_seconds, lambda: _exchange(request, code, pending["verifier"])
        )
        user = oidc_users.sign_in(token, oidc.ExpectedToken(settings.ENVIRONMENT.oidc_client_id, pending["nonce"]))
    except NoToken as fault:
        raise Refused("Your organisation did not confirm the sign-in. Please try again.", str(fault)) from None
    except oidc.IssuerFault as fault:
        raise Refused(UNREACHABLE, str(fault)) from None
    except oidc.IssuerUnavailable:
        raise Refused(UNREACHABLE) from None
    except AuthenticationFailed as error:
        raise Refused(f"Your organisation's sign-in was not accepted. {error.detail}") from None
    if not user.is_staff:
        message = f"FMV knows you as {user.username}, but you have no role yet. Ask an administrator for one."
        raise Refused(message, f"{user.username!r} has no role")
    return user


def _code(answer: QueryDict, pending: dict[str, str]) -> str:
    """Return the code from the issuer's answer to this browser's sign-in. Raises Refused."""
    if not pending or not hmac.compare_digest(answer.get("state", "").encode(), pending["state"].encode()):
        raise Refused(UNKNOWN, "its state belongs to another browser")
    if answer.get("iss", settings.ENVIRONMENT.oidc_issuer) != settings.ENVIRONMENT.oidc_issuer:  # RFC 9207
        raise Refused(UNKNOWN, "the answer comes from another issuer")
    if error := re.sub(r"[^\w .-]", "", answer.get("error", ""))[:60]:
        raise Refused(f"Your organisation refused the sign-in ({error}).", f"the issuer says {error}")
    if not (code := answer.get("code", "")):
        raise Refused(UNKNOWN, "the issuer's answer has no code")
    return code


def _exchange(request: HttpRequest, code: str, verifier: str) -> str:
    """Return the ID token for this code. Raises IssuerFault."""
    if not (endpoint := oidc.endpoint("token_endpoint")):
        raise oidc.IssuerFault("the issuer announces no token_endpoint")
    timeout = settings.ENVIRONMENT.oidc_timeout_seconds
    try:
        with _client(request) as client:
            answer = client.fetch_token(
                endpoint, code=code, code_verifier=verifier, timeout=timeout, allow_redirects=False
            )
    except OAuthError as error:
        raise NoToken(f"{endpoint} says {error.error!r}") from None
    except (requests.RequestException, ValueError, TypeError) as error:  # no answer, or an unusable one
        raise oidc.IssuerFault(f"{endpoint}: {type(error).__name__}") from None
    if not isinstance(token := answer.get("id_token"), str):
        raise NoToken(f"{endpoint} gives no ID token")
    return token
