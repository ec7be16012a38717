"""The links by which a list is exported."""

from typing import Any

from django import template
from django.contrib import admin
from django.urls import reverse
from django.utils import timezone

from fmv.export import FORMS

register = template.Library()

PAGING = ("before", "after", "p", "all")  # parameters of lists: the file has all pages


@register.inclusion_tag("admin/export.html", takes_context=True)
def export_links(context: Any) -> dict[str, Any]:
    """Show links to the rows of this list as files, with its filters, and the columns of these files."""
    request, opts = context["request"], context["opts"]
    model_admin: Any = admin.site.get_model_admin(opts.model)
    query, address = request.GET.copy(), reverse("admin:export", args=[opts.app_label, opts.model_name])
    for name in PAGING:
        query.pop(name, None)

    def links(times: str) -> list[tuple[str, str, str]]:
        found = []
        for form, about in FORMS.items():
            query["format"], query["times"] = form, times
            found.append((form, about.title, f"{address}?{query.urlencode()}"))
        return found

    zone = timezone.get_current_timezone_name()
    return {
        "columns": model_admin.export_columns,
        "links": links("utc"),
        "local_links": links("local") if zone != "UTC" else [],
        "zone": zone,
    }
