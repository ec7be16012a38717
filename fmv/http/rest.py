"""REST framework's views, spared what comes out the same for every request of every route of FMV's.

The order of things is REST framework's (authentication, permission, throttle, the method, one hook for errors), and so
is everything that the OpenAPI document is made from.
"""

from typing import Any

from django.http import HttpRequest
from rest_framework.request import Request
from rest_framework.views import APIView
from rest_framework.viewsets import ViewSetMixin

_allowed: dict[tuple[Any, ...], dict[str, str]] = {}


class View(APIView):
    def initialize_request(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Request:
        """Put at hand what is asked for most: REST framework would look for it in vain first, each time."""
        wrapped = super().initialize_request(request, *args, **kwargs)
        wrapped.method, wrapped.META = request.method, request.META
        return wrapped

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Leave out format suffix, negotiation and version, of which FMV has one each."""
        self.perform_authentication(request)
        self.check_permissions(request)
        self.check_throttles(request)

    def perform_authentication(self, request: Any) -> None:
        """Look for a token or a session only with those who brought a header or a cookie."""
        if "HTTP_AUTHORIZATION" in request.META or request.META.get("HTTP_COOKIE"):
            super().perform_authentication(request)
        else:
            request._not_authenticated()

    @property
    def default_response_headers(self) -> dict[str, str]:
        """Return `Allow`, which depends on the route alone."""
        route = (type(self), *(getattr(self, "action_map", None) or ()))
        if route not in _allowed:
            _allowed[route] = super().default_response_headers
        return dict(_allowed[route])


class ViewSet(ViewSetMixin, View):
    pass
