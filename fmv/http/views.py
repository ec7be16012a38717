"""Routes that are about FMV itself: health, the document, sign-in and out, unknown paths."""

import sys
from typing import ClassVar

from django.contrib import admin
from django.contrib.auth import login, logout
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.templatetags.static import static
from django.views.defaults import bad_request, server_error
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema, extend_schema_serializer
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView
from rest_framework import serializers
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request

from fmv.accounts.authentication import OidcBearer
from fmv.http.api import Renderer, answer, describe, error_response
from fmv.http.openapi import error
from fmv.http.rest import View
from fmv.models import Role
from fmv.monitoring import probes


class OpenView(View):
    """A route that asks nobody who they are."""

    authentication_classes = []
    permission_classes = []


class FreeView(OpenView):
    """One that may be asked however often, and never asks the database."""

    throttle_classes = []


class HealthSerializer(serializers.Serializer):
    health = serializers.CharField()


class HealthView(FreeView):
    @extend_schema(
        operation_id="health_health_get",
        tags=["service"],
        responses=HealthSerializer,
        examples=[OpenApiExample("answering", {"health": "OK"})],
    )
    def get(self, request: Request) -> HttpResponse:
        """The process answers; nothing else is checked."""
        return answer({"health": "OK"})


class MetricsView(View):
    """What Prometheus reads, for callers who may read the rest too."""

    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}
    throttle_classes = []

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        return probes.metrics(request._request)


USER_EXAMPLE = {
    "active": True,
    "name": "Hubert J. Farnsworth",
    "sub": "248289761001",
    "picture": "https://planet-express.example/professor.png",
    "email": "professor@planet-express.example",
    "email_verified": True,
}


@extend_schema_serializer(examples=[OpenApiExample("a user", USER_EXAMPLE, response_only=True)])
class UserSerializer(serializers.Serializer):
    """A user as v1 clients know it."""

    active = serializers.BooleanField(source="is_active")
    name = serializers.CharField()
    sub = serializers.CharField(source="subject", allow_null=True)
    picture = serializers.CharField()
    email = serializers.CharField()
    email_verified = serializers.BooleanField()


class LoginView(OpenView):
    authentication_classes = [OidcBearer]

    @extend_schema(
        operation_id="login_session_auth_login_post",
        tags=["auth"],
        request=None,
        responses={200: UserSerializer, 401: error(401), 503: error(503)},
    )
    def post(self, request: Request) -> HttpResponse:
        """Open a session for the owner of an organisation's token; its cookie comes with the answer.

        What the session changes afterwards needs the header `X-CSRFToken` with the value of the cookie `csrftoken`.
        """
        if not request.user.is_authenticated:
            raise NotAuthenticated
        request.session.flush()  # or else the same user would go on under the old key
        login(request._request, request.user)
        return answer(UserSerializer(request.user).data)


class LogoutView(OpenView):
    @extend_schema(
        operation_id="logout_auth_logout_post",
        tags=["auth"],
        request=None,
        auth=[],
        responses={200: OpenApiResponse(dict, description="The session is gone, if there was one"), 503: error(503)},
        examples=[OpenApiExample("signed out", {}, response_only=True, status_codes=["200"])],
    )
    def post(self, request: Request) -> HttpResponse:
        """End the session that the cookie names; the cookie is deleted."""
        logout(request)
        return answer({})


class DocumentView(SpectacularJSONAPIView):
    """The OpenAPI document of this version."""

    renderer_classes = [Renderer]
    authentication_classes = []
    permission_classes = []
    throttle_classes = []


class DocsView(SpectacularSwaggerSplitView):
    """The document as a page to try it from; without script or style in the page itself, which the policy forbids."""

    template_name = "fmv/docs.html"
    authentication_classes = []
    permission_classes = []
    throttle_classes = []


def _is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith("/api/")


def favicon(request: HttpRequest) -> HttpResponse:
    """For browsers that show something else than a page of ours."""
    return redirect(static("fmv/favicon.svg"))


def _page(request: HttpRequest, status: int, title: str, text: str) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": title, "text": text}
    return render(request, "admin/message.html", context, status=status)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """Answer a form that Django does not believe to be ours; its own page holds a style of its own."""
    return _page(request, 403, "The form is out of date", "Go back, reload the page, and send the form again.")


def handle_400(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(400, "Bad Request") if _is_api(request) else bad_request(request, exception)


def handle_403(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return error_response(403, "Forbidden")
    return _page(request, 403, "Not allowed", "Your role does not let you see or do this. A superuser can change it.")


def handle_404(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return error_response(404, "Not Found")
    return _page(request, 404, "Page not found", "There is no such page. What it was about may have been deleted.")


def handle_500(request: HttpRequest) -> HttpResponse:
    """Tell an unreachable database (503) from a fault of ours (500), on API and pages alike."""
    error = sys.exception()
    status, detail, headers = describe(error or RuntimeError("unknown"))
    if _is_api(request):
        return error_response(status, detail, headers)
    if status == 503:
        return HttpResponse(detail, status=503, headers=headers, content_type="text/plain")
    return server_error(request)
