"""Tasks in the admin: read-only, with buttons that call the services."""

from typing import Any
from uuid import UUID, uuid4

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, HttpResponseRedirect, QueryDict
from django.urls import reverse

from fmv import audit
from fmv.admin_base import ReadOnlyAdmin, with_fixed_times
from fmv.errors import FmvError, InvalidInput
from fmv.export import Export
from fmv.http import sent_forms
from fmv.mongodb.counting import collection
from fmv.mongodb.server import stored_now
from robots.errors import UnknownRobot
from tasks import registry
from tasks.admin.base import username
from tasks.admin.queue_pages import PlacePages
from tasks.admin.task_filters import AGES, FINISHED, PRESETS, TaskFilter, read, uuid_or_none
from tasks.models import LogLine, Status, Task
from tasks.models.querysets import TaskQuerySet
from tasks.queue import bulk, robots_lost, services
from tasks.queue.errors import UnknownTask
from tasks.queue.new_task import due_at
from tasks.reports import export, waiting_reason
from tasks.reports.robot_status import slim

PAGE_ROWS = 50  # tasks on a page of the list
MAX_LOG_LINES = 200  # on a task's page
MAX_REPETITIONS = 20  # on a task's page
ROW_FIELDS = (
    "id", "robot", "handler", "status", "progress", "message", "attempt", "max_attempts", "started_at", "finished_at",
    "requested_by", "cancel_requested", "priority", "run_at", "runs_on", "out_of_contact_since", "labels",
    "error__type", "error__message",
)  # fmt: skip
ACTIONS = {"cancel": "Cancel", "retry": "Retry"}


@admin.register(Task)
class TaskAdmin(PlacePages, ReadOnlyAdmin):
    """A task changes by its transitions only, so there is no form for its fields."""

    pages = PlacePages.place_pages | {
        "rows": ("rows/", "rows_view"),
        "act": ("act/", "act_view"),
        "state": ("<uuid:id>/state/", "state_view"),
        "log": ("<uuid:id>/log/", "log_view"),
        "cancel": ("<uuid:id>/cancel/", "cancel_view"),
        "retry": ("<uuid:id>/retry/", "retry_view"),
        "end": ("<uuid:id>/end/", "end_view"),
        "free": ("<uuid:id>/free/", "free_view"),
    }

    export_columns = export.TASKS

    # --- The list ----------------------------------------------------------------------------------------------------

    def changelist_view(self, request: HttpRequest, extra_context: Any = None) -> HttpResponse:
        self.check_may_view(request)
        if fixed := with_fixed_times(request, *FINISHED):
            return fixed
        try:
            asked = read(request.GET, "before")
        except InvalidInput as error:
            wrong = [problem.msg for problem in error.problems]
            return self.page(request, "tasks/task/list.html", "Tasks", problems=wrong, **_controls(TaskFilter()))
        shown = {"count": _count(asked.conditions(stored_now())), **_rows(request, asked)}
        return self.page(request, "tasks/task/list.html", "Tasks", **_controls(asked), **shown)

    def rows_view(self, request: HttpRequest) -> HttpResponse:
        self.check_may_view(request)
        try:
            context = _rows(request, read(request.GET, "before"))
        except InvalidInput:
            return HttpResponse(status=204)
        over = "before" in request.GET and all(task.is_finished for task in context["tasks"])
        return self.fragment(request, "tasks/task/rows.html", done=over, **context)

    def exported(self, request: HttpRequest) -> Export:
        conditions = read(request.GET).conditions(stored_now())
        return Export(self.export_columns, export.tasks(conditions), *_number_of(conditions))

    def act_view(self, request: HttpRequest) -> HttpResponse:
        """Show how many tasks an action affects; when that is confirmed, start the bulk run.

        The URL of the confirmation page holds the whole choice, so that the browser can go back to it.
        """
        self.check_may_operate(request)
        said = request.POST if request.method == "POST" else request.GET
        try:
            asked = read(request.GET, "action", "scope", "once")
            conditions = _selected(said, asked)
        except InvalidInput as error:
            return self.to_list(request, str(error))
        action, confirmed = said.get("action", ""), request.POST.get("confirmed") == "yes"
        if request.method == "POST" and not confirmed:
            chosen = {"scope": said.get("scope"), "id": said.getlist("id")[:PAGE_ROWS]}
            choice = asked.query(action=action, once=uuid4(), **chosen)
            return HttpResponseRedirect(f"{request.path}?{choice}")
        back = f"{list_url()}?{asked.query()}"
        count, more = bulk.estimate(conditions, action) if action in ACTIONS and conditions is not None else (0, False)
        if conditions is None or not count:
            messages.warning(request, "No tasks were changed: none of the selected tasks can be cancelled or retried.")
            return HttpResponseRedirect(back)
        if confirmed and not sent_forms.is_first(request):
            messages.warning(
                request,
                "This form was sent before, so nothing else was started. If it began a run, that is your latest.",
            )
            return HttpResponseRedirect(reverse("admin:tasks_bulk_changelist"))
        if confirmed:
            return self._begin(request, action, conditions)
        retried = bulk.retried_before(conditions) if action == "retry" and not more else 0
        fresh = max(0, count - retried)
        context: dict[str, Any] = {
            "action": action,
            "retried": retried,
            "fresh": fresh,
            "more": more,
            "conditions": bulk.filter_in_words(bulk.storable(conditions)),
            "statuses": [one for one in bulk.APPLIES[action] if one in conditions.get("status", tuple(Status))],
            "count": bulk.how_many(fresh or count, more),
            "back": back,
            "scope": said.get("scope"),
            "ids": said.getlist("id"),
            "once": said.get("once") or uuid4(),
        }
        title = f"{ACTIONS[action]} {context['count']}{'' if fresh else ' again'}?"
        return self.page(request, "tasks/task/confirm.html", title, **context)

    def _begin(self, request: HttpRequest, action: str, conditions: dict[str, Any]) -> HttpResponse:
        again = action == "retry" and request.POST.get("again") == "yes"
        reason = request.POST.get("reason", "").strip()[: services.MAX_REASON] if action == "cancel" else ""
        run = bulk.start(action, by=username(request), conditions=conditions, again=again, reason=reason)
        bulk.run(run, services.REQUEST_BUDGET)
        return HttpResponseRedirect(reverse("admin:tasks_bulk_change", args=[run.pk]))

    # --- A task ------------------------------------------------------------------------------------------------------

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        self.check_may_view(request)
        id = uuid_or_none(object_id)
        task = Task.objects.filter(pk=id).first() if id else None
        if task is None:
            return self.to_list(request, f"There is no task {object_id[:50]}. Finished tasks are deleted after a time.")
        context = {"lines": _latest_lines(task.pk), "audit": audit.of("task", task.pk), **_state(task)}
        return self.page(request, "tasks/task/page.html", f"Task {task.handler}", **context)

    def history_view(self, request: HttpRequest, object_id: str, extra_context: Any = None) -> HttpResponse:
        id = uuid_or_none(object_id)
        return HttpResponseRedirect(task_url(id)) if id else self.to_list(request)

    def state_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        self.check_may_view(request)
        task = Task.objects.filter(pk=id).first()
        if task is None:
            return HttpResponse(status=404)
        done = task.is_finished and not task.lane
        return self.fragment(request, "tasks/task/state.html", done=done, **_state(task))

    def log_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        self.check_may_view(request)
        over = (
            not Task.objects.unfinished().filter(pk=id).exists()
        )  # asked before the log is read: no line is added after the end
        return self.fragment(request, "tasks/task/log.html", done=over, lines=_latest_lines(id))

    def cancel_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        def cancel(task: Task) -> Task:
            after = services.cancel(task, by=username(request))
            if after.status == Status.REVOKED:
                messages.success(request, "The task is cancelled.")
            return after  # a running one shows that it is being stopped, for as long as it is

        return self._operate(request, id, cancel)

    def retry_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        def retry(task: Task) -> Task:
            if len(_repetitions(task)) > _number(request.POST.get("repetitions", "")):
                messages.warning(
                    request, "Somebody else has retried this task meanwhile. To run it once more, press Retry again."
                )
                return task
            new = services.retry(task, by=username(request), now=request.GET.get("when") == "now")
            messages.success(request, f"Retried: this is the new task, which repeats {task.pk}.")
            return new

        return self._operate(request, id, retry)

    def end_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        def end(task: Task) -> Task:
            status = robots_lost.end_silent(task, by=username(request))
            again = "The attempt is over, and the task is tried again."
            messages.success(request, again if status == Status.RETRY else "The task has failed.")
            return task

        return self._operate(request, id, end)

    def free_view(self, request: HttpRequest, id: UUID) -> HttpResponse:
        def free(task: Task) -> Task:
            robots_lost.free_lane(task, by=username(request))
            messages.success(request, f"Lane {task.lane} is free.")
            return task

        return self._operate(request, id, free)

    def _operate(self, request: HttpRequest, id: UUID, operate: Any) -> HttpResponse:
        """Apply `operate` to the task and redirect to the task that it returns."""
        self.check_may_operate(request)
        if request.method != "POST":
            return HttpResponseNotAllowed(["POST"])
        try:
            return HttpResponseRedirect(task_url(operate(services.get(id)).pk))
        except UnknownTask:
            return self.to_list(request, f"There is no task {id}.")
        except UnknownRobot:
            messages.error(request, "The task's robot no longer exists.")
        except FmvError as error:
            messages.error(request, str(error))
        return HttpResponseRedirect(task_url(id))


# --- The content of the pages ----------------------------------------------------------------------------------------


def task_url(id: UUID) -> str:
    return reverse("admin:tasks_task_change", args=[id])


def list_url() -> str:
    return reverse("admin:tasks_task_changelist")


def matching(asked: TaskFilter, before: UUID | None = None) -> TaskQuerySet:
    """Return the tasks that match, newest first; with `before` only those older than that task."""
    found = Task.objects.matching(**asked.conditions(stored_now())).newest_first()
    return found.filter(id__lt=before) if before else found


def _controls(asked: TaskFilter) -> dict[str, Any]:
    """Return the content of the list's filter form."""
    handlers = [handler.name for handler in registry.all_handlers()]
    chips = {"statuses": _status_choices(asked), "presets": _presets(asked)}
    finished = [(name, title, asked.times.get(name)) for name, title in FINISHED.items()]
    return {"filter": asked, "ages": AGES, "handlers": handlers, "finished": finished, **chips}


def _rows(request: HttpRequest, asked: TaskFilter) -> dict[str, Any]:
    """Return one page of the list. An invalid cursor is ignored: the page begins with the newest task."""
    before = uuid_or_none(request.GET.get("before", ""))
    tasks = slim(matching(asked, before)[: PAGE_ROWS + 1], ROW_FIELDS)
    shown = tasks[:PAGE_ROWS]
    return {
        "tasks": shown,
        "reasons": waiting_reason.of_tasks(shown),
        "filtered": bool(asked),
        "query": asked.query(before=before),
        "filter_query": asked.query(),
        "paged": before is not None,
        "older": asked.query(before=shown[-1].pk) if len(tasks) > PAGE_ROWS else "",
    }


def _count(conditions: dict[str, Any]) -> str:
    """Return the number of tasks in words."""
    return bulk.how_many(*_number_of(conditions))


def _number_of(conditions: dict[str, Any]) -> tuple[int, bool]:
    """Return MongoDB's estimate of all tasks, or those that match, counted up to a limit; and whether they are more."""
    if not conditions:
        return int(collection(Task).estimated_document_count()), False
    return bulk.estimate(conditions)


def _status_choices(asked: TaskFilter) -> list[tuple[str, bool, str]]:
    """Return each status, whether it is selected, and the query string that toggles it."""
    show = asked.show if asked.show == "stuck" else ""  # the other presets set the status themselves
    choices = []
    for status in Status.values:
        chosen = status in asked.status
        wanted = [other for other in Status.values if (other in asked.status) != (other == status)]
        choices.append((status, chosen, asked.query(status=wanted, show=show)))
    return choices


def _presets(asked: TaskFilter) -> list[tuple[str, str, bool, str]]:
    """Return each preset's title and explanation, whether it is selected, and the query string that toggles it."""
    return [
        (title, says, word == asked.show, asked.query(show="" if word == asked.show else word, status=[]))
        for word, (title, says) in PRESETS.items()
    ]


def _selected(said: QueryDict, asked: TaskFilter) -> dict[str, Any] | None:
    """Return the conditions of an action's tasks: the selected ones or all that match; None if none are selected."""
    if said.get("scope") == "all":
        return asked.conditions(stored_now())
    ids = [id for text in said.getlist("id")[:PAGE_ROWS] if (id := uuid_or_none(text))]
    return {"ids": ids} if ids else None


def _state(task: Task) -> dict[str, Any]:
    """Return the part of a task's page that changes until it is finished."""
    steps = [
        {**line, "after": line["at"] - before["at"] if before else None}
        for before, line in zip([None, *task.history], task.history, strict=False)
    ]
    waiting, until = waiting_reason.of_task(task), robots_lost.waits_until(task)
    state = {"task": task, "waiting": waiting, "waits_until": until, "steps": steps}
    return state | {"repetitions": _repetitions(task)} | ({"due_at": due_at(task)} if task.is_finished else {})


def _repetitions(task: Task) -> list[Task]:
    """Return the tasks that repeat this one, latest first."""
    again = (
        Task.objects.filter(retry_of=task.pk).newest_first()[:MAX_REPETITIONS]
        if task.is_finished
        else Task.objects.none()
    )
    return slim(again, ("id", "status", "requested_by"))


def _number(text: str) -> int:
    return (
        int(text) if text.isascii() and text.isdigit() else MAX_REPETITIONS
    )  # a request without the number retries in any case


def _latest_lines(id: UUID) -> list[LogLine]:
    """Return the latest lines of the task's log, oldest first."""
    return list(LogLine.objects.filter(task=id).order_by("-id")[:MAX_LOG_LINES])[::-1]
