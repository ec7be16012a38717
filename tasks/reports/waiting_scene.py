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
from tasks.models.task import NEXT_FIRST
from tasks.reports.fleet import Worker, living
from tasks.reports.held_lanes import HeldLane, held_lanes

MAX_QUEUED = 50_000  # tasks of many robots among which the first are looked for
HEAD = ("robot", "handler", "priority", "runs_on", "params_version", "run_at")
ROBOT = ("enabled", "lanes", "updated_at", "held_since", "held_by", "held_why")
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
    """Return what is known of those of these robots that have queued tasks: five queries at most, two at least."""
    scene = Scene(recent_now())
    for document in aggregate(Task, _first_of_queues(sorted(names))):
        name = document["robot"]
        scene.heads[name] = _task(document)
        for robot in document["robots"]:
            scene.robots[name] = Robot(
                name=name, **{column: _aware(robot[column]) for column in ROBOT if column in robot}
            )
        for state in document["states"]:
            scene.conditions[name] = Condition.of(state, scene.now)
    scene.disabled = _out_since([robot for robot in scene.robots.values() if not robot.enabled])
    if serving := {name for name, robot in scene.robots.items() if robot.starts_tasks}:
        for lane in held_lanes(serving):
            scene.held.setdefault(lane.robot, []).append(lane)
    if any(scene.heads[name].runs_on == "worker" for name in serving):
        scene.workers = living(scene.now)
    return scene


def _first_of_queues(names: list[str]) -> list[Document]:
    """Return the pipeline that finds the first task of each of these robots' queues, with `robots` and `states`.

    The index `task_next` has the queues in order. Of many robots at most MAX_QUEUED of its keys are read.
    """
    if len(names) == 1:
        first: list[Document] = [{"$match": Task.queue_of(*names)}, {"$sort": NEXT_FIRST}, {"$limit": 1}]
    else:
        first = [
            {"$match": {"status": Status.QUEUED.value, "robot": {"$in": names}}},
            {"$sort": {"robot": 1} | NEXT_FIRST},
            {"$limit": MAX_QUEUED},
            {"$group": {"_id": "$robot", "first": {"$first": "$_id"}}},
            _join(Task, "first", "tasks"),
            {"$unwind": "$tasks"},
            {"$replaceRoot": {"newRoot": "$tasks"}},
        ]
    shown = [*HEAD, *(f"robots.{name}" for name in ROBOT), "states._id", *(f"states.{name}" for name in STATE)]
    return [
        *first,
        _join(Robot, "robot", "robots"),
        _join(RobotState, "robot", "states"),
        {"$project": dict.fromkeys(shown, 1)},
    ]


def _join(model: type[models.Model], key: str, name: str) -> Document:
    """Return the stage that adds the documents of the model with this key: each engine finds it by its primary key."""
    return {"$lookup": {"from": model._meta.db_table, "localField": key, "foreignField": "_id", "as": name}}


def _out_since(robots: Collection[Robot]) -> dict[str, dt.datetime]:
    """Return since when these robots are out of service. An absence is stored within a minute; until then no other
    change of the robot is likely.
    """
    if not robots:
        return {}
    kind = Absence.Kind.OUT_OF_SERVICE
    stored = Absence.objects.now().filter(kind=kind, robot__in=[robot.name for robot in robots])
    begun = dict(stored.values_list("robot", "begun"))
    return {robot.name: begun.get(robot.name, robot.updated_at) for robot in robots}


def _task(row: Document) -> Task:
    known = {name: _aware(row.get(name)) for name in HEAD if name != "runs_on"}
    return Task(id=uuid.UUID(row["_id"]), status=Status.QUEUED, runs_on=row.get("runs_on") or "worker", **known)


def _aware(value: Any) -> Any:
    return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) else value
