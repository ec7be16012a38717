"""The admin site: its frame, its navigation, and the pages that are not a model's."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import update_wrapper
from typing import Any, NamedTuple

from django.contrib.admin import AdminSite
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, reverse

from fmv.accounts import oidc_login, preferences, user_audit
from fmv.http import sent_forms
from tasks.admin import dashboard, handlers
from tasks.admin.pages import compare, export, find, import_robots, map_page, run_many, timeline


class Entry(NamedTuple):
    """A line of the navigation: the page's title, the name of its URL, its icon in fmv/icons.svg, and the permission
    that a reader needs. A model's list needs none here: its admin decides.
    """

    title: str
    page: str
    icon: str
    permission: str = ""


NAVIGATION = [
    ("", [Entry("Dashboard", "admin:index", "dashboard")]),
    (
        "Work",
        [
            Entry("Robots", "admin:robots_robot_changelist", "robot"),
            Entry("Tasks", "admin:tasks_task_changelist", "task"),
            Entry("Handlers", "admin:handlers", "handler", "tasks.view_task"),
            Entry("Bulk runs", "admin:tasks_bulk_changelist", "bulk"),
            Entry("Map", "admin:map", "map", "tasks.view_task"),
            Entry("Timeline", "admin:timeline", "timeline", "tasks.view_task"),
            Entry("Compare", "admin:compare", "compare", "tasks.view_task"),
        ],
    ),
    (
        "Record",
        [
            Entry("Audit", "admin:fmv_auditentry_changelist", "audit"),
            Entry("Maintenance runs", "admin:django_celery_results_taskresult_changelist", "maintenance"),
        ],
    ),
    (
        "Access",
        [
            Entry("API tokens", "admin:fmv_apitoken_changelist", "token"),
            Entry("Users", "admin:fmv_user_changelist", "user"),
        ],
    ),
]


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
        pages = [
            *oidc_login.pages(),
            *preferences.pages(self),
            *dashboard.pages(self),
            *handlers.pages(self),
            *compare.pages(self),
            *timeline.pages(self),
            *map_page.pages(self),
            *import_robots.pages(self),
            *run_many.pages(self),
            *find.pages(self),
            *export.pages(self),
        ]
        return [*pages, *super().get_urls()]  # the last of Django's routes matches any path

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        return super().each_context(request) | {"navigation": self.navigation(request)}

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        return super().index(request, dashboard.index(request) | (extra_context or {}))

    def admin_view(self, view: Any, cacheable: bool = False) -> Any:
        """Return the view for signed-in users. Back shows the answer to a form; one without a session is kept."""
        inner = super().admin_view(view, cacheable)

        def page(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not self.has_permission(request):
                lost = request.method == "POST" and sent_forms.is_browser(request) and not request.user.is_authenticated
                return (
                    sent_forms.refused(request)
                    if lost and sent_forms.may_be_kept(request)
                    else inner(request, *args, **kwargs)
                )
            answer = sent_forms.kept_answer(request)
            return answer or sent_forms.redirected(request, inner(request, *args, **kwargs))

        return update_wrapper(page, inner)

    def app_index(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]
        return HttpResponseRedirect(reverse("admin:index"))  # this admin has no page for an app

    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """Show and check the sign-in form. It may hold a form that was refused, which is then shown again."""
        kept, path = request.POST.get(sent_forms.KEPT, ""), request.POST.get(REDIRECT_FIELD_NAME, "")
        shown = {"organisation_url": oidc_login.sign_in_url(request), sent_forms.KEPT: kept} | (extra_context or {})
        shown["fields"] = sent_forms.unpacked(shown[sent_forms.KEPT])
        answer = super().login(request, shown)
        if kept and answer.status_code == 302 and answer.headers["Location"] == path:
            return sent_forms.signed_in_again(request, kept, path)
        if request.method == "POST" and answer.status_code == 200:
            sent_forms.let_back_show(answer)  # without a session none is kept
        return answer

    def logout(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        shown = {"organisation_url": oidc_login.sign_out_url(request)}  # before the session ends
        return super().logout(request, shown | (extra_context or {}))

    def password_change(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        answer = super().password_change(request, extra_context)
        if request.method == "POST" and answer.status_code == 302:
            user: Any = request.user
            user_audit.password_changed(user, by=user.get_username())
        return answer

    def navigation(self, request: HttpRequest) -> list[tuple[str, list[Link]]]:
        """Return the groups of entries that the user may see: none without a sign-in."""
        if not self.has_permission(request):
            return []
        groups = [(title, [*self._links(request, entries)]) for title, entries in NAVIGATION]
        return [(title, links) for title, links in groups if links]

    def _links(self, request: HttpRequest, entries: list[Entry]) -> Iterator[Link]:
        for entry in entries:
            if self._may_see(request, entry):
                url = reverse(entry.page)
                yield Link(entry.title, entry.icon, url, _is_within(request.path, url))

    def _may_see(self, request: HttpRequest, entry: Entry) -> bool:
        for model, page in self._registry.items():
            if entry.page == f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist":
                return bool(page.has_module_permission(request) and page.has_view_or_change_permission(request))
        user: Any = request.user
        return not entry.permission or bool(user.has_perm(entry.permission))


def _is_within(path: str, url: str) -> bool:
    return path == url if url == reverse("admin:index") else path.startswith(url)
