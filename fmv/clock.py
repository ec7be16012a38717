"""The clock for intervals."""

import datetime as dt
import time

#: it also counts the time that the machine sleeps; macOS's monotonic clock does so
CLOCK: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def uptime() -> float:
    """Return the seconds since some moment in the past, by a clock that nobody sets."""
    return time.clock_gettime(CLOCK)


def uptime_as_date() -> dt.datetime:
    """Return `uptime` as a date, for Celery's schedules."""
    return dt.datetime.fromtimestamp(uptime(), dt.UTC)
