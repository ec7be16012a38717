"""New tasks, checked but not stored yet."""

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import bson
import orjson

from fmv.errors import InvalidInput, Problem
from fmv.http import request_id
from fmv.http.json import check_json
from fmv.mongodb.server import stored_now
from fmv.mongodb.uuid7 import new_id, time_of
from robots.errors import UnknownRobot
from robots.models import Robot, plain_name
from tasks import registry
from tasks.models import Status, Task
from tasks.models.history import first_line, scheduled_for
from tasks.models.status import DEFAULT_PRIORITY, MAX_PRIORITY
from tasks.queue.errors import RobotOutOfService, RobotsOutOfService

#: what to run: the name of its `robot`, and the options of `new_task`
Run = Mapping[str, Any]

OUT_OF_SERVICE = "out_of_service"  # type of a Problem
MAX_PARAMS = 64 * 1024  # bytes of JSON


def new_task(
    robot: Robot,
    *,
    by: str,
    handler: str = registry.DEFAULT,
    params: dict[str, Any] | None = None,
    priority: int = DEFAULT_PRIORITY,
    labels: Sequence[str] = (),
    run_at: dt.datetime | None = None,
    expires_at: dt.datetime | None = None,
    timeout: float | None = None,
    max_attempts: int | None = None,
    queue_anyway: bool = False,
    retry_of: Any = None,
) -> Task:
    """Return a new task for the robot. Raises RobotOutOfService unless `queue_anyway`, and InvalidInput."""
    task = _minimal_task(robot, by, handler, params or {}, run_at, expires_at)
    task.priority, task.labels, task.retry_of = priority, list(labels), retry_of
    task.timeout = timeout or task.timeout
    task.max_attempts = max_attempts or task.max_attempts
    if not robot.enabled and not queue_anyway:
        raise RobotOutOfService
    return task


def _minimal_task(
    robot: Robot,
    by: str,
    handler_name: str,
    params: dict[str, Any],
    run_at: dt.datetime | None,
    expires_at: dt.datetime | None,
) -> Task:
    handler = _handler_to_run(handler_name)
    id = new_id()
    created_at = time_of(id)
    if expires_at and expires_at <= max(created_at, run_at or created_at):
        raise InvalidInput([Problem(("body", "expires_at"), "Must be later than now and than run_at")])
    status = Status.SCHEDULED if run_at and run_at > created_at else Status.QUEUED
    return Task(
        id=id,
        robot=robot.name,
        handler=handler.name,
        params=_storable(handler.complete_params(params)),
        params_version=handler.params_version,
        runs_on=handler.runs_on,
        status=status,
        timeout=handler.timeout,
        max_attempts=handler.retry.max_attempts,
        run_at=run_at if status == Status.SCHEDULED else None,
        expires_at=expires_at,
        requested_by=by,
        request_id=request_id.current.get(),
        history=[first_line(id, status, by, run_at)],
    )


def _handler_to_run(name: str) -> registry.Handler[Any]:
    try:
        return registry.get(name)
    except registry.UnknownHandler:
        names = ", ".join(known.name for known in registry.all_handlers())
        raise InvalidInput([Problem(("body", "handler"), f"No such handler; there are: {names}", "enum")]) from None


def _storable(params: dict[str, Any]) -> dict[str, Any]:
    check_json(params, ("body", "params"), to_store=True)  # a handler's model may have made "NaN" a number
    try:
        bson.encode(params)
        size = len(orjson.dumps(params))
    except (bson.errors.BSONError, OverflowError, TypeError, ValueError) as error:
        raise InvalidInput([Problem(("body", "params"), f"Cannot be stored: {error}")]) from None
    if size > MAX_PARAMS:
        raise InvalidInput([Problem(("body", "params"), f"At most {MAX_PARAMS} bytes of JSON", "too_long")])
    return params


def new_tasks(runs: Sequence[Run], *, by: str) -> tuple[list[Task], list[Robot]]:
    """Return a new task for each run, in order, and their robots.

    Raises InvalidInput that names each refused run by its index: RobotsOutOfService if nothing else is wrong with any.
    """
    names = {name for run in runs for name in (run["robot"], plain_name(run["robot"]))}
    robots = {robot.name: robot for robot in Robot.objects.filter(pk__in=names)}
    tasks, problems = [], []
    for index, run in enumerate(runs):
        try:
            tasks.append(new_task(_robot_of(run, robots), by=by, **options_of(run)))
        except InvalidInput as error:
            problems += [Problem(("body", "runs", index, *p.loc[1:]), p.msg, p.type) for p in error.problems]
        except RobotOutOfService as error:
            problems.append(Problem(("body", "runs", index, "robot"), str(error), OUT_OF_SERVICE))
    if problems:
        only_out = all(problem.type == OUT_OF_SERVICE for problem in problems)
        raise RobotsOutOfService(problems) if only_out else InvalidInput(problems)
    return tasks, list(robots.values())


def options_of(run: Run) -> dict[str, Any]:
    """Return the options that `new_task` takes for this run."""
    return {name: value for name, value in run.items() if name != "robot"}


def _robot_of(run: Run, robots: Mapping[str, Robot]) -> Robot:
    robot = robots.get(run["robot"]) or robots.get(plain_name(run["robot"]))
    if robot is None:
        raise InvalidInput([Problem(("body", "robot"), "No such robot", "unknown_robot")])
    return robot


def due_at(task: Task) -> dt.datetime | None:
    """Return the time, still ahead, for which a task that never started was scheduled; None if there is none."""
    planned = scheduled_for(task.history) if task.attempt == 0 else None
    return planned if planned and planned > stored_now() else None


def repeat_of(task: Task, *, now: bool = False) -> dict[str, Any]:
    """Return the run that repeats a finished task on its robot, even if the robot is out of service.

    One that was cancelled before its time keeps the time, unless it is to run `now`.
    """
    run_at = None if now else due_at(task)
    return {
        **({"run_at": run_at} if run_at else {}),
        "robot": task.robot,
        "handler": task.handler,
        "params": task.params,
        "priority": min(task.priority, MAX_PRIORITY),  # somebody may have put it in front of others
        "labels": task.labels,
        "timeout": task.timeout,
        "max_attempts": task.max_attempts,
        "queue_anyway": True,
        "retry_of": task.pk,
    }


def require_in_service(name: str) -> Robot:
    """Return the robot, which is in service. Raises UnknownRobot, RobotOutOfService."""
    robot = Robot.objects.find(name)
    if robot is None:
        raise UnknownRobot(f"There is no robot {name}.")
    if not robot.enabled:
        raise RobotOutOfService(f"The robot {name} is out of service: put it in service first, or choose another.")
    return robot
