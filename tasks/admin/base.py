"""The base class of the admin pages of robots, tasks and bulk runs."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from fmv.admin_base import FleetAdmin


class PagesAdmin(FleetAdmin):
    """A model's admin with pages of our own, in Django's frame and with Django's permissions."""

    #: name of the page -> (route, name of the view method); the URL is named `admin:<app>_<model>_<name>`
    pages: dict[str, tuple[str, str]] = {}

    def get_urls(self) -> list[Any]:
        return [*self._own_urls(), *super().get_urls()]

    def _own_urls(self) -> list[URLPattern]:
        view, label = self.admin_site.admin_view, f"{self.opts.app_label}_{self.opts.model_name}"
        return [
            path(route, view(getattr(self, method)), name=f"{label}_{name}")
            for name, (route, method) in self.pages.items()
        ]

    def page(self, request: HttpRequest, template: str, title: str, **context: Any) -> TemplateResponse:
        """Render a whole page."""
        common = {**self.admin_site.each_context(request), "opts": self.opts, "title": title}
        return TemplateResponse(request, f"admin/{template}", common | self.rights(request) | context)

    def fragment(self, request: HttpRequest, template: str, *, done: bool = False, **context: Any) -> TemplateResponse:
        """Render the new content of a live part of a page; `done` when it will not change any more."""
        headers = {"X-Live": "done" if done else "goes on"}
        return TemplateResponse(request, f"admin/{template}", self.rights(request) | context, headers=headers)

    def rights(self, request: HttpRequest) -> dict[str, bool]:
        """Return the permissions that decide which buttons a page has."""
        user: Any = request.user
        return {
            "may_operate": user.has_perm("robots.operate_robot") and user.has_perm("tasks.operate_task"),
            "may_add": self.has_add_permission(request),
            "may_change": self.has_change_permission(request),
            "may_delete": self.has_delete_permission(request),
        }

    def check_may_view(self, request: HttpRequest) -> None:
        """Raise PermissionDenied unless this is a GET or HEAD request of a user who may see the page."""
        if request.method not in ("GET", "HEAD") or not self.has_view_permission(request):
            raise PermissionDenied

    def check_may_operate(self, request: HttpRequest) -> None:
        if not self.rights(request)["may_operate"]:
            raise PermissionDenied

    def to_list(self, request: HttpRequest, error: str = "") -> HttpResponse:
        """Redirect to the list, which shows the error."""
        if error:
            messages.error(request, error)
        return HttpResponseRedirect(reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"))


def username(request: HttpRequest) -> str:
    return request.user.get_username()
