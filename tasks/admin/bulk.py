"""Bulk runs in the admin: their progress, and a button to stop them."""

import datetime as dt
from typing import Any
from uuid import UUID

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect
from django.urls import reverse

from fmv import audit
from fmv.admin_base import ReadOnlyAdmin
from fmv.mongodb.uuid7 import id_at
from fmv.templatetags.display import timestamp, with_times
from tasks.admin.base import PagesAdmin, username
from tasks.admin.dashboard import task_list
from tasks.admin.task_filters import uuid_or_none
from tasks.models import Bulk, Task
from tasks.models.bulk import BulkStatus
from tasks.queue import bulk
from tasks.reports.export import BULK_FIELDS, BULKS
from tasks.reports.robot_status import slim
from tasks.templatetags.fleet import status

MAX_MADE = 50  # new tasks on a run's page


@admin.register(Bulk)
class BulkAdmin(PagesAdmin, ReadOnlyAdmin):
    """Bulk runs are started on the pages of tasks and robots and by commands, not here."""

    pages = {
        "state": ("<uuid:id>/state/", "state_view"),
        "stop": ("<uuid:id>/stop/", "stop_view"),
    }
    list_display = ("started", "what", "state", "done", "skipped", "by")
    list_display_links = ("started", "what")
    list_fields = ("id", "action", "conditions", "options", "status", "done", "skipped", "by")
    list_filter = ("status", "action")  # without an index: there are few bulk runs
    sortable_by = ()
    export_columns, export_fields = BULKS, BULK_FIELDS

    @admin.display(description="started")
    def started(self, run: Bulk) -> str:
        return timestamp(run.started_at)

    @admin.display(description="what")
    def what(self, run: Bulk) -> str:
        return with_times(bulk.in_words(run))

    @admin.display(description="status")
    def state(self, run: Bulk) -> str:
        return status(run.status)

    # --- A run -------------------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        self.check_may_view(request)
        id = uuid_or_none(object_id)
        run = _shown(id) if id else None
        if run is None:
            return self.to_list(request, f"There is no bulk run {object_id[:50]}. Old ones are deleted after a time.")
        context = {"what": bulk.in_words(run), "audit": audit.of("bulk", run.pk), **_state(run)}
        return self.page(request, "tasks/bulk/page.html", f"Bulk {run.action}", **context)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        id = uuid_or_none(object_id)
        return HttpResponseRedirect(run_url(id)) if id else self.to_list(request)

    def state_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        self.check_may_view(request)
        run = _shown(id)
        if run is None:
            return HttpResponse(status=404)
        return self.fragment(request, "tasks/bulk/state.html", done=not run.open, **_state(run))

    def stop_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        self.check_may_operate(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        run = Bulk.objects.filter(pk=id).first()
        if run is None:
            return self.to_list(request, f"There is no bulk run {id}.")
        if bulk.stop(run, by=username(request)):
            messages.success(request, "The bulk run is stopped. Tasks that it changed stay changed.")
        else:
            messages.warning(request, "The bulk run had already ended.")
        return HttpResponseRedirect(run_url(id))


def run_url(id: UUID) -> str:
    return reverse("admin:tasks_bulk_change", args=[id])


def _shown(id: UUID) -> Bulk | None:
    """Return what a page shows of the run, if it exists: its plan may take megabytes."""
    run: Bulk | None = Bulk.objects.filter(pk=id).defer("plan", "orders").first()
    return run


def _made(run: Bulk) -> list[Task]:
    """Return the first tasks that the run has made: by index, and none that is older or younger than the run."""
    while_it_ran = {"id__gt": run.pk, "id__lt": id_at(run.changed_at + dt.timedelta(seconds=1))}
    found = Task.objects.filter(handler=run.conditions["handler"], request_id=run.request_id, **while_it_ran)
    return slim(found.order_by("id")[:MAX_MADE], ("id", "status", "handler", "robot"))


def _state(run: Bulk) -> dict[str, Any]:
    """Return the part of a bulk run's page that changes while it runs."""
    expected = bulk.how_many(bulk.MAX_ESTIMATE, more=True) if run.expected is None else bulk.how_many(run.expected)
    made = _made(run) if run.action == "run" else []
    return {
        "made": made,
        "made_url": task_list(handler=run.conditions.get("handler", ""), requested_by=run.by) if made else "",
        "run": run,
        "running": run.status == BulkStatus.RUNNING,
        "expected": expected,
        "more_failures": run.skipped - len(run.failures),
    }
