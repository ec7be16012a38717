"""The admin's page Map: the robots of a map where they report to be, on its floor plan if it has one."""

from functools import lru_cache
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseNotModified, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path
from django.utils.http import parse_etags, quote_etag

from fmv import audit
from fmv.admin_base import wrong_words
from fmv.http import security_headers
from robots import floor_plans, positions
from tasks.admin.base import username
from tasks.admin.dashboard import Panel
from tasks.admin.pages import map_chart
from tasks.admin.pages.map_plan import PlanForm
from tasks.reports import fleet_map
from tasks.reports.fleet_map import STATES, Place
from tasks.reports.robot_status import STATES as TITLES
from tasks.reports.robot_status import RobotStatus
from tasks.templatetags.fleet import map_url

CACHE_SECONDS = 1.0  # for which what a map shows is shown to everybody
CACHED_MAPS = 16
ROWS = 200  # robots in the table
SECONDS, SLOWER_SECONDS = 2, 4  # between two refreshes; slower if there are more robots than rows


def pages(site: Any) -> list[URLPattern]:
    def page(request: HttpRequest) -> HttpResponse:
        check_may_view(request)
        return render(request, "admin/pages/map.html", site.each_context(request) | shown(request))

    def live(request: HttpRequest) -> HttpResponse:
        check_may_view(request)
        answer = render(request, "admin/pages/map_live.html", look(_asked(request) or ""))
        answer["X-Live"] = "goes on"
        return answer

    def plan(request: HttpRequest) -> HttpResponse:
        _check_may_change(request)
        return _change(request, site.each_context(request))

    def delete(request: HttpRequest) -> HttpResponse:
        _check_may_change(request)
        return _delete(request, site.each_context(request))

    return [
        path("map/", site.admin_view(page), name="map"),
        path("map/live/", site.admin_view(live), name="map_live"),
        path("map/image/", site.admin_view(image, cacheable=True), name="map_image"),
        path("map/plan/", site.admin_view(plan), name="map_plan"),
        path("map/plan/delete/", site.admin_view(delete), name="map_plan_delete"),
    ]


def check_may_view(request: HttpRequest) -> None:
    user: Any = request.user
    if not user.has_perms(("tasks.view_task", "robots.view_robot")):
        raise PermissionDenied


def _may_change(request: HttpRequest) -> bool:
    user: Any = request.user
    return bool(user.has_perm("robots.change_robot"))


def _check_may_change(request: HttpRequest) -> None:
    if not _may_change(request):
        raise PermissionDenied


def _asked(request: HttpRequest) -> str | None:
    """Return the map that the address names; None if it names none, or nothing that a map may be called."""
    name = request.GET.get("map")
    return None if name is None or "\0" in name else name


# --- The page --------------------------------------------------------------------------------------------------------


def shown(request: HttpRequest) -> dict[str, Any]:
    """Return the context of the page."""
    problems = [problem.msg for problem in wrong_words(request.GET, "map")]
    counts = positions.maps()
    names = [*counts, *(name for name in floor_plans.names() if name not in counts)]
    asked = _asked(request)
    name = asked if asked is not None else names[0] if names else ""
    return look(name) | {
        "title": "Map",
        "problems": problems,
        "name": name,
        "maps": [(each, counts.get(each, 0), each == name, map_url(each)) for each in names],
        "none": not names and asked is None,
        "seconds": SLOWER_SECONDS if counts.get(name, 0) > ROWS else SECONDS,
        "live_url": map_url(name, "live"),
        "plan": floor_plans.find(name),
        "may_change": _may_change(request),
        "audit": audit.of("plan", name),
    }


def look(name: str) -> dict[str, Any]:
    """Return the context of the live part of the page, or {"error": sentence} if MongoDB does not answer."""
    found = _panel(name).look()
    return {"name": name, **found.get("data", found)}


def forget() -> None:
    """Empty the cache of every map."""
    _panel.cache_clear()


@lru_cache(maxsize=CACHED_MAPS)
def _panel(name: str) -> Panel:
    def map_part() -> dict[str, Any]:
        return live_part(name)

    return Panel(map_part, CACHE_SECONDS)


def live_part(name: str) -> dict[str, Any]:
    """Return what the live part shows: the picture, and the robots that need a look first in the table."""
    places = fleet_map.places(name)
    drawn = map_chart.picture(places, floor_plans.find(name))
    order = sorted(places, key=_rank)
    return {
        "picture": drawn,
        "rows": [(place, TITLES[place.state].title, place.position.robot in drawn.beyond) for place in order[:ROWS]],
        "more": len(order[ROWS:]),
        "number": len(places),
        "most": positions.MAX_ROBOTS,
        "old": sum(not place.position.fresh for place in places),
        "counts": [
            (state, TITLES[state].title, number)
            for state in STATES
            if (number := sum(place.state == state for place in places))
        ],
    }


def _rank(place: Place) -> tuple[bool, int]:
    return place.position.fresh, min(STATES.index(place.state), STATES.index("out"))


def near(status: RobotStatus) -> dict[str, Any] | None:
    """Return the picture of the map about a robot, and the map's name; None if it reports no position. One command."""
    place = fleet_map.place_of(status)
    if place is None or status.condition is None:
        return None
    name = status.condition.state.map or ""
    drawn = map_chart.picture_about(place, floor_plans.find(name))
    return {"picture": drawn, "map": name} if drawn else None


# --- The picture of a floor plan -------------------------------------------------------------------------------------


def image(request: HttpRequest) -> HttpResponse:
    """Answer with the PNG, which a browser keeps but asks about each time: who sees it may change."""
    check_may_view(request)
    name = _asked(request) or ""
    digest = floor_plans.digest_of(name)
    if digest is None:
        raise Http404("This map has no floor plan.")
    headers = {
        "ETag": quote_etag(digest),
        "Cache-Control": "private, no-cache",
        "Content-Security-Policy": security_headers.DATA,
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    if quote_etag(digest) in parse_etags(request.headers.get("If-None-Match", "")):
        return HttpResponseNotModified(headers=headers)
    found = floor_plans.picture_of(name)
    if found is None:
        raise Http404("This map has no floor plan.")
    return HttpResponse(found[1], content_type="image/png", headers=headers | {"ETag": quote_etag(found[0])})


# --- For managers ----------------------------------------------------------------------------------------------------


def _change(request: HttpRequest, common: dict[str, Any]) -> HttpResponse:
    """Show the form of a map's floor plan, or store what it says."""
    name = _asked(request) or ""
    found = floor_plans.find(name) if request.method != "POST" else None
    form = PlanForm(request.POST or None, request.FILES or None, plan=found, initial={"map": name})
    if form.is_bound and form.is_valid() and form.store(by=username(request)):
        forget()
        messages.success(request, f"The floor plan of {title(form.cleaned_data['map'])} is stored.")
        return HttpResponseRedirect(map_url(form.cleaned_data["map"]))
    back = map_url(form.data.get("map", "") if form.is_bound else name)
    context = {"title": "Floor plan", "form": form, "back": back}
    return render(request, "admin/pages/map_plan.html", common | context)


def _delete(request: HttpRequest, common: dict[str, Any]) -> HttpResponse:
    """Ask whether to delete the floor plan of a map, or delete it."""
    name = _asked(request) or ""
    if request.method == "POST":
        if floor_plans.delete(name, by=username(request)):
            forget()
            messages.success(request, f"The floor plan of {title(name)} is deleted.")
        return HttpResponseRedirect(map_url(name))
    found = floor_plans.find(name)
    if found is None:
        messages.error(request, f"{title(name)} has no floor plan.")
        return HttpResponseRedirect(map_url(name))
    context = {"title": f"Delete the floor plan of {title(name)}", "plan": found, "name": name}
    return render(request, "admin/pages/map_plan_delete.html", common | context)


def title(name: str) -> str:
    """Return what pages call the map."""
    return name or "the map without a name"
