"""The id that ties a request, the task it started and all their log lines together."""

import logging
import re
from contextvars import ContextVar

from uuid_utils.compat import uuid7

SANE = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")

current: ContextVar[str] = ContextVar("request_id", default="-")


def from_client(value: str | None) -> str:
    """Return the client's own id if it is 1-128 harmless characters, else a new one."""
    return value if value and SANE.fullmatch(value) else str(uuid7())


class LogFilter(logging.Filter):
    """Sets `request_id` on every log record that has none from `extra`; "-" outside a request or task."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = getattr(record, "request_id", None) or current.get()
        return True
