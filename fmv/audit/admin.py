"""The audit list in the admin."""

import re
from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.admin.utils import quote
from django.db.models import Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.http import urlencode

from fmv.admin_base import ReadOnlyAdmin
from fmv.audit.export import COLUMNS, FIELDS
from fmv.audit.models import AuditEntry
from fmv.mongodb.counting import collection
from fmv.templatetags.display import timestamp, with_times

UUID_FORM = re.compile("[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}")


class FewValuesFilter(admin.SimpleListFilter):
    """Filters by a column with few distinct values, which MongoDB reads from an index that begins with it."""

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        values = collection(AuditEntry).distinct(str(self.parameter_name))  # the ORM's would read every entry
        return [(value, value) for value in sorted(values)]

    def queryset(self, request: HttpRequest, queryset: QuerySet[AuditEntry]) -> QuerySet[AuditEntry]:
        return queryset.filter(**{str(self.parameter_name): self.value()}) if self.value() else queryset


class KindFilter(FewValuesFilter):
    title = parameter_name = "kind"


class ActionFilter(FewValuesFilter):
    title = parameter_name = "action"


class ActorFilter(FewValuesFilter):
    """Offers the current user, the actors that are not users, and the chosen one, not all users: they may be many."""

    title, parameter_name = "who", "by"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        chosen = request.GET.get("by")
        names = dict.fromkeys([request.user.get_username(), "command", "issuer", *([chosen] if chosen else [])])
        return [(name, name) for name in names]


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    heading = "Audit"
    list_display = ("when", "who", "action", "object", "details", "request")
    list_display_links = ("when",)
    list_filter = (ActorFilter, ActionFilter, KindFilter)
    search_fields = ("key",)
    search_help_text = "The exact name or id of the object, or a request id."
    sortable_by = ()
    fields = ("when", "by", "action", "object", "details", "request_id")
    readonly_fields = fields
    export_columns, export_fields = COLUMNS, FIELDS

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[AuditEntry], search_term: str
    ) -> tuple[QuerySet[AuditEntry], bool]:
        sought = search_term.strip()
        return (queryset.filter(Q(key=sought) | Q(request_id=sought)) if sought else queryset), False

    @admin.display(description="when")
    def when(self, entry: AuditEntry) -> str:
        return timestamp(entry.at)

    @admin.display(description="who")
    def who(self, entry: AuditEntry) -> str:
        return format_html('<a href="?{}">{}</a>', urlencode({"by": entry.by}), entry.by)

    @admin.display(description="object")
    def object(self, entry: AuditEntry) -> str:
        page = settings.FMV_AUDIT_PAGES.get(entry.kind)
        if not page:
            return format_html("{} {}", entry.kind, _short(entry.key))
        return format_html(
            '{} <a href="{}">{}</a>', entry.kind, reverse(page, args=[quote(entry.key)]), _short(entry.key)
        )

    @admin.display(description="text")
    def details(self, entry: AuditEntry) -> str:
        return with_times(entry.text)

    @admin.display(description="request id")
    def request(self, entry: AuditEntry) -> str:
        return _short(entry.request_id)


def _short(text: str) -> str:
    """Return an id as its end, with the whole in its title; another text, such as a robot's name, as it is."""
    return format_html('<span title="{}">…{}</span>', text, text[-8:]) if UUID_FORM.fullmatch(text) else text
