"""How pages show times, durations, numbers and JSON."""

import datetime as dt
import json
import re
from typing import Any

from django import template
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from fmv import local_time

register = template.Library()

MAX_JSON = 100_000  # characters of a JSON value that a page shows at most
NONE = "\N{EN DASH}"
UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))
STORED = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}) UTC")  # a time within a stored text


@register.filter
def timestamp(value: dt.datetime | None) -> str:
    """Show a time in the current zone, to the second, and in its title in UTC, with milliseconds; a dash for None."""
    if value is None:
        return NONE
    utc = value.astimezone(dt.UTC)
    exact = f"{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 1000:03} UTC"
    machine = utc.isoformat(timespec="milliseconds")
    return format_html('<time datetime="{}" title="{}">{}</time>', machine, exact, _local(value))


def _local(value: dt.datetime) -> str:
    local = timezone.localtime(value)
    return f"{local:%Y-%m-%d %H:%M:%S}{local_time.offset_if_twice(local)}"


@register.filter
def with_times(text: object) -> str:
    """Show a text that FMV has stored, and the times within it, which are in UTC, in the current zone."""
    parts = STORED.split(str(text))  # text and times by turns
    return format_html_join("", "{}", ((_within(part) if n % 2 else part,) for n, part in enumerate(parts)))


def _within(text: str) -> str:
    try:
        return timestamp(dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC))
    except ValueError:  # it only looked like one
        return f"{text} UTC"


@register.simple_tag
def zone() -> str:
    """Return the name of the zone in which the page shows times."""
    return local_time.current_name()


@register.filter
def written(value: dt.datetime | None) -> str:
    """Show a time as a field takes it; nothing for None."""
    return local_time.written(value) if value else ""


@register.filter
def ago(value: dt.datetime | None) -> str:
    """Show about how long ago a time was, or how far ahead it is, with the time itself in its title, also in UTC."""
    if value is None:
        return NONE
    seconds = (timezone.now() - value).total_seconds()
    size, unit = next(((size, unit) for size, unit in UNITS if abs(seconds) >= size), (1, "s"))
    text = f"{seconds // size:.0f} {unit} ago" if seconds >= 0 else f"in {-seconds // size:.0f} {unit}"
    utc = value.astimezone(dt.UTC)
    exact = f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    if timezone.localtime(value).utcoffset():
        exact = f"{_local(value)}, {exact}"
    return format_html('<time datetime="{}" title="{}">{}</time>', utc.isoformat(), exact, text)


@register.filter
def lasting(value: dt.timedelta | float | None) -> str:
    """Show a duration (a number is seconds) as "0.3 s", "12 s", "3 min 20 s", "5 h 2 min", "3 d 4 h"."""
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
    """Show a whole number as "1,234", and one that reaches `cap`, where counting stopped, as "100,000+"."""
    return f"{int(min(value, cap)):,}{'+' if value >= cap else ''}"


def many(number: int, noun: str) -> str:
    """Return a number with its noun: "1 task", "1,234 tasks"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


@register.filter
def pretty(value: Any) -> str:
    """Show a JSON value indented, cut after MAX_JSON characters."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_JSON else f"{text[:MAX_JSON]}\n… cut here; the API returns all of it"


@register.filter
def coded(text: object) -> str:
    """Show a text with what stands between backticks as code."""
    parts = re.split("`([^`]+)`", str(text))  # text and code by turns
    return format_html_join(
        "", "{}", ((format_html("<code>{}</code>", p) if n % 2 else p,) for n, p in enumerate(parts))
    )


@register.filter
def paragraphs(text: str) -> str:
    """Show a docstring as paragraphs, without its line breaks."""
    return format_html_join("\n", "<p>{}</p>", ((coded(" ".join(part.split())),) for part in text.split("\n\n")))


@register.filter
def weight(value: Any) -> str:
    """Show the size of a value as JSON: "312 bytes", "1.4 KiB"."""
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str).encode("utf-8", "replace"))
    return f"{size} bytes" if size < 1024 else f"{size / 1024:.1f} KiB"
