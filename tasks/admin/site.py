"""The admin site: its frame, its navigation, and how apps bring pages that are no model's.

FMV_ADMIN_PAGES names functions `(site) -> list of URL patterns`, whose views go through `site.admin_view`;
FMV_DASHBOARD one, `(request) -> dict`, that returns what the template admin/index.html shows.
FMV_NAVIGATION holds the groups of entries. An entry is shown to who may see its page, and when that page exists.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from django.conf import settings
from django.contrib.admin import AdminSite
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import NoReverseMatch, URLPattern, URLResolver, reverse
from django.utils.module_loading import import_string

from fmv.accounts import oidc_login, user_audit


class Entry(NamedTuple):
    """A line of the navigation: `page` is the name of its URL, `permission` what its reader needs unless the page is
    a model's list, whose admin says that itself.
    """

    title: str
    page: str
    icon: str
    permission: str = ""


@dataclass(frozen=True)
class Link:
    title: str
    icon: str
    url: str
    current: bool


class FleetSite(AdminSite):
    site_title = "FMV"
    site_header = "FMV"
    index_title = "Dashboard"
    site_url = "/api/v1/docs"
    enable_nav_sidebar = False  # Django's lists apps and models; ours is in the header, see admin/navigation.html

    def get_urls(self) -> list[URLResolver | URLPattern]:
        pages = [page for path in settings.FMV_ADMIN_PAGES for page in import_string(path)(self)]
        return [*pages, *super().get_urls()]  # last of Django's is one for any path

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return super().each_context(request) | {"navigation": self.navigation(request)}

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        shown = import_string(settings.FMV_DASHBOARD)(request) if settings.FMV_DASHBOARD else {}
        return super().index(request, shown | (extra_context or {}))

    def app_index(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        return HttpResponseRedirect(reverse("admin:index"))  # apps are no places of this admin

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        shown = {"organisation_url": oidc_login.address(request)}
        return super().login(request, shown | (extra_context or {}))

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        shown = {"organisation_url": oidc_login.sign_out_address(request)}  # while the session still tells
        return super().logout(request, shown | (extra_context or {}))

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        answer = super().password_change(request, extra_context)
        if request.method == "POST" and answer.status_code == 302:
            user: Any = request.user
            user_audit.password_changed(user, by=user.get_username())
        return answer

    def navigation(self, request: HttpRequest) -> list[tuple[str, list[Link]]]:
        """Return the groups of entries that the user may see, none for who has not signed in."""
        if not self.has_permission(request):
            return []
        groups = [(title, [*self._links(request, entries)]) for title, entries in settings.FMV_NAVIGATION]
        return [(title, links) for title, links in groups if links]

    def _links(self, request: HttpRequest, entries: list[tuple[str, ...]]) -> Iterator[Link]:
        for entry in (Entry(*entry) for entry in entries):
            url = _address(entry.page)
            if url and self._may_see(request, entry):
                yield Link(entry.title, entry.icon, url, _is_within(request.path, url))

    def _may_see(self, request: HttpRequest, entry: Entry) -> bool:
        for model, page in self._registry.items():
            if entry.page == f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist":
                return bool(page.has_module_permission(request) and page.has_view_or_change_permission(request))
        user: Any = request.user
        return not entry.permission or bool(user.has_perm(entry.permission))


def _address(page: str) -> str:
    try:
        return reverse(page)
    except NoReverseMatch:
        return ""


def _is_within(path: str, url: str) -> bool:
    return path == url if url == reverse("admin:index") else path.startswith(url)
