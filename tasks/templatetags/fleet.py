"""How pages show tasks and robots."""

import datetime as dt
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from django import template
from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils import timezone

from fmv.admin_base import badge
from tasks.models import Task
from tasks.reports.remedies import Remedy

register = template.Library()


@register.filter
def status(value: str) -> str:
    """Show the status of a task or a bulk run as a badge."""
    return badge(value, f"status-{value}")


@register.filter
def robot_url(name: str, page: str = "change") -> str:
    """Return the URL of one of a robot's pages."""
    return reverse(f"admin:robots_robot_{page}", args=[quote(name)])


@register.filter
def timeline_url(name: str) -> str:
    """Return the URL of a robot's timeline."""
    return reverse("admin:robot_timeline", args=[quote(name)])


@register.filter
def map_url(name: str, page: str = "") -> str:
    """Return the URL of one of a map's pages."""
    return f"{reverse(f'admin:map_{page}' if page else 'admin:map')}?{urlencode({'map': name})}"


@register.filter
def short(value: object) -> str:
    """Show the end of an id, which differs most between neighbours."""
    return f"…{str(value)[-8:]}"


@register.filter
def duration(task: Task) -> dt.timedelta | None:
    """Return the duration of a task's last attempt, or of the running one until now; None if it never started."""
    if task.started_at is None:
        return None
    if task.status == "STARTED":
        return timezone.now() - task.started_at
    return task.finished_at - task.started_at if task.finished_at else None


@register.filter
def shows_progress(task: Task) -> bool:
    """Return whether to show the task's progress: it has some and is not finished."""
    return task.progress is not None and not task.is_finished


@register.filter
def of(found: Mapping[Any, Any], key: Any) -> Any:
    """Return what was found about this key; None if nothing was."""
    return found.get(key)


@register.filter
def remedy_url(remedy: Remedy) -> str:
    """Return the URL of the page that a remedy leads to, or to which its button posts."""
    match remedy.do:
        case "put_in_service":
            return robot_url(remedy.robot, "in")
        case "release_queue":
            return robot_url(remedy.robot, "release")
        case "free_lane":
            return reverse("admin:tasks_task_free", args=[remedy.task])
        case "end":
            return reverse("admin:tasks_task_end", args=[remedy.task])
        case "show_task" | "show_failure":
            return reverse("admin:tasks_task_change", args=[remedy.task])
        case "show_robot":
            return robot_url(remedy.robot)
        case "show_queued":
            query = urlencode({"status": "QUEUED", "handler": remedy.handler})
            return f"{reverse('admin:tasks_task_changelist')}?{query}"
    return f"{reverse('admin:index')}#workers-title"
