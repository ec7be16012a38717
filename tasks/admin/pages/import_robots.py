"""The admin's page "Add robots from a file": choose a file, see what it would do, store it."""

from collections import Counter
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse

from robots import drafts
from robots.drafts import Preview
from robots.errors import DraftOver
from robots.transfer import FIELDS, WrongFile
from tasks.admin.base import username

SHOWN_FAULTS = 200
WORDS = {
    "added": "{} added",
    "changed": "{} changed",
    "unchanged": "{} unchanged",
    "skipped": "{} left unchanged although the file differs",
    "faulty": "{} faulty line{s} left out",
}


def pages(site: Any) -> list[URLPattern]:
    def choose(request: HttpRequest) -> HttpResponse:
        _check_may_add(request)
        error = ""
        if request.method == "POST":
            try:
                draft = _uploaded(request)
                return HttpResponseRedirect(reverse("admin:import_draft", args=[draft.pk]))
            except WrongFile as wrong:
                error = str(wrong)
        context = {"title": "Add robots from a file", "error": error, "fields": FIELDS, "lifetime": drafts.LIFETIME}
        context |= {"max_bytes": drafts.MAX_BYTES, "max_robots": drafts.MAX_ROBOTS}
        return render(request, "admin/pages/import_robots.html", site.each_context(request) | context)

    def draft(request: HttpRequest, id: str) -> HttpResponse:
        _check_may_add(request)
        try:
            found = drafts.get(id, by=username(request))
            if request.method == "POST":
                outcome = drafts.confirm(found, replace=request.POST.get("existing") == "replace")
                messages.success(request, _in_words(outcome))
                return HttpResponseRedirect(reverse("admin:robots_robot_changelist"))
            shown = drafts.preview(found)
        except (DraftOver, WrongFile) as error:
            messages.error(request, str(error))
            return HttpResponseRedirect(reverse("admin:import_robots"))
        context = {"title": f"Robots of {found.file}", "draft": found, **_shown(shown)}
        return render(request, "admin/pages/import_draft.html", site.each_context(request) | context)

    return [
        path("robots/robot/import/", site.admin_view(choose), name="import_robots"),
        path("robots/robot/import/draft/<str:id>/", site.admin_view(draft), name="import_draft"),
    ]


def _check_may_add(request: HttpRequest) -> None:
    user: Any = request.user
    if not user.has_perms(("robots.add_robot", "robots.change_robot")):
        raise PermissionDenied


def _uploaded(request: HttpRequest) -> Any:
    """Keep the uploaded file and return its draft. Raises WrongFile."""
    file = request.FILES.get("file")
    if file is None:
        raise WrongFile("Choose a file.")
    return drafts.keep(file.name or "file", file.read(drafts.MAX_BYTES + 1), by=username(request))


def _shown(preview: Preview) -> dict[str, Any]:
    return {
        "preview": preview,
        "faults": preview.faults[:SHOWN_FAULTS],
        "more_faults": len(preview.faults) - SHOWN_FAULTS,
        "something": preview.new or preview.changed,
    }


def _in_words(outcome: Counter[str]) -> str:
    counts = [(outcome[name], text) for name, text in WORDS.items() if outcome[name]]
    said = ", ".join(text.format(f"{count:,}", s="" if count == 1 else "s") for count, text in counts)
    return f"Robots: {said}." if said else "Nothing has changed."
