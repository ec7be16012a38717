"""All routes. Under `/api/v1` each works with and without a trailing slash, and neither form redirects."""

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.templatetags.static import static
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

from fmv.accounts.views import LoginView, LogoutView
from fmv.http.docs import DocsView, Document30View, DocumentView
from fmv.http.openapi import both
from fmv.monitoring.views import HealthView, MetricsView

v1: list[URLPattern | URLResolver] = [
    *both("health", HealthView.as_view(), "health"),
    *both("auth/login", LoginView.as_view(), "login"),
    *both("auth/logout", LogoutView.as_view(), "logout"),
    *both("openapi.json", DocumentView.as_view(), "openapi"),
    *both("openapi-3.0.json", Document30View.as_view(), "openapi_3_0"),
    *both("docs", DocsView.as_view(url_name="openapi"), "docs"),
]


def favicon(request: HttpRequest) -> HttpResponse:
    """Redirect browsers that ask for it beside an answer that is not a page of the admin."""
    return redirect(static("fmv/favicon.svg"))


urlpatterns = [
    path("api/v1/", include("tasks.api.urls")),  # first, because Django tries the routes in order
    path("api/v1/agent/", include("tasks.agents.urls")),
    path("api/v1/", include(v1)),
    path("", RedirectView.as_view(url="/admin/")),
    path("favicon.ico", favicon),
    path("metrics", MetricsView.as_view(), name="metrics"),
    path("admin/", admin.site.urls),
]

handler400 = "fmv.http.error_pages.handle_400"
handler403 = "fmv.http.error_pages.handle_403"
handler404 = "fmv.http.error_pages.handle_404"
handler500 = "fmv.http.error_pages.handle_500"
