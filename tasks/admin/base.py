"""What the pages of robots and tasks in the admin have in common."""

from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse

from fmv.admin_base import FleetAdmin


class PagesAdmin(FleetAdmin):
    """Pages of our own, in the frame and with the permissions of Django's."""

    #: name of the page -> (its route, the method that answers); `admin:<app>_<model>_<name>` is its URL's name
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
        """Answer with a whole page."""
        common = {**self.admin_site.each_context(request), "opts": self.opts, "title": title}
        return TemplateResponse(request, f"admin/{template}", common | self.rights(request) | context)

    def fragment(self, request: HttpRequest, template: str, *, done: bool = False, **context: Any) -> TemplateResponse:
        """Answer with the new content of a live part of a page; `done` when it will change no more."""
        headers = {"X-Live": "done" if done else "goes on"}
        return TemplateResponse(request, f"admin/{template}", self.rights(request) | context, headers=headers)

    def rights(self, request: HttpRequest) -> dict[str, bool]:
        """Return what the page's buttons depend on."""
        user: Any = request.user
        return {
            "may_operate": user.has_perm("robots.operate_robot") and user.has_perm("tasks.operate_task"),
            "may_add": self.has_add_permission(request),
            "may_change": self.has_change_permission(request),
            "may_delete": self.has_delete_permission(request),
        }

    def check_may_view(self, request: HttpRequest) -> None:
        """Raise PermissionDenied unless the user may see the page, and asks for no more than that."""
        if request.method not in ("GET", "HEAD") or not self.has_view_permission(request):
            raise PermissionDenied

    def check_may_operate(self, request: HttpRequest) -> None:
        if not self.rights(request)["may_operate"]:
            raise PermissionDenied

    def to_list(self, request: HttpRequest, error: str = "") -> HttpResponse:
        """Go to the list, and say there what was wrong."""
        if error:
            messages.error(request, error)
        return HttpResponseRedirect(reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist"))


def username(request: HttpRequest) -> str:
    return request.user.get_username()
