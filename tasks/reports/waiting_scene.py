"""What FMV reads to find why tasks wait: robots, the first tasks of their queues, their lanes, and the workers."""

import datetime as dt
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from django.db import models

from fmv.mongodb.documents import Document
from fmv.mongodb.server import recent_now
from fmv.mongodb.updates import aggregate
from robots.condition import Condition
from robots.models import Absence, Robot, RobotState
from tasks.models import Status, Task
from tasks.reports.fleet import Worker, living
from tasks.reports.held_lanes import HeldLane, held_lanes

HEAD = ("robot", "handler", "priority", "runs_on", "params_version", "run_at")
ROBOT = ("enabled", "lanes", "updated_at")
STATE = (
    *("online", "last_seen", "since", "signed_off", "reported_at", "session.handlers"),
    *("reported.mode", "reported.emergency_stop"),
)


@dataclass
class Scene:
    """What is known of some robots: by name, those out of service since when, the first tasks of their queues with
    their HEAD, the conditions of those that have had an agent, and their lanes in use; and the workers, if the first
    task of a robot in service runs on one.
    """

    now: dt.datetime
    robots: dict[str, Robot] = field(default_factory=dict)
    disabled: dict[str, dt.datetime] = field(default_factory=dict)
    heads: dict[str, Task] = field(default_factory=dict)
    conditions: dict[str, Condition] = field(default_factory=dict)
    held: dict[str, list[HeldLane]] = field(default_factory=dict)
    workers: list[Worker] = field(default_factory=list)


def look(names: Collection[str]) -> Scene:
    """Return what is known of the robots with these names, some hundred at most: four queries at most."""
    scene = Scene(recent_now())
    since: dict[str, dt.datetime] = {}
    for document in aggregate(Robot, _pipeline(sorted(names))):
        match document:
            case {"enabled": _, "_id": name}:
                values = {column: _aware(document.get(column)) for column in ROBOT}
                scene.robots[name] = Robot(name=name, **values)
            case {"begun": begun, "robot": name}:
                since[name] = _aware(begun)
            case {"online": _, "_id": name}:
                scene.conditions[name] = Condition.of(document, scene.now)
            case {"handler": _, "robot": name}:
                scene.heads[name] = _task(document)
    # An absence is stored within a minute; until then no other change of the robot is likely.
    off = [robot for robot in scene.robots.values() if not robot.enabled]
    scene.disabled = {robot.name: since.get(robot.name, robot.updated_at) for robot in off}
    if serving := {name for name, robot in scene.robots.items() if robot.enabled}:
        for lane in held_lanes(serving):
            scene.held.setdefault(lane.robot, []).append(lane)
    if any(head.runs_on == "worker" for name, head in scene.heads.items() if name in serving):
        scene.workers = living(scene.now)
    return scene


def _pipeline(names: list[str]) -> list[Document]:
    """Return the pipeline that finds all of the scene but lanes and workers: one command for all robots."""
    out = {"ended": None, "kind": Absence.Kind.OUT_OF_SERVICE.value, "robot": {"$in": names}}
    return [
        {"$match": {"_id": {"$in": names}}},
        {"$project": dict.fromkeys(ROBOT, 1)},
        _and(Absence, [{"$match": out}, {"$project": {"robot": 1, "begun": 1}}]),
        _and(RobotState, [{"$match": {"_id": {"$in": names}}}, {"$project": dict.fromkeys(STATE, 1)}]),
        *(_and(Task, Task.first_of_queue(name, HEAD)) for name in names),
    ]


def _and(model: type[models.Model], pipeline: list[Document]) -> Document:
    return {"$unionWith": {"coll": model._meta.db_table, "pipeline": pipeline}}


def _task(row: Document) -> Task:
    known = {name: _aware(row.get(name)) for name in HEAD if name != "runs_on"}
    return Task(id=uuid.UUID(row["_id"]), status=Status.QUEUED, runs_on=row.get("runs_on") or "worker", **known)


def _aware(value: Any) -> Any:
    return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) else value
