"""Robots and tasks in the admin: robots can be changed by managers, tasks are for reading."""

import json
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.timezone import localtime

import robots.services
from fmv.admin import FleetAdmin, ReadOnlyAdmin
from fmv.errors import FmvError
from robots.models import Robot
from tasks import services
from tasks.models import Status, Task

LATEST = 20  # tasks on a robot's page


class RobotForm(forms.ModelForm):
    class Meta:
        model = Robot
        fields = ("name", "is_great", "location", "description", "enabled", "lanes", "labels", "endpoint")
        widgets = {"description": forms.Textarea(attrs={"rows": 3})}

    def clean_endpoint(self) -> str | None:
        return self.cleaned_data["endpoint"] or None


@admin.register(Robot)
class RobotAdmin(FleetAdmin):
    class Media:
        css = {"all": ["tasks/status.css"]}

    form = RobotForm
    list_display = ("name", "location", "enabled", "lanes", "is_great", "updated_at")
    list_filter = ("enabled", "is_great")
    search_fields = ("name", "location", "description")
    fieldsets = (
        (None, {"fields": ("name", "is_great", "location", "description")}),
        ("Work", {"fields": ("enabled", "lanes", "labels", "endpoint")}),
        ("Record", {"fields": ("created_at", "updated_at", "latest_tasks")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Robot | None = None) -> tuple[str, ...]:
        record = ("created_at", "updated_at", "latest_tasks")
        return record if obj is None else ("name", *record)  # the name is the key: a new one would be a new robot

    @admin.display(description="latest tasks")
    def latest_tasks(self, robot: Robot) -> str:
        tasks = Task.objects.of_robot(robot.name).newest_first()[:LATEST]
        rows = [
            (reverse("admin:tasks_task_change", args=[task.pk]), when(task.created_at), task.handler, coloured(task))
            for task in tasks
        ]
        return format_html_join("", '<div><a href="{}">{} {}</a> {}</div>', rows) or "none"

    def save_model(self, request: HttpRequest, obj: Robot, form: forms.ModelForm, change: bool) -> None:
        if change:  # what was not changed here may have been changed elsewhere meanwhile
            services.change_robot(obj.name, **{field: form.cleaned_data[field] for field in form.changed_data})
        else:
            robots.services.create(**form.cleaned_data)

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return super().changeform_view(request, *args, **kwargs)
        except FmvError as error:  # somebody was faster than this form
            self.message_user(request, str(error), messages.ERROR)
            return HttpResponseRedirect(request.get_full_path())

    def delete_model(self, request: HttpRequest, obj: Robot) -> None:
        services.delete_robot(obj)

    def delete_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        try:
            return super().delete_view(request, object_id, extra_context)
        except FmvError as error:
            self.message_user(request, str(error), messages.ERROR)
            return self.response_post_save_change(request, self.get_object(request, object_id))


def when(moment: Any) -> str:
    """Show a moment to the second, "-" for none."""
    return f"{localtime(moment):%Y-%m-%d %H:%M:%S}" if moment else "-"


def coloured(task: Task) -> str:
    """Show the task's status in its colour."""
    return format_html('<b class="status-{0}">{0}</b>', task.status)


def pretty(value: Any) -> str:
    """Show a JSON value over several lines."""
    return format_html("<pre>{}</pre>", json.dumps(value, indent=2, ensure_ascii=False))


class StatusFilter(admin.SimpleListFilter):
    title = "status"
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        return [(status.value, status.value) for status in Status]

    def queryset(self, request: HttpRequest, queryset: Any) -> QuerySet[Task]:
        return queryset.narrowed(status=[self.value()]) if self.value() in Status.values else queryset


@admin.register(Task)
class TaskAdmin(ReadOnlyAdmin):
    """For reading: a task changes by its transitions only."""

    class Media:
        css = {"all": ["tasks/status.css"]}

    list_display = ("created", "robot", "handler", "state", "percent", "attempt", "requested_by")
    list_display_links = ("created",)
    list_filter = (StatusFilter,)
    search_fields = ("robot__exact",)
    search_help_text = "The exact name of a robot."
    fieldsets = (
        (None, {"fields": ("id", "robot", "handler", "state", "percent", "message")}),
        ("Data", {"fields": ("shown_params", "shown_result", "shown_error")}),
        ("Plan", {"fields": ("priority", "labels", "run_at", "expires_at", "timeout", "max_attempts", "retry_of")}),
        ("Run", {"fields": ("attempt", "worker", "lane", "lease_expires_at", "started_at", "finished_at")}),
        ("Record", {"fields": ("created", "requested_by", "request_id", "cancel_requested", "timeline", "log")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Task | None = None) -> list[str]:
        return [str(name) for _, options in self.fieldsets or () for name in options["fields"]]

    @admin.display(description="created")
    def created(self, task: Task) -> str:
        return when(task.created_at)

    @admin.display(description="status")
    def state(self, task: Task) -> str:
        return coloured(task)

    @admin.display(description="progress")
    def percent(self, task: Task) -> str:
        return "" if task.progress is None else f"{task.progress:.0f} %"

    @admin.display(description="params")
    def shown_params(self, task: Task) -> str:
        return pretty(task.params)

    @admin.display(description="result")
    def shown_result(self, task: Task) -> str:
        return pretty(task.result)

    @admin.display(description="error")
    def shown_error(self, task: Task) -> str:
        if not task.error:
            return "-"
        return format_html("<b>{type}</b>: {message}<pre>{traceback}</pre>", **task.error)

    @admin.display(description="history")
    def timeline(self, task: Task) -> str:
        rows = [(when(e["at"]), e["status"], e["attempt"], e["note"]) for e in task.history]
        return format_html_join("", "<div>{} <b>{}</b> attempt {} {}</div>", rows)

    @admin.display(description="log")
    def log(self, task: Task) -> str:
        rows = [(when(line.at), line.attempt, line.text) for line in task.log_lines()[:200]]
        return format_html_join("", "<div>{} attempt {}: {}</div>", rows) or "-"
