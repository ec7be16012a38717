"""What FMV's tasks are measured against: Celery alone, and Celery with the MongoDB commands that a task needs."""

import os
from functools import cache
from typing import Any

from celery import Celery
from pymongo import DESCENDING, MongoClient
from pymongo.collection import Collection

from tests.marks import mark

app = Celery("bare", broker=os.environ["FMV_BROKER_URL"], set_as_current=False)
app.conf.update(
    task_default_queue="bare",
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_transport_options={"confirm_publish": True},
    worker_hijack_root_logger=False,
)


@cache
def _database() -> Any:
    return MongoClient(os.environ["MONGODB_URI"]).get_default_database()


def collection() -> Collection[Any]:
    return _database()["bench_floor"]


@app.task(name="bare.noop")
def noop(file: str) -> None:
    mark(file, "start")


@app.task(name="bare.floor")
def floor(file: str, robot: str) -> None:
    """What a task costs at the least: find the robot, claim, finish, ask for the next."""
    tasks = collection()
    _database()["bench_robots"].find_one({"_id": robot})
    task = tasks.find_one_and_update(
        {"status": "QUEUED", "robot": robot},
        {"$set": {"status": "STARTED", "lane": f"{robot}/0"}},
        sort=[("priority", DESCENDING), ("_id", 1)],
    )
    mark(file, "start")
    tasks.update_one({"_id": task["_id"], "status": "STARTED"}, {"$set": {"status": "SUCCESS", "lane": None}})
    tasks.find_one({"status": "QUEUED", "robot": robot}, {"_id": 1})
