"""The routes that serve the OpenAPI document.

They are not in openapi.py because drf-spectacular's views import the schema class that is defined there.
"""

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView
from rest_framework.request import Request

from fmv.http.json import Renderer, answer
from fmv.http.openapi_hooks import as_openapi_3_0
from fmv.http.query import StrictQuery


class DocumentView(StrictQuery, SpectacularJSONAPIView):
    """The OpenAPI document of this version."""

    renderer_classes = [Renderer]
    authentication_classes = []
    permission_classes = []
    throttle_classes = []


class Document30View(DocumentView):
    """The same document in OpenAPI 3.0.3."""

    @extend_schema(exclude=True)
    def get(self, request: Request) -> HttpResponse:
        return answer(as_openapi_3_0(self.generator_class().get_schema(request=request, public=True)))


class DocsView(SpectacularSwaggerSplitView):
    """Swagger UI, without inline script or style, which the Content-Security-Policy forbids."""

    template_name = "fmv/docs.html"
    authentication_classes = []
    permission_classes = []
    throttle_classes = []
