"""Routes that are about FMV itself: health, the document, sign-in and out, unknown paths."""

import sys

from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.views.defaults import bad_request, page_not_found, permission_denied, server_error
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema, extend_schema_serializer
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerView
from kombu.exceptions import OperationalError
from pymongo.errors import PyMongoError
from rest_framework import serializers
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from fmv.api import Renderer, describe, error_response
from fmv.celery import app as celery
from fmv.mongodb.server import server_now
from fmv.schema import error


class OpenView(APIView):
    """A route that asks nobody who they are."""

    authentication_classes = []
    permission_classes = []


class HealthSerializer(serializers.Serializer):
    health = serializers.CharField()


class HealthView(OpenView):
    @extend_schema(
        operation_id="health_health_get",
        tags=["service"],
        responses=HealthSerializer,
        examples=[OpenApiExample("answering", {"health": "OK"})],
    )
    def get(self, request: Request) -> Response:
        """The process answers; nothing else is checked."""
        return Response({"health": "OK"})


def livez(request: HttpRequest) -> HttpResponse:
    """Answer as long as the process can answer at all."""
    return HttpResponse("OK", content_type="text/plain")


def readyz(request: HttpRequest) -> HttpResponse:
    """Answer 200 when MongoDB and the broker do, else 503 with a line for each that does not."""
    checks = {"mongodb": _ask_mongodb, "broker": _ask_broker}
    lines = {name: check() for name, check in checks.items()}
    status = 200 if set(lines.values()) == {"OK"} else 503
    text = "".join(f"{name}: {line}\n" for name, line in lines.items())
    return HttpResponse(text, status=status, content_type="text/plain")


def _ask_mongodb() -> str:
    try:
        server_now()
    except PyMongoError as error:
        return f"cannot be reached: {type(error).__name__}"
    return "OK"


def _ask_broker() -> str:
    try:
        with celery.connection_for_write(connect_timeout=2) as broker:
            broker.ensure_connection(max_retries=1, timeout=2)
    except (OperationalError, OSError, PyMongoError) as error:
        return f"cannot be reached: {type(error).__name__}"
    return "OK"


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
    @extend_schema(
        operation_id="login_session_auth_login_post",
        tags=["auth"],
        request=None,
        auth=[],
        responses={200: UserSerializer, 401: error(401)},
    )
    def post(self, request: Request) -> Response:
        """Open a session for the owner of an organisation's token.

        No issuer of such tokens can be configured in this version: every one is refused. Staff sign in at the admin.
        """
        raise NotAuthenticated


class LogoutView(OpenView):
    @extend_schema(
        operation_id="logout_auth_logout_post",
        tags=["auth"],
        request=None,
        auth=[],
        responses={200: OpenApiResponse(dict, description="The session is gone, if there was one"), 503: error(503)},
        examples=[OpenApiExample("signed out", {}, response_only=True, status_codes=["200"])],
    )
    def post(self, request: Request) -> Response:
        """End the session that the cookie names; the cookie is deleted."""
        logout(request)
        return Response({})


class DocumentView(SpectacularJSONAPIView):
    """The OpenAPI document of this version."""

    renderer_classes = [Renderer]
    authentication_classes = []
    permission_classes = []


class DocsView(SpectacularSwaggerView):
    """The document as a page to try it from."""

    authentication_classes = []
    permission_classes = []


def _is_api(request: HttpRequest) -> bool:
    return request.path_info.startswith("/api/")


def handle_400(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(400, "Bad Request") if _is_api(request) else bad_request(request, exception)


def handle_403(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(403, "Forbidden") if _is_api(request) else permission_denied(request, exception)


def handle_404(request: HttpRequest, exception: Exception) -> HttpResponse:
    return error_response(404, "Not Found") if _is_api(request) else page_not_found(request, exception)


def handle_500(request: HttpRequest) -> HttpResponse:
    """Tell an unreachable database (503) from a fault of ours (500), on API and pages alike."""
    error = sys.exception() if sys.version_info >= (3, 11) else sys.exc_info()[1]
    status, detail, headers = describe(error or RuntimeError("unknown"))
    if _is_api(request):
        return error_response(status, detail, headers)
    if status == 503:
        return HttpResponse(detail, status=503, headers=headers, content_type="text/plain")
    return server_error(request)
