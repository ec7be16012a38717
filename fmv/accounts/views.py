"""The API's sign-in and sign-out."""

from django.contrib.auth import login, logout
from django.http import HttpResponse
from drf_spectacular.utils import OpenApiExample, OpenApiResponse, extend_schema, extend_schema_serializer
from rest_framework import serializers
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.views import APIView

from fmv.accounts.authentication import OidcBearer
from fmv.http.json import answer
from fmv.http.openapi import error_schema
from fmv.http.query import StrictQuery

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
    """A user, with the fields that v1 clients know."""

    active = serializers.BooleanField(source="is_active")
    name = serializers.CharField()
    sub = serializers.CharField(source="subject", allow_null=True)
    picture = serializers.CharField()
    email = serializers.CharField()
    email_verified = serializers.BooleanField()


class LoginView(StrictQuery, APIView):
    authentication_classes = [OidcBearer]
    permission_classes = []

    @extend_schema(
        operation_id="login_session_auth_login_post",
        tags=["auth"],
        request=None,
        responses={200: UserSerializer, 401: error_schema(401), 503: error_schema(503)},
    )
    def post(self, request: Request) -> HttpResponse:
        """Open a session for the owner of an organisation's token; the answer sets its cookie.

        Requests of the session that change something need the header `X-CSRFToken` with the value of the cookie
        `csrftoken`.
        """
        if not request.user.is_authenticated:
            raise NotAuthenticated
        request.session.flush()  # else the same user would keep the old session key
        login(request._request, request.user)
        return answer(UserSerializer(request.user).data)


class LogoutView(StrictQuery, APIView):
    authentication_classes = []
    permission_classes = []

    @extend_schema(
        operation_id="logout_auth_logout_post",
        tags=["auth"],
        request=None,
        auth=[],
        responses={200: OpenApiResponse(dict, description="There is no session any more"), 503: error_schema(503)},
        examples=[OpenApiExample("signed out", {}, response_only=True, status_codes=["200"])],
    )
    def post(self, request: Request) -> HttpResponse:
        """End the session of the cookie, and delete the cookie."""
        logout(request)
        return answer({})
