"""The admin pages of the app `fmv`, where Django looks for them, and the page of Celery's results."""

import django_celery_results.admin  # noqa: F401 - registers its pages; some are unregistered below
from django.contrib import admin
from django.contrib.auth.models import Group
from django_celery_results.models import GroupResult, TaskResult

import fmv.accounts.admin
import fmv.audit.admin  # noqa: F401 - both register their pages
from fmv.admin_base import ReadOnlyAdmin, badge
from fmv.export import attribute
from fmv.templatetags.display import timestamp

admin.site.unregister([Group, GroupResult, TaskResult])  # FMV has roles instead of groups, and no chords


@admin.register(TaskResult)
class MaintenanceRunAdmin(ReadOnlyAdmin):
    """Celery's results: the periodic maintenance runs of the last hour. See `tasks.jobs.Step` for which are stored."""

    heading = "Maintenance runs"
    list_display = ("when", "step", "state", "result", "worker")
    list_fields = ("date_done", "task_name", "status", "result", "worker")
    list_filter = ("status", "task_name")
    list_display_links = ("when",)
    fields = ("when", "step", "state", "result", "worker", "task_id", "traceback")
    readonly_fields = fields
    sortable_by = ()
    export_columns = (
        attribute("ended_at", "when it ended", "date_done"),
        attribute("step", "the periodic step", "task_name"),
        attribute("status", "SUCCESS or FAILURE"),
        attribute("result", "what it did, as JSON; of a failure the error"),
        attribute("worker", "the process that ran it"),
        attribute("id", "of the run", "task_id"),
    )
    export_fields = ("date_done", "task_name", "status", "result", "worker", "task_id")

    @admin.display(description="ended")
    def when(self, run: TaskResult) -> str:
        return timestamp(run.date_done)

    @admin.display(description="step")
    def step(self, run: TaskResult) -> str:
        return str(run.task_name or "-").removeprefix("tasks.").replace("_", " ")

    @admin.display(description="status")
    def state(self, run: TaskResult) -> str:
        return badge(run.status, f"status-{run.status}")
