"""A bulk run that makes tasks: one for each of many robots, with the same handler, parameters and options.

Its `orders` name the robots and say what to run. A step plans the new tasks of the next robots, with their ids, so that
each is made once however often the step is carried out.
"""

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any

import bson

from fmv import audit
from fmv.errors import FmvError, InvalidInput, Problem
from fmv.http import request_id
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import new_id
from robots.models import Robot
from tasks.models import Bulk, Task
from tasks.queue.doorbell import ring_for_bulks
from tasks.queue.errors import NothingToDo
from tasks.queue.new_task import new_task

STEP_SIZE = 200  # robots of one step
MAX_PLAN_SIZE = 8 * 1024 * 1024  # bytes of BSON in a plan; MongoDB allows 16 MiB a document
MAX_ROBOTS = 10_000  # of one bulk run, whose document names them


def start(robots: Collection[str], run: Mapping[str, Any], *, by: str) -> Bulk:
    """Begin to submit a task for each of these robots, and return the bulk run.

    `run`: the options of `new_task`. The periodic job works on the bulk run, unless the caller does so.

    Raises what `check` raises.
    """
    check(robots, run, by=by)
    names = sorted(robots)
    bulk = Bulk(
        id=new_id(),
        action="run",
        conditions={"handler": run["handler"], "robots": len(robots)},
        orders={"robots": names, "run": dict(run)},
        by=by,
        request_id=request_id.current.get(),
        expected=len(robots),
        changed_at=server_now(),
    )
    bulk.save(force_insert=True)
    text = f"run {run['handler']} on {', '.join(names)}"
    audit.record("bulk.start", by=by, kind="bulk", key=bulk.pk, text=text)
    ring_for_bulks()
    return bulk


def check(robots: Collection[str], run: Mapping[str, Any], *, by: str) -> None:
    """Raise NothingToDo without robots, and InvalidInput for too many, or if no robot could run it."""
    if not robots:
        raise NothingToDo("No robot is chosen.")
    if len(robots) > MAX_ROBOTS:
        raise InvalidInput([Problem(("body", "robots"), f"At most {MAX_ROBOTS:,} robots at a time.", "too_long")])
    new_task(Robot(name="any"), by=by, **run)  # refuses wrong parameters and options


def plan(bulk: Bulk, _tasks: Any) -> dict[str, Any] | None:
    """Return the plan: a new task for each of the next robots, and the reasons for leaving out others; None at the end.

    `bulk.found` robots are behind it.
    """
    orders: dict[str, Any] = bulk.orders or {}
    names = orders["robots"][bulk.found : bulk.found + STEP_SIZE]
    robots = {robot.name: robot for robot in Robot.objects.filter(pk__in=names)}
    run = {name: _aware(value) for name, value in orders["run"].items()}
    planned: dict[str, Any] = {"tasks": [], "last": None, "skipped": 0, "failures": []}
    size = 0
    for name in names:
        try:
            new = _new(robots.get(name), run, bulk.by).as_submitted()
        except FmvError as error:
            planned["skipped"] += 1
            planned["failures"].append({"robot": name, "text": _reason(error)})
            continue
        size += len(bson.encode(new))
        if planned["tasks"] and size > MAX_PLAN_SIZE:
            break
        planned["tasks"].append(new)
    return planned if names else None


def _new(robot: Robot | None, run: Mapping[str, Any], by: str) -> Task:
    if robot is None:
        raise NothingToDo("It was deleted.")
    return new_task(robot, by=by, **run)


def _reason(error: FmvError) -> str:
    return "; ".join(problem.msg for problem in error.problems) if isinstance(error, InvalidInput) else str(error)


def _aware(value: Any) -> Any:
    """Return a time as MongoDB gives it, which is in UTC, with its offset; any other value as it is."""
    return value.replace(tzinfo=dt.UTC) if isinstance(value, dt.datetime) and value.tzinfo is None else value
