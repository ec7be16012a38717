"""How every process logs: readable text in development, a JSON object a line in production.

A line describes an event in a short sentence, with the details in `extra={…}`. Request bodies, query strings, headers
and tokens are never logged.
"""

import contextlib
import datetime as dt
import json
import logging
import os
import sys
import traceback
from typing import Any

from pythonjsonlogger.core import RESERVED_ATTRS, LogData
from pythonjsonlogger.orjson import OrjsonFormatter

from fmv.environment import Environment
from fmv.escaping import visible, visible_lines

#: what Django and Celery attach to records for their own handlers: whole requests, the arguments of messages
FOREIGN = ("request", "server_time", "data")
STDERR = 2  # the file descriptor


class JSONFormatter(OrjsonFormatter):
    """`{"time", "level", "logger", "message", "request_id", …}`: the time in RFC 3339, UTC, to the millisecond."""

    def __init__(self) -> None:
        super().__init__(["message", "request_id"], reserved_attrs=[*RESERVED_ATTRS, *FOREIGN])

    def add_fields(self, log_data: LogData, record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        time = dt.datetime.fromtimestamp(record.created, dt.UTC)
        log_data["time"] = time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        log_data["level"] = record.levelname
        log_data["logger"] = record.name
        super().add_fields(log_data, record, message_dict)

    def jsonify_log_record(self, log_data: LogData) -> str:
        try:
            return visible(super().jsonify_log_record(log_data))
        except TypeError:  # a lone surrogate or a number beyond 64 bits must not lose the line
            return json.dumps(log_data, default=str)


class TextFormatter(logging.Formatter):
    """A line for people; hidden characters, which may come from anywhere, are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(super().format(record))


class Console(logging.Handler):
    """Writes to standard error. A line that cannot be written is dropped; it never fails what it is about.

    There is no buffer, in which such a line would stay: Celery flushes sys.stderr before each fork, and would fail.
    """

    def __init__(self) -> None:
        super().__init__()
        self._exists = sys.stderr is not None  # if not, the descriptor may be that of any file

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
        except Exception:
            text = f"The log line of {record.pathname}:{record.lineno} cannot be shown.\n{traceback.format_exc()}"
        line = f"{text}\n".encode(errors="backslashreplace")
        with contextlib.suppress(OSError):
            while self._exists and line:
                line = line[os.write(STDERR, line) :]


TEXT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s] %(message)s"


def logging_config(environment: Environment) -> dict[str, Any]:
    """Return what `logging.config.dictConfig` takes: all loggers write to standard error, in one format."""
    format = environment.log_format or ("text" if environment.debug else "json")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"request_id": {"()": "fmv.http.request_id.LogFilter"}},
        "formatters": {
            "text": {"()": "fmv.monitoring.logs.TextFormatter", "fmt": TEXT},
            "json": {"()": "fmv.monitoring.logs.JSONFormatter"},
        },
        "handlers": {
            "console": {"class": "fmv.monitoring.logs.Console", "formatter": format, "filters": ["request_id"]}
        },
        "root": {"handlers": ["console"], "level": environment.log_level},
        "loggers": {
            "django": {"handlers": [], "level": "INFO", "propagate": True},
            "django.server": {"handlers": [], "propagate": True},
            "django.request": {"level": "ERROR"},  # client errors are in the access line
            "pymongo": {"level": "WARNING"},
            # A line for each message only repeats the task's own lines.
            "celery.beat": {"level": "WARNING"},
            "celery.worker.strategy": {"level": "WARNING"},
            "celery.app.trace": {"level": "WARNING"},
        },
    }
