"""The routes that serve the OpenAPI document.

They are not in openapi.py because drf-spectacular's views import the schema class that is defined there.
"""

from drf_spectacular.views import SpectacularJSONAPIView, SpectacularSwaggerSplitView

from fmv.http.json import Renderer
from fmv.http.query import StrictQuery


class DocumentView(StrictQuery, SpectacularJSONAPIView):
    """The OpenAPI document of this version."""

    renderer_classes = [Renderer]
    authentication_classes = []
    permission_classes = []
    throttle_classes = []


class DocsView(SpectacularSwaggerSplitView):
    """Swagger UI, without inline script or style, which the Content-Security-Policy forbids."""

    template_name = "fmv/docs.html"
    authentication_classes = []
    permission_classes = []
    throttle_classes = []
