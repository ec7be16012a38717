"""Base classes of the admin's lists, and badges."""

from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property
from django.utils.html import format_html


def badge(text: object, *classes: str) -> str:
    """Return a word as a coloured badge. The CSS classes choose the colour (see fmv/admin.css)."""
    return format_html('<span class="fmv-badge {}">{}</span>', " ".join(classes), text)


class CappedPaginator(Paginator):
    """Stops counting at MAX_COUNT rows, because counting a million takes as long as reading them."""

    MAX_COUNT = 10_000

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[: self.MAX_COUNT].count())


class SafeSearch(admin.ModelAdmin):
    """Keeps texts out of MongoDB's regular expressions that cause a 500 there."""

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Refuse regular expressions in the URL: an invalid one causes a 500, and a slow one keeps MongoDB busy.

        Refuse NUL too, because `icontains` and the like become regular expressions, in which MongoDB takes none.
        """
        return "regex" not in lookup and "\0" not in str(value) and super().lookup_allowed(lookup, value, request)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Any:
        """Find nothing with NUL, see `lookup_allowed`: no text has one."""
        if "\0" in search_term:
            return queryset.none(), False
        return super().get_search_results(request, queryset, search_term)


class FleetAdmin(SafeSearch):
    """Base class of all lists."""

    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    actions: Any = None
    heading = ""  # title of the list, unless it is the model's plural


class ReadOnlyAdmin(FleetAdmin):
    """Base class of lists that no form changes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
