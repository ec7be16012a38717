"""What FMV's tasks are measured against: Celery alone, and Celery with the MongoDB commands that a task needs."""

import os
from typing import Any

from celery import Celery
from pymongo import DESCENDING
from pymongo.collection import Collection

from tests.bench.floor import database
from tests.marks import mark

ROBOTS, TASKS = "bench_robots", "bench_tasks"

_amqp = os.environ["FMV_BROKER_URL"].startswith("amqp")
app = Celery("bare", broker=os.environ["FMV_BROKER_URL"], set_as_current=False)
app.conf.update(
    task_default_queue="bare",
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_enable_remote_control=_amqp,
    broker_transport_options={"confirm_publish": True} if _amqp else {"polling_interval": 0.1},
    worker_hijack_root_logger=False,
)


def tasks() -> Collection[Any]:
    return database()[TASKS]


@app.task(name="bare.noop")
def noop(file: str) -> None:
    mark(file, "start")


@app.task(name="bare.floor")
def floor(file: str, robot: str) -> None:
    """What a task costs at the least: find the robot, claim, finish, ask for the next."""
    database()[ROBOTS].find_one({"_id": robot})
    task = tasks().find_one_and_update(
        {"status": "QUEUED", "robot": robot},
        {"$set": {"status": "STARTED", "lane": f"{robot}/0"}},
        sort=[("priority", DESCENDING), ("_id", 1)],
    )
    mark(file, "start")
    if task:
        done = {"$set": {"status": "SUCCESS", "lane": None}}
        tasks().update_one({"_id": task["_id"], "status": "STARTED"}, done)
        tasks().find_one({"status": "QUEUED", "robot": robot}, {"_id": 1})
