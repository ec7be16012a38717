"""What FMV's pages show in one way everywhere: moments, durations, statuses, JSON."""

import datetime as dt
import json
from typing import Any

from django import template
from django.contrib.admin.utils import quote
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from fmv.admin_base import badge
from tasks.models import Task

register = template.Library()

MOST_JSON = 100_000  # characters of a JSON value that a page shows
NONE = "\N{EN DASH}"
UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


@register.filter
def moment(value: dt.datetime | None) -> str:
    """Show a moment in UTC, to the second; the milliseconds are in its title. A dash for none."""
    if value is None:
        return NONE
    utc = value.astimezone(dt.UTC)
    text = f"{utc:%Y-%m-%d %H:%M:%S}"
    exact = f"{text}.{utc.microsecond // 1000:03} UTC"
    return format_html('<time datetime="{}" title="{}">{}</time>', utc.isoformat(timespec="milliseconds"), exact, text)


@register.filter
def ago(value: dt.datetime | None) -> str:
    """Show about how long ago a moment was, or in how long it will be; its title tells the moment."""
    if value is None:
        return NONE
    seconds = (timezone.now() - value).total_seconds()
    size, unit = next(((size, unit) for size, unit in UNITS if abs(seconds) >= size), (1, "s"))
    text = f"{seconds // size:.0f} {unit} ago" if seconds >= 0 else f"in {-seconds // size:.0f} {unit}"
    utc = value.astimezone(dt.UTC)
    exact = f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    return format_html('<time datetime="{}" title="{}">{}</time>', utc.isoformat(), exact, text)


@register.filter
def lasting(value: dt.timedelta | float | None) -> str:
    """Show seconds, or a span of time, as "0.3 s", "12 s", "3 min 20 s", "5 h 2 min", "3 d 4 h"."""
    if value is None:
        return NONE
    seconds = value.total_seconds() if isinstance(value, dt.timedelta) else float(value)
    seconds = max(0.0, seconds)
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 and seconds != int(seconds) else f"{seconds:.0f} s"
    whole, smaller = round(seconds), {"d": (3600, "h"), "h": (60, "min"), "min": (1, "s")}
    size, unit = next((size, unit) for size, unit in UNITS if whole >= size)
    step, name = smaller[unit]
    rest = whole % size // step
    return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")


@register.filter
def counted(value: float, cap: float = float("inf")) -> str:
    """Show a whole number as people read it: "1,234"; "100,000+" where nobody counted further."""
    return f"{int(min(value, cap)):,}{'+' if value >= cap else ''}"


@register.filter
def pretty(value: Any) -> str:
    """Show a JSON value over several lines, the beginning of one that is very long."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return text if len(text) <= MOST_JSON else f"{text[:MOST_JSON]}\n… cut here; the API has all of it"


@register.filter
def weight(value: Any) -> str:
    """Show how long a value is as JSON: "312 bytes", "1.4 KiB"."""
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "replace"))
    return f"{size} bytes" if size < 1024 else f"{size / 1024:.1f} KiB"


@register.filter
def status(value: str) -> str:
    """Show a task's status, or a bulk run's, as a badge."""
    return badge(value, f"status-{value}")


@register.filter
def robot_url(name: str, page: str = "change") -> str:
    """Return the address of one of a robot's pages."""
    return reverse(f"admin:robots_robot_{page}", args=[quote(name)])


@register.filter
def short(value: object) -> str:
    """Show the end of an id, in which neighbours differ most."""
    return f"…{str(value)[-8:]}"


@register.filter
def duration(task: Task) -> dt.timedelta | None:
    """Return how long a task's last attempt took, or has taken until now; None when it never started."""
    if task.started_at is None:
        return None
    if task.status == "STARTED":
        return timezone.now() - task.started_at
    return task.finished_at - task.started_at if task.finished_at else None


@register.filter
def in_bar(task: Task) -> bool:
    """Whether the task's progress says something: it has begun, and is not over."""
    return task.progress is not None and not task.is_finished
