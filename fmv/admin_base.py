"""What the admin's pages share: the lists' base classes and the badges."""

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.html import format_html


def badge(text: object, *classes: str) -> str:
    """Show a word in the colour of the state that a class names (see fmv/admin.css)."""
    return format_html('<span class="fmv-badge {}">{}</span>', " ".join(classes), text)


class CappedPaginator(Paginator):
    """Counts no further than CAP rows: counting a million takes as long as reading them."""

    CAP = 10_000

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[: self.CAP].count())


class FleetAdmin(admin.ModelAdmin):
    """What the lists of robots and tasks have in common."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    actions: Any = None
    heading = ""  # of the list, when it is another than the model's plural

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Refuse regular expressions in the address: a wrong one is a 500, and a slow one keeps MongoDB busy."""
        return "regex" not in lookup and super().lookup_allowed(lookup, value, request)


class ReadOnlyAdmin(FleetAdmin):
    """For what changes by other ways than a form."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
