"""The floor: a WSGI application that sends the MongoDB commands of FMV's routes with bare PyMongo.

The same gunicorn serves it with the same configuration. It has no framework, no sign-in, no checks and no logs, and
renders JSON with orjson.
"""

import datetime as dt
import os
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any
from urllib.parse import unquote

import kombu
import kombu.pools
import orjson
from pymongo import MongoClient
from uuid_utils.compat import uuid7

TASK = (
    "status", "robot", "handler", "params", "priority", "labels", "progress", "message", "result", "error", "attempt",
    "max_attempts", "timeout", "run_at", "expires_at", "started_at", "finished_at", "worker", "requested_by",
    "retry_of", "cancel_requested", "history",
)  # fmt: skip
ROBOT = (
    "is_great", "location", "description", "enabled", "lanes", "labels", "endpoint", "created_at", "updated_at",
)  # fmt: skip


#: FMV's own options: writes wait for the journal, and a timeout makes two system calls of each read of a socket
OPTIONS = {
    "w": "majority", "journal": True,
    "serverSelectionTimeoutMS": 3000, "connectTimeoutMS": 3000, "socketTimeoutMS": 60000,
}  # fmt: skip


@cache
def database() -> Any:
    """Return the database. Each process has its own client, because the first call comes after the fork."""
    return MongoClient(os.environ["MONGODB_URI"], **OPTIONS).get_default_database()


@cache
def broker() -> kombu.Connection:
    return kombu.Connection(os.environ["FMV_BROKER_URL"], transport_options={"confirm_publish": True})


def publish(robot: str) -> None:
    with kombu.pools.producers[broker()].acquire(block=True) as producer:
        producer.publish([[robot], {}, {}], exchange="work", routing_key="work", priority=4)


def task_of(document: dict[str, Any]) -> dict[str, Any]:
    return {"task_id": document["_id"], **{name: document[name] for name in TASK}}


def robot_of(document: dict[str, Any], tasks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"name": document["_id"], **{name: document[name] for name in ROBOT}, "tasks": list(map(task_of, tasks))}


def list_robots(_: str, __: Any) -> Any:
    found = database().robots_robot.find({}, ["is_great", "location"], sort=[("_id", 1)], limit=1001, batch_size=1001)
    return {
        "robots": [{"name": each["_id"], "is_great": each["is_great"], "location": each["location"]} for each in found]
    }


def find_robot(name: str, _: Any) -> Any:
    robot = database().robots_robot.find_one({"_id": name})
    latest = database().tasks_task.find({"robot": name}, sort=[("_id", -1)], limit=50, batch_size=50)
    tasks = list(latest)
    database().robots_robotstate.find_one({"_id": name})
    return robot_of(robot, tasks)


def create_robot(_: str, body: Any) -> Any:
    now = dt.datetime.now(dt.UTC)
    fields = {"is_great": False, "enabled": True, "lanes": 1, "labels": [], "endpoint": None, "revision": 1}
    rest = {name: body[name] for name in ("location", "description")}
    robot = {"_id": body["name"]} | rest | fields | {"created_at": now, "updated_at": now}
    database().robots_robot.insert_one(robot)
    about = {
        "by": "anonymous",
        "action": "robot.create",
        "kind": "robot",
        "key": robot["_id"],
        "text": "",
        "request_id": "",
    }
    database().fmv_auditentry.insert_one({"_id": uuid7().hex} | about)
    return robot_of(robot, ())


def queued(robot: str, handler: str) -> dict[str, Any]:
    """Return the document of a new task as FMV stores it."""
    now = dt.datetime.now(dt.UTC)
    nothing = (
        "progress", "result", "error", "run_at", "expires_at", "started_at", "finished_at", "retry_of", "lane",
        "lease_expires_at", "claim_id", "checkpoint", "cancel_requested_at", "out_of_contact_since", "reported",
    )  # fmt: skip
    return dict.fromkeys(nothing) | {
        "_id": uuid7().hex, "robot": robot, "handler": handler, "params": {}, "status": "QUEUED", "priority": 4,
        "labels": [], "message": "", "attempt": 0, "uncounted": 0, "max_attempts": 3, "timeout": 9.0, "worker": "",
        "message_id": "", "requested_by": "anonymous", "request_id": "-", "cancel_requested": False,
        "runs_on": "worker", "session": "",
        "history": [{"at": now, "status": "QUEUED", "attempt": 0, "note": "by anonymous"}],
        "stored_at": now, "changed_at": now,
    }  # fmt: skip


def run(name: str, body: Any) -> Any:
    robot = database().robots_robot.find_one({"_id": name})
    task = queued(robot["_id"], body["handler"])
    database().tasks_task.insert_one(task)
    publish(name)
    return task_of(task)


def find_task(id: str, _: Any) -> Any:
    return task_of(database().tasks_task.find_one({"_id": id.replace("-", "")}))


def list_tasks(_: str, __: Any) -> Any:
    found = list(database().tasks_task.find({}, sort=[("_id", -1)], limit=101, batch_size=101))
    return {"tasks": list(map(task_of, found[:100])), "next": found[-1]["_id"]}


ROUTES: dict[tuple[str, str, str], Callable[[str, Any], Any]] = {
    ("GET", "robot", ""): list_robots,
    ("GET", "robot", "name"): find_robot,
    ("POST", "robot", ""): create_robot,
    ("POST", "robot", "name/run"): run,
    ("GET", "task", "name"): find_task,
    ("GET", "task", ""): list_tasks,
    ("GET", "health", ""): lambda _, __: {"health": "OK"},
}


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    _, _, _, kind, *rest = environ["PATH_INFO"].encode("latin-1").decode().rstrip("/").split("/")
    form = "/".join(["name", *rest[1:]]) if rest else ""
    length = int(environ.get("CONTENT_LENGTH") or 0)
    body = orjson.loads(environ["wsgi.input"].read(length)) if length else None
    answer = orjson.dumps(ROUTES[environ["REQUEST_METHOD"], kind, form](unquote(rest[0]) if rest else "", body))
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]
