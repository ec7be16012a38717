"""Base classes of the admin's lists, and badges."""

from collections.abc import Iterator
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.contrib.admin.views.main import ERROR_FLAG, ChangeList
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.template.response import TemplateResponse
from django.utils.functional import cached_property
from django.utils.html import format_html

from fmv import local_time
from fmv.errors import InvalidInput, Problem, did_you_mean
from fmv.export import Column, Export
from fmv.templatetags.display import coded, timestamp

MAX_SOUGHT = 200  # characters: MongoDB limits the length of a regular expression


def _is_searchable(text: str) -> bool:
    return "\0" not in text and len(text) <= MAX_SOUGHT


def badge(text: object, *classes: str) -> str:
    """Return a word as a coloured badge. The CSS classes choose the colour (see fmv/admin.css)."""
    return format_html('<span class="fmv-badge {}">{}</span>', " ".join(classes), text)


def wrong_words(query: QueryDict, *known: str, repeatable: tuple[str, ...] = ()) -> Iterator[Problem]:
    """Yield a Problem for each parameter of a page's address that is unknown, or given twice and not `repeatable`."""
    for name, values in query.lists():
        if name not in (*known, *repeatable):
            hint = did_you_mean(name, [*known, *repeatable])
            yield Problem(("query", name), f"The address has an unknown parameter {name[:50]!r}.{hint}")
        elif len(values) > 1 and name not in repeatable:
            yield Problem(("query", name), f"The address has the parameter {name} twice.")


def with_fixed_times(request: HttpRequest, *names: str) -> HttpResponse | None:
    """Redirect from an address with times that have no offset to the same one with them in UTC; None if all have one.

    A reader in another zone who gets the address then sees the same.
    """
    query = request.GET.copy()
    try:
        for name in names:
            if local_time.lacks_offset(query.get(name, "")):
                query[name] = local_time.in_utc(local_time.read(query.get(name, "")))
    except local_time.WrongTime:
        return None  # the page says what is wrong
    return HttpResponseRedirect(f"{request.path}?{query.urlencode()}") if query != request.GET else None


def time_column(field: str, title: str = "") -> Any:
    """Return a column of a list, or a field of a form, that shows this time of an object."""

    @admin.display(description=title or field.replace("_", " "), ordering=field)
    def show(shown: Any) -> str:
        return timestamp(getattr(shown, field))

    show.__name__ = field
    return show


class CappedPaginator(Paginator):
    """Stops counting at MAX_COUNT rows, because counting a million takes as long as reading them."""

    MAX_COUNT = 10_000

    @cached_property
    def count(self) -> int:
        rows: Any = self.object_list
        return int(rows.order_by()[: self.MAX_COUNT].count())


class FleetChangeList(ChangeList):
    """Reads no more of each row than the list shows."""

    model_admin: "FleetAdmin"

    def get_queryset(self, request: HttpRequest, exclude_parameters: Any = None) -> QuerySet[Any]:
        return super().get_queryset(request, exclude_parameters).only(*self.model_admin.list_fields)


class FleetAdmin(admin.ModelAdmin):
    """Base class of all lists."""

    #: the model's fields that the list shows; if empty, it reads them all
    list_fields: tuple[str, ...] = ()
    paginator = CappedPaginator
    show_full_result_count = False
    show_facets = admin.ShowFacets.NEVER
    list_per_page = 50
    actions: Any = None
    heading = ""  # title of the list, unless it is the model's plural
    #: in which the list is exported; if empty, it is not
    export_columns: tuple[Column, ...] = ()
    export_fields: tuple[str, ...] = ()  # of the model, which an export reads; if empty, it reads them all
    EXPORT_OBJECTS = 500  # that an export holds at a time

    def exported(self, request: HttpRequest) -> Export:
        """Return the rows of the list that the query of the request shows, all pages. Raises InvalidInput."""
        if self._is_wrong(request):
            raise InvalidInput([])
        try:
            shown = self.get_changelist_instance(request)
        except IncorrectLookupParameters:
            raise InvalidInput([]) from None
        found = shown.queryset.defer(None)
        rows = (found.only(*self.export_fields) if self.export_fields else found).iterator(self.EXPORT_OBJECTS)
        return Export(self.export_columns, rows, shown.result_count, shown.result_count >= CappedPaginator.MAX_COUNT)

    def _is_wrong(self, request: HttpRequest) -> bool:
        single = ["q", *(str(getattr(each, "parameter_name", "q")) for each in self.get_list_filter(request))]
        return any(len(request.GET.getlist(name)) > 1 for name in single) or ERROR_FLAG in request.GET

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        """Show the list. A filter that is unknown, invalid or given twice shows no rows and offers no action.

        Django would redirect to the list without any filter, and of one given twice apply the last.
        """
        answer = None if self._is_wrong(request) else super().changelist_view(request, extra_context)
        if answer is None or (isinstance(answer, HttpResponseRedirect) and answer.url.endswith(f"?{ERROR_FLAG}=1")):
            if not self.has_view_or_change_permission(request):
                raise PermissionDenied
            context = {**self.admin_site.each_context(request), "opts": self.opts, "title": "Invalid filter"}
            return TemplateResponse(request, "admin/invalid_filter.html", context)
        return answer

    def get_changelist(self, request: HttpRequest, **kwargs: Any) -> type[ChangeList]:
        return FleetChangeList if self.list_fields else ChangeList

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Refuse regular expressions in the URL: an invalid one causes a 500, and a slow one keeps MongoDB busy.

        Refuse NUL and long texts too, because `icontains` and the like become regular expressions, in which MongoDB
        takes none.
        """
        return "regex" not in lookup and _is_searchable(str(value)) and super().lookup_allowed(lookup, value, request)

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Any], search_term: str) -> Any:
        """Find nothing with NUL, which no text has, and with a long text: see `lookup_allowed`."""
        if not _is_searchable(search_term):
            return queryset.none(), False
        return super().get_search_results(request, queryset, search_term)

    def formfield_for_dbfield(self, *args: Any, **kwargs: Any) -> Any:
        """Return the form's field; what its help text has between backticks is shown as code."""
        field = super().formfield_for_dbfield(*args, **kwargs)
        if field is not None and "`" in str(field.help_text):
            field.help_text = coded(field.help_text)
        return field

    def log_addition(self, *args: Any) -> Any:
        """Leave out Django's own record of changes, because the services write audit entries."""

    def log_change(self, *args: Any) -> Any:
        """Leave it out, too."""

    def log_deletions(self, *args: Any) -> Any:
        """Leave it out, too."""


class ReadOnlyAdmin(FleetAdmin):
    """Base class of lists that no form changes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
