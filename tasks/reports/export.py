"""The rows and columns in which tasks, robots and bulk runs are exported: pages and commands write them to files."""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from fmv.export import Column, attribute, item
from fmv.mongodb.uuid7 import time_of
from robots.models import RobotQuerySet
from tasks.models import Task
from tasks.reports.robot_status import RobotStatus, robot_statuses

ROBOTS_READ = 200  # whose status one round of queries reads
OBJECTS = 500  # rows that are converted at a time

# --- Tasks -----------------------------------------------------------------------------------------------------------

TASK_FIELDS = (
    "id", "robot", "handler", "status", "runs_on", "priority", "labels", "progress", "message", "attempt",
    "max_attempts", "run_at", "expires_at", "started_at", "finished_at", "requested_by", "request_id", "retry_of",
    "cancel_requested", "worker", "error__type", "error__message",
)  # fmt: skip


def _seconds(task: Mapping[str, Any]) -> float | None:
    started, ended = task["started_at"], task["finished_at"]
    return (ended - started).total_seconds() if started and ended else None


def _created(task: Mapping[str, Any]) -> dt.datetime:
    return time_of(task["id"])


TASKS = (
    item("id", "the task's id"),
    item("robot", "the robot for which it runs"),
    item("handler", "what it runs"),
    item("status", "SCHEDULED, QUEUED, STARTED, RETRY, SUCCESS, FAILURE or REVOKED"),
    item("runs_on", "worker, or robot"),
    item("priority", "the greater goes first"),
    item("labels", "its labels; in CSV with ; between them"),
    item("progress", "percent, as its handler reports it"),
    item("message", "the last message of its handler"),
    item("attempt", "the number of the last attempt"),
    item("max_attempts", "the attempts that it may have"),
    Column("created_at", "when it was submitted", _created),
    item("run_at", "when it, or its next attempt, is due or was queued"),
    item("expires_at", "the time by which it must have started"),
    item("started_at", "when its last attempt began"),
    item("finished_at", "when it ended"),
    Column("seconds", "the duration of its last attempt, if it ended", _seconds),
    item("requested_by", "who submitted it"),
    item("request_id", "the id of the request that submitted it"),
    item("retry_of", "the id of the task that it repeats"),
    item("cancel_requested", "true: a user has asked for its cancel"),
    item("worker", "the process of its last attempt"),
    item("error_type", "the kind of the last error", "error__type"),
    item("error_message", "the last error", "error__message"),
)


def tasks(conditions: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the tasks that match, as `Task.objects.matching` takes the conditions, by one cursor.

    The newest come first; with a condition on their end those that ended last, because an index has that order.
    """
    found = Task.objects.matching(**conditions)
    by_end = any(name.startswith("finished_") for name in conditions)
    found = found.order_by("-finished_at") if by_end else found.newest_first()
    rows: Iterator[dict[str, Any]] = found.values(*TASK_FIELDS).iterator(OBJECTS)
    return rows


# --- Robots ----------------------------------------------------------------------------------------------------------


def _ended(which: str) -> Any:
    def at(status: RobotStatus) -> dt.datetime | None:
        ending = getattr(status.outcomes, which)
        return ending.at if ending else None

    return at


ROBOTS = (
    attribute("name", "the robot's name", "robot.name"),
    attribute("state", "out (of service), busy or idle"),
    attribute("in_service", "false: it starts no task", "robot.enabled"),
    attribute("failing", "true: its last task that succeeded or failed has failed"),
    Column("online", "whether its agent is there; empty: it has none", lambda status: _condition(status, "online")),
    Column("battery", "its charge in percent, as last reported", lambda status: _condition(status, "charge")),
    Column("running", "the tasks that it runs now", lambda status: len(status.running)),
    attribute("queued", "the tasks in its queue; 100 means 100 or more"),
    Column("last_success_at", "when a task of it last succeeded", _ended("success")),
    Column("last_failure_at", "when a task of it last failed", _ended("failure")),
    attribute("location", "where it is", "robot.location"),
    attribute("labels", "its labels; in CSV with ; between them", "robot.labels"),
    attribute("lanes", "the tasks that it runs at the same time", "robot.lanes"),
    attribute("description", "what it is", "robot.description"),
    attribute("created_at", "when it was registered", "robot.created_at"),
    attribute("updated_at", "when its entry last changed", "robot.updated_at"),
)


def _condition(status: RobotStatus, name: str) -> Any:
    return getattr(status.condition, name) if status.condition else None


def robots(found: RobotQuerySet) -> Iterator[RobotStatus]:
    """Yield the status of these robots by name, which some queries read for each ROBOTS_READ robots."""
    rows: Iterable[Any] = found.order_by("name").iterator(ROBOTS_READ)
    each = iter(rows)
    while some := list(islice(each, ROBOTS_READ)):
        yield from robot_statuses(some)


# --- Bulk runs -------------------------------------------------------------------------------------------------------

BULK_FIELDS = ("id", "action", "conditions", "options", "status", "done", "skipped", "by", "request_id", "finished_at")
BULKS = (
    attribute("id", "the id of the run"),
    attribute("action", "cancel, retry, move or run"),
    attribute("conditions", "the filter of its tasks, as JSON"),
    attribute("options", "its options, as JSON"),
    attribute("status", "RUNNING, DONE or STOPPED"),
    attribute("done", "the tasks on which it was done"),
    attribute("skipped", "the tasks on which it could not be done"),
    attribute("by", "who started it"),
    attribute("started_at", "when it began"),
    attribute("finished_at", "when it ended"),
    attribute("request_id", "the id of the request that started it"),
)
