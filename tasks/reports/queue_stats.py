"""The state of the queue and the robots now. Unfinished tasks are counted by index, up to a limit."""

import datetime as dt
import uuid
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from fmv.mongodb.counting import collection
from fmv.mongodb.documents import Document
from fmv.mongodb.server import recent_now
from fmv.mongodb.updates import aggregate
from fmv.mongodb.uuid7 import time_of
from robots import connections
from robots.models import Robot
from tasks.models import FINISHED, UNFINISHED, Status, Task
from tasks.models.querysets import TaskQuerySet
from tasks.models.status import EPOCH
from tasks.models.task import NEXT_FIRST
from tasks.reports.tallies import HOUR, MAX_RECENT, FinishedTotals, finished_between, latest_tally, totals_of

MAX_COUNTED = 100_000  # unfinished tasks of one status
FIRST_BATCH = 100  # queued tasks that are read first, in search of a robot in service; each further batch is larger
MAX_BATCH = 10_000
MAX_IN_QUEUES = 50_000  # queued tasks of several robots that are read together; beyond it each queue is read alone


def unfinished(statuses: Iterable[Status] = UNFINISHED) -> Counter[tuple[str, str]]:
    """Return the number of tasks of these statuses by status and handler, at most MAX_COUNTED of each status.

    One command, and one more for each status if there are that many in all. The index `task_by_status` holds both, so
    no task is read.
    """
    wanted = [status.value for status in statuses]
    counts = _counted({"$in": wanted})
    if counts.total() < MAX_COUNTED or len(wanted) == 1:
        return counts
    return sum((_counted(status) for status in wanted), Counter[tuple[str, str]]())


def _counted(status: Any) -> Counter[tuple[str, str]]:
    """Return the number of tasks whose status is this, or matches this, by status and handler; at most MAX_COUNTED."""
    pipeline = [
        {"$match": {"status": status}},
        {"$limit": MAX_COUNTED},
        {"$group": {"_id": {"status": "$status", "handler": "$handler"}, "count": {"$sum": 1}}},
    ]
    rows = collection(Task).aggregate(pipeline)
    return Counter({(row["_id"]["status"], row["_id"]["handler"]): row["count"] for row in rows})


def by_queue(robots: Collection[str], limit: int, **values: Document) -> list[Document]:
    """Return a document for each of these robots that has queued tasks: {"_id": robot, "count": number, …}.

    `values`: what else a `$group` stage makes of the tasks, in the order in which the robot takes them. Of each robot
    at least the first `limit` tasks are read. One command, which walks the index `task_next` from the first robot to
    the last, because the embedded server would compare each task with each name; and a second one, for the first tasks
    of each robot, if MAX_IN_QUEUES are queued between them.
    """
    names = sorted(robots)
    if not names:
        return []
    alone = len(names) == 1
    queued, most = {"status": Status.QUEUED.value}, limit if alone else MAX_IN_QUEUES
    # The embedded server leaves out what begins with a last key that is included, so a later name is the end.
    within: Any = names[0] if alone else {"$gte": names[0], "$lt": names[-1] + "!"}
    group: Document = {"$group": {"_id": "$robot", "count": {"$sum": 1}} | values}
    ordered: Document = {"$sort": {"robot": 1} | NEXT_FIRST}
    found = aggregate(Task, [{"$match": queued | {"robot": within}}, ordered, {"$limit": most}, group])
    if not alone and sum(row["count"] for row in found) >= most:
        first: list[Document] = [{"$match": queued}, {"$sort": NEXT_FIRST}, {"$limit": limit}, group]
        joined = {"from": Task._meta.db_table, "localField": "_id", "foreignField": "robot", "as": "found"}
        each: list[Document] = [{"$match": {"_id": {"$in": names}}}, {"$project": {"_id": 1}}]
        found = [
            row
            for robot in aggregate(Robot, [*each, {"$lookup": joined | {"pipeline": first}}])
            for row in robot["found"]
        ]
    asked = {*names}
    return [row for row in found if row["_id"] in asked]


@dataclass(frozen=True)
class QueuedTask:
    """A queued task, and when it was queued."""

    since: dt.datetime
    id: uuid.UUID
    robot: str
    handler: str


def queue_age() -> float:
    """Return the seconds that the task queued longest for a robot in service has waited; 0 without one."""
    oldest = longest_waiting()
    return max(0.0, (recent_now() - oldest.since).total_seconds()) if oldest else 0.0


def longest_waiting() -> QueuedTask | None:
    """Return the task queued longest for a robot in service."""
    firsts = [first for queue in Task.objects.longest_queued() if (first := _first_in_service(queue))]
    return min(firsts, key=lambda first: first.since, default=None)


def _first_in_service(queue: TaskQuerySet) -> QueuedTask | None:
    """Return the first task in the queue for a robot that starts tasks."""
    out: set[str] = set()
    batch = FIRST_BATCH
    while rows := list(queue.exclude(robot__in=out).values_list("robot", "id", "run_at", "handler")[:batch]):
        names = {robot for robot, *_ in rows}
        serving = set(Robot.objects.starting().filter(pk__in=names).values_list("pk", flat=True))
        for robot, id, run_at, handler in rows:
            if robot in serving:
                return QueuedTask(run_at or time_of(id), id, robot, handler)
        out |= names
        batch = min(10 * batch, MAX_BATCH)
    return None


def robots() -> dict[str, int]:
    """Return the numbers of robots in service, out of service, busy, which means running a task, and of each kind of
    connections.KINDS.
    """
    service = {"in_service": _count(enabled=True), "out_of_service": _count(enabled=False)}
    return service | {"busy": len(busy_robots())} | connections.counts()


def robots_by_state() -> dict[str, int]:
    """Return the numbers of robots that are busy, idle in service, and out of service; the last may still be busy."""
    busy = busy_robots()
    idle = _count(enabled=True) - (_count(enabled=True, _id={"$in": [*busy]}) if busy else 0)
    return {"busy": len(busy), "idle": max(0, idle), "out": _count(enabled=False)}


def _count(**conditions: Any) -> int:
    """Count robots by index: the ORM's count() would read them."""
    return int(collection(Robot).count_documents(conditions))


def busy_robots() -> set[str]:
    """Return the names of the robots that run a task; there are at most as many as worker processes."""
    return set(Task.objects.started().order_by().values_list("robot", flat=True))


# --- Overview --------------------------------------------------------------------------------------------------------


def overview() -> dict[str, Any]:
    """Return the response of `GET /stats`.

    Of the tasks that are not rolled up yet, at most MAX_RECENT of the last hour and of earlier are counted; `behind`
    is then the time in seconds since the last rollup.
    """
    since = recent_now().replace(second=0, microsecond=0) - HOUR
    latest = latest_tally()
    until = latest.until if latest else EPOCH
    recent = finished_between(max(since, until), at_most=MAX_RECENT)
    older = finished_between(until, since, at_most=MAX_RECENT) if until < since else FinishedTotals()
    totals = totals_of(latest).plus(recent).plus(older)
    last_hour = totals_of(latest).plus(recent).minus(totals_of(latest_tally(since)))
    behind = MAX_RECENT in (recent.total(), older.total())
    queued = unfinished()
    return {
        "tasks": _by_status(totals, queued),
        "handlers": {
            name: _by_status(totals, queued, name)
            for name in sorted({handler for _, handler, _ in totals} | {handler for _, handler in queued})
        },
        "queue_age": queue_age(),
        "last_hour": {status.value: last_hour.count(status) for status in FINISHED},
        "robots": robots(),
        "behind": (recent_now() - (latest.until if latest else since)).total_seconds() if behind else 0.0,
    }


def _by_status(
    finished: FinishedTotals, unfinished: Counter[tuple[str, str]], handler: str | None = None
) -> dict[str, int]:
    counts = {
        status.value: sum(n for (of, name), n in unfinished.items() if of == status and handler in (None, name))
        for status in UNFINISHED
    }
    counts |= {status.value: finished.count(status, handler) for status in FINISHED}
    return {status.value: counts[status.value] for status in Status}
