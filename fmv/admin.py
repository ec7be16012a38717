"""Users in the admin, and what FMV's admin pages share."""

from typing import Any

import django_celery_results.admin  # noqa: F401 - registers its pages, some of which are taken back below
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.forms import UserCreationForm
from django.contrib.auth.models import Group
from django.core.paginator import Paginator
from django.http import HttpRequest
from django.utils.functional import cached_property
from django_celery_results.models import GroupResult, TaskResult

from fmv.models import User

admin.site.site_title = "FMV"
admin.site.site_header = "FMV"
admin.site.index_title = "Fleet"
admin.site.site_url = "/api/v1/docs"


admin.site.unregister([Group, GroupResult, TaskResult])  # roles, not groups; no chords; runs are below


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
    actions = None


class ReadOnlyAdmin(FleetAdmin):
    """For what changes by other ways than a form."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(TaskResult)
class MaintenanceRunAdmin(ReadOnlyAdmin):
    """What Celery remembers: the periodic maintenance runs of the last hour."""

    list_display = ("date_done", "task_name", "status", "result", "worker")
    list_filter = ("status", "task_name")


class NewUserForm(UserCreationForm):
    class Meta:
        model = User
        fields = ("username", "role")


@admin.register(User)
class UserAdmin(DjangoUserAdmin):
    """Superusers only: roles are theirs to give."""

    add_form = NewUserForm
    list_display = ("username", "name", "email", "role", "is_active", "is_superuser", "last_login")
    list_filter = ("role", "is_active", "is_superuser")
    search_fields = ("username", "name", "email")
    ordering = ("username",)
    filter_horizontal = ()
    readonly_fields = ("subject", "email_verified", "last_login", "date_joined")
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        ("Person", {"fields": ("name", "email", "email_verified", "picture", "subject")}),
        ("Rights", {"fields": ("role", "is_active", "is_superuser")}),
        ("Dates", {"fields": ("last_login", "date_joined")}),
    )
    add_fieldsets = ((None, {"fields": ("username", "password1", "password2", "role")}),)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False  # the audit trail names users: deactivate instead
