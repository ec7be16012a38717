"""The admin's page Find: what the search box of the header finds."""

from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import URLPattern, path, reverse

from fmv.admin_base import wrong_words
from tasks.admin.dashboard import task_list
from tasks.reports.find import MAX_LENGTH, Group, Hit, find, is_behind
from tasks.templatetags.fleet import robot_url

EXAMPLES = "the end of a task's id, a part of a robot's name, a label, a location, a handler, a request id or a user"


def pages(site: Any) -> list[URLPattern]:
    def page(request: HttpRequest) -> HttpResponse:
        return render(request, "admin/pages/find.html", site.each_context(request) | found(request))

    return [path("find/", site.admin_view(page), name="find")]


def found(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the page."""
    user: Any = request.user
    if not user.has_perms(("tasks.view_task", "robots.view_robot", "fmv.view_auditentry")):
        raise PermissionDenied
    text = request.GET.get("q", "").strip()[:MAX_LENGTH]
    problems = [problem.msg for problem in wrong_words(request.GET, "q")]
    groups = [] if problems else find(text, with_users=user.has_perm("fmv.view_user"))
    return {
        "title": f"Find “{text}”" if text else "Find",
        "sought": text,
        "problems": problems,
        "groups": [_shown(group, text) for group in groups],
        "behind": not groups and bool(text) and is_behind(),
        "examples": EXAMPLES,
    }


def _shown(group: Group, text: str) -> dict[str, Any]:
    hits = [{"hit": hit, "url": _url(hit), "links": _links(hit)} for hit in group.hits]
    return {"title": group.title, "hits": hits, "more": group.more, "all_url": _all(group, text)}


def _url(hit: Hit) -> str:
    match hit.kind:
        case "task":
            return reverse("admin:tasks_task_change", args=[hit.key])
        case "bulk":
            return reverse("admin:tasks_bulk_change", args=[hit.key])
        case "robot":
            return robot_url(hit.key)
        case "handler":
            return reverse("admin:handler", args=[hit.key])
        case "request":
            return _audit(q=hit.key)
        case "user":
            return reverse("admin:fmv_user_change", args=[hit.key])
        case "requester":
            return task_list(requested_by=hit.key)
    return task_list(label=hit.key)


def _links(hit: Hit) -> list[tuple[str, str]]:
    """Return further links of a hit: (title, URL)."""
    match hit.kind:
        case "robot":
            return [("Tasks", task_list(robot=hit.key))]
        case "handler":
            return [("Tasks", task_list(handler=hit.key))]
        case "user":
            return [("Tasks", task_list(requested_by=hit.title)), ("Audit", _audit(by=hit.title))]
        case "requester":
            return [("Audit", _audit(by=hit.key))]
    return []


def _audit(**words: str) -> str:
    return f"{reverse('admin:fmv_auditentry_changelist')}?{urlencode(words)}"


def _all(group: Group, text: str) -> str:
    """Return the URL of a list of all that match, "" if there is none."""
    lists = {"Robots": "admin:robots_robot_changelist", "Users": "admin:fmv_user_changelist"}
    return f"{reverse(lists[group.title])}?{urlencode({'q': text})}" if group.title in lists and group.more else ""
