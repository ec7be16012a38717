"""A stand-in of FMV's first backend: a FastAPI application and its Celery worker, in one module.

It is written from a description, without the original's code: settings are read from the environment and a MongoDB
client is opened for each request, tasks are an array in their robot's document, the Celery task updates that array when
it starts and when it ends. Kept are the v1 routes that the bench calls, and the work behind them.

Left out are sign-in, sessions, CORS and the random size of `primes`, which the bench gives in FIRST_COUNT. Where the
description is silent this is the faster way: a worker process has one MongoDB client, Celery keeps no results, a run
does not read its robot's tasks, and `primes` does no more than it must.
"""

import os
from collections.abc import AsyncIterator
from functools import cache
from typing import Annotated, Any
from uuid import uuid4

from celery import Celery
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel
from pydantic_settings import BaseSettings
from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.collection import AsyncCollection

from tests.support.event_marks import mark


class Settings(BaseSettings):
    first_mongodb_uri: str
    first_broker_url: str
    first_count: int = 3_000_000


async def robots() -> AsyncIterator[AsyncCollection]:
    async with AsyncMongoClient(Settings().first_mongodb_uri) as client:
        yield client.get_default_database().robots


Robots = Annotated[AsyncCollection, Depends(robots)]


class RobotTask(BaseModel):
    task_id: str
    status: str


class Robot(BaseModel):
    name: str
    is_great: bool = False
    location: str


class RobotProfile(Robot):
    description: str
    tasks: list[RobotTask] | None = []


class RobotList(BaseModel):
    robots: list[Robot]


app = FastAPI()


@app.get("/api/v1/health")
async def health() -> dict[str, str]:
    return {"health": "OK"}


@app.get("/api/v1/robot/")
async def list_robots(robots: Robots) -> RobotList:
    return RobotList(robots=await robots.find().sort("name").to_list(1000))


@app.post("/api/v1/robot/", status_code=201)
async def create_robot(robot: RobotProfile, robots: Robots) -> RobotProfile:
    if robot.is_great and robot.name != "Bender":
        raise HTTPException(400, "Not possible")
    await robots.replace_one({"_id": robot.name}, robot.model_dump() | {"tasks": []}, upsert=True)
    return robot


@app.get("/api/v1/robot/{name}")
async def find_robot(name: str, robots: Robots) -> RobotProfile:
    if (robot := await robots.find_one({"_id": name})) is None:
        raise HTTPException(404)
    return RobotProfile(**robot)


@app.post("/api/v1/robot/{name}/run")
async def run_robot(name: str, robots: Robots) -> RobotTask:
    if await robots.find_one({"_id": name}, {"_id": True}) is None:
        raise HTTPException(404)
    task = RobotTask(task_id=str(uuid4()), status="QUEUED")
    await robots.update_one({"_id": name}, {"$push": {"tasks": task.model_dump()}})
    primes.apply_async((name, Settings().first_count), task_id=task.task_id)
    return RobotTask(task_id=task.task_id, status="CREATED")


# --- The worker ------------------------------------------------------------------------------------------------------

worker = Celery("first", broker=os.environ.get("FIRST_BROKER_URL"), set_as_current=False)
worker.conf.update(task_default_queue="first", task_ignore_result=True, worker_hijack_root_logger=False)


@cache
def stored_robots() -> Any:
    return MongoClient[dict[str, Any]](Settings().first_mongodb_uri).get_default_database().robots


def record(robot: str, task: str, status: str) -> None:
    stored_robots().update_one({"_id": robot, "tasks.task_id": task}, {"$set": {"tasks.$.status": status}})


@worker.task(name="first.primes")
def primes(robot: str, count: int) -> int:
    task = primes.request.id
    record(robot, task, "STARTED")
    found = sum(all(n % divisor for divisor in range(2, int(n**0.5) + 1)) for n in range(2, count + 1))
    record(robot, task, "SUCCESS")
    if marks := os.environ.get("FIRST_MARKS"):
        mark(marks, "end")
    return found
