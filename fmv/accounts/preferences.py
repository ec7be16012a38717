"""The time zone of each request's pages, and the page "Your settings", on which a user chooses it."""

import datetime as dt
from collections.abc import Callable
from typing import Any

from django import forms
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path
from django.utils import timezone

from fmv import local_time
from fmv.accounts import user_audit
from fmv.accounts.models import User

BROWSER = "fmv_zone"  # the cookie in which zone.js sends the browser's time zone


def time_zone_of(request: HttpRequest) -> dt.tzinfo:
    """Return the time zone for the request's pages: the user's choice, else the browser's, else the server's."""
    chosen = getattr(request.user, "time_zone", None) or request.COOKIES.get(BROWSER, "")
    found = local_time.find(chosen[: local_time.MAX_NAME]) if chosen else None
    return found or local_time.find(settings.ENVIRONMENT.time_zone) or dt.UTC


class TimeZones:
    """Middleware: shows times in the reader's zone on the pages of the admin. The API stays in UTC."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not request.path_info.startswith("/admin/"):
            return self.get_response(request)
        with timezone.override(time_zone_of(request)):
            return self.get_response(request)


class SettingsForm(forms.Form):
    time_zone = forms.CharField(
        required=False,
        max_length=local_time.MAX_NAME,
        widget=forms.TextInput(attrs={"list": "zones", "autocomplete": "off", "spellcheck": "false"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.label_suffix = ""
        self.fields["time_zone"].help_text = (
            "Type a part of its name, such as a city. Empty: the zone of your browser, or "
            f"{settings.ENVIRONMENT.time_zone} if it runs no scripts."
        )

    def clean_time_zone(self) -> str | None:
        name: str = self.cleaned_data["time_zone"]
        zone = local_time.find(name)
        if name and zone is None:
            raise ValidationError(f"There is no time zone {name!r}.{local_time.hint(name)}")
        return zone.key if zone else None


def pages(site: Any) -> list[URLPattern]:
    def page(request: HttpRequest) -> HttpResponse:
        user: Any = request.user
        form = SettingsForm(
            request.POST if request.method == "POST" else None, initial={"time_zone": user.time_zone or ""}
        )
        if form.is_valid():
            set_time_zone(user, form.cleaned_data["time_zone"])
            with timezone.override(time_zone_of(request)):
                messages.success(request, f"Times are shown in {local_time.current_name()}.")
            return HttpResponseRedirect(request.path)
        browser = local_time.find(request.COOKIES.get(BROWSER, "")[: local_time.MAX_NAME])
        context = {"title": "Your settings", "form": form, "zones": local_time.names(), "now": timezone.now()}
        context |= {"browser": browser.key if browser else ""}
        return render(request, "admin/preferences.html", site.each_context(request) | context)

    return [path("settings/", site.admin_view(page), name="settings")]


def set_time_zone(user: User, name: str | None) -> None:
    """Store the zone in which the user wants to see times (None: the browser's), with an audit entry if it differs."""
    before = User.objects.get(pk=user.pk)
    user.time_zone = name
    if before.time_zone != name:
        User.objects.filter(pk=user.pk).update(time_zone=name)
        user_audit.changed(before, user, by=user.username)
