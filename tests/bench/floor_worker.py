"""Two workers to compare FMV's with: Celery alone, and Celery with the MongoDB commands that a task needs."""

import os
import socket
from collections.abc import Callable
from typing import Any

from celery import Celery
from pymongo.collection import Collection

from tests.bench.floor import database
from tests.support.event_marks import mark

ROBOTS, TASKS = "bench_robots", "bench_tasks"

_amqp = os.environ["FMV_BROKER_URL"].startswith("amqp")
app = Celery("bare", broker=os.environ["FMV_BROKER_URL"], set_as_current=False)
app.conf.update(
    task_default_queue="bare",
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=_amqp,
    broker_transport_options={"confirm_publish": True} if _amqp else {"ack_emulation": False, "priority_steps": [0]},
    worker_hijack_root_logger=False,
)


def tasks() -> Collection[Any]:
    return database()[TASKS]


@app.task(name="bare.noop")
def noop(file: str) -> None:
    mark(file, "start")


NOW = {"$toDate": {"$toLong": "$$NOW"}}
NEXT_CHANGE = {"$max": [NOW, {"$toDate": {"$add": [{"$toLong": "$changed_at"}, {"$toLong": 1}]}}]}
START_ID = "00000000"
PROCESS = f"{socket.gethostname()}/{os.getpid()}-{START_ID}"


def after(moment: Any, milliseconds: Any) -> dict[str, Any]:
    return {"$toDate": {"$add": [{"$toLong": moment}, {"$toLong": milliseconds}]}}


def line(status: str, attempt: Any, note: str) -> dict[str, Any]:
    entry = {"at": NEXT_CHANGE, "status": status, "attempt": attempt, "note": {"$literal": note}}
    return {"status": status, "history": {"$concatArrays": ["$history", [entry]]}, "changed_at": NEXT_CHANGE}


def literals(values: dict[str, Any]) -> dict[str, Any]:
    return {name: {"$literal": value} for name, value in values.items()}


START = line("STARTED", {"$literal": 1}, f"by {PROCESS}") | {"started_at": NOW, "lease_expires_at": after(NOW, 30000)}
FRESH = {"cancel_requested": False, "cancel_requested_at": None, "run_at": None, "progress": None, "message": ""}
FRESH |= {"checkpoint": None}
ENDED = {"lane": None, "lease_expires_at": None, "result": None, "error": None, "progress": 100.0, "message": ""}
ENDED |= {"out_of_contact_since": None}
END = line("SUCCESS", "$attempt", "") | literals(ENDED) | {"finished_at": NOW}


@app.task(name="bare.floor")
def floor(file: str, robot: str) -> None:
    """Find the robot's task, claim it, finish it, look for the next: the least that a task costs."""
    run(robot, floor.request.id, lambda: mark(file, "start"))


def run(robot: str, message: str, work: Callable[[], None]) -> None:
    """Send the commands that FMV sends for a no-op task of a robot with one lane and no other task."""
    if task := next_of(robot):
        found = {"robot": robot, "attempt": task["attempt"]}
        owner = {"lane": f"{robot}/0", "worker": PROCESS, "message_id": message, "attempt": task["attempt"] + 1}
        change(task["_id"], found | {"status": "QUEUED"}, START | literals(owner | FRESH))
        work()
        change(task["_id"], found | {"attempt": task["attempt"] + 1, "status": "STARTED"}, END)
        next_of(robot)


def change(key: str, found: dict[str, Any], stage: dict[str, Any]) -> None:
    condition = {"$and": [{"$eq": [f"${column}", {"$literal": value}]} for column, value in found.items()]}
    changed = {"$cond": [condition, {"$mergeObjects": ["$$ROOT", stage]}, "$$ROOT"]}
    tasks().update_one({"_id": key}, [{"$replaceWith": changed}])


def next_of(robot: str) -> Any:
    joined = {"from": ROBOTS, "localField": "robot", "foreignField": "_id", "as": "robots"}
    queue = {"$match": {"status": "QUEUED", "robot": robot}}
    order = {"$sort": {"priority": -1, "_id": 1}}
    return next(iter(tasks().aggregate([queue, order, {"$limit": 1}, {"$lookup": joined}])), None)
