"""All routes. Within `/api/v1` each is served with and without its trailing slash, and neither redirects."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView

from fmv.http import views
from fmv.http.openapi import both

v1: list[URLPattern | URLResolver] = [
    *both("health", views.HealthView.as_view(), "health"),
    *both("auth/login", views.LoginView.as_view(), "login"),
    *both("auth/logout", views.LogoutView.as_view(), "logout"),
    *both("openapi.json", views.DocumentView.as_view(), "openapi"),
    *both("docs", views.DocsView.as_view(url_name="openapi"), "docs"),
]

urlpatterns = [
    path("api/v1/", include("tasks.api.urls")),  # first, as inside of it, what is asked for most: the search is a walk
    path("api/v1/", include(v1)),
    path("", RedirectView.as_view(url="/admin/")),
    path("favicon.ico", views.favicon),
    path("metrics", views.MetricsView.as_view(), name="metrics"),
    path("admin/", admin.site.urls),
]

handler400 = "fmv.http.views.handle_400"
handler403 = "fmv.http.views.handle_403"
handler404 = "fmv.http.views.handle_404"
handler500 = "fmv.http.views.handle_500"
