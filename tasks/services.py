"""What can be done with tasks; API, admin, commands and jobs all come through here."""

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any

import bson
import orjson
from django.db.models import QuerySet
from uuid_utils.compat import uuid7

import robots.services
from fmv import request_id
from fmv.errors import InvalidInput, Problem
from robots.models import Robot
from tasks import registry
from tasks.doorbell import ring, ring_all
from tasks.errors import AlreadyFinished, NotFinished, RobotHasWork, RobotOutOfService, UnknownHandler, UnknownTask
from tasks.models import DEFAULT_PRIORITY, LogLine, Status, Task, first_line, time_of

MAX_PARAMS = 64 * 1024  # bytes of JSON
PURGE_STEP = 1000  # tasks deleted at a time


def get(id: Any) -> Task:
    """Return the task. Raises UnknownTask."""
    task = Task.objects.filter(pk=id).first()
    if task is None:
        raise UnknownTask
    return task


def submit(robot: Robot, *, by: str, **options: Any) -> Task:
    """Store a new task, of the options that `build` takes, and ring for it; a broker that is down does not matter.

    Raises RobotOutOfService and InvalidInput.
    """
    task = build(robot, by=by, **options)
    task.save(force_insert=True)
    if task.status == Status.QUEUED and robot.enabled:
        ring(robot.name, task.priority)
    return task


def build(
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
    """Return a new task, checked but not stored. Raises RobotOutOfService unless `queue_anyway`, and InvalidInput."""
    task = _new_task(robot, by, handler, params or {}, run_at, expires_at)
    task.priority, task.labels, task.retry_of = priority, list(labels), retry_of
    task.timeout = timeout or task.timeout
    task.max_attempts = max_attempts or task.max_attempts
    if not robot.enabled and not queue_anyway:
        raise RobotOutOfService
    return task


def _new_task(
    robot: Robot,
    by: str,
    handler_name: str,
    params: dict[str, Any],
    run_at: dt.datetime | None,
    expires_at: dt.datetime | None,
) -> Task:
    handler = _handler_to_run(handler_name)
    id = uuid7()
    created_at = time_of(id)
    if expires_at and expires_at <= max(created_at, run_at or created_at):
        raise InvalidInput([Problem(("body", "expires_at"), "Must be later than now and than run_at")])
    status = Status.SCHEDULED if run_at and run_at > created_at else Status.QUEUED
    return Task(
        id=id,
        robot=robot.name,
        handler=handler.name,
        params=_storable(handler.read_params(params).model_dump(mode="json")),
        status=status,
        timeout=handler.timeout,
        max_attempts=handler.retry.max_attempts,
        run_at=run_at if status == Status.SCHEDULED else None,
        expires_at=expires_at,
        requested_by=by,
        request_id=request_id.current.get(),
        history=[first_line(id, status, by)],
    )


def _handler_to_run(name: str) -> registry.Handler[Any]:
    try:
        return registry.get(name)
    except UnknownHandler:
        names = ", ".join(known.name for known in registry.all_handlers())
        raise InvalidInput([Problem(("body", "handler"), f"No such handler; there are: {names}", "enum")]) from None


def _storable(params: dict[str, Any]) -> dict[str, Any]:
    try:
        bson.encode(params)
        size = len(orjson.dumps(params))
    except (bson.errors.BSONError, OverflowError, TypeError, ValueError) as error:
        raise InvalidInput([Problem(("body", "params"), f"Cannot be stored: {error}")]) from None
    if size > MAX_PARAMS:
        raise InvalidInput([Problem(("body", "params"), f"At most {MAX_PARAMS} bytes of JSON", "too_long")])
    return params


def cancel(task: Task, *, by: str) -> Task:
    """Revoke a task that waits, or ask the worker of a running one to stop it; return it as it now is.

    Raises AlreadyFinished, also when a running task ends by itself before its worker has noticed.
    """
    note = f"cancel asked for by {by}"
    while not task.is_finished:
        asked = task.revoke(note) or task.request_cancel(note)
        task = get(task.pk)
        being_stopped = task.status == Status.STARTED and task.cancel_requested
        if being_stopped or (asked and task.status == Status.REVOKED):
            return task
    raise AlreadyFinished


def retry(task: Task, *, by: str) -> Task:
    """Submit a finished task again, as a new one that names it. Raises NotFinished, UnknownRobot, InvalidInput."""
    if not task.is_finished:
        raise NotFinished
    return submit(
        robots.services.get(task.robot),
        by=by,
        handler=task.handler,
        params=task.params,
        priority=task.priority,
        labels=task.labels,
        timeout=task.timeout,
        max_attempts=task.max_attempts,
        queue_anyway=True,
        retry_of=task.pk,
    )


def change_robot(name: str, **values: Any) -> Robot:
    """Change some of a robot's fields; put back in service, or given more lanes, its queue starts again.

    Raises UnknownRobot, NotPossible.
    """
    robot = robots.services.change(name, **values)
    if robot.enabled and ("enabled" in values or "lanes" in values):
        ring_for(robot)
    return robot


def replace_robot(name: str, **values: Any) -> tuple[Robot, bool]:
    """Make the robot exactly this; return it and whether it is new. Its queue starts again, as after `change_robot`.

    Raises InvalidInput, NotPossible.
    """
    robot, created = robots.services.replace(name, **values)
    if robot.enabled and not created:
        ring_for(robot)
    return robot, created


def ring_for(robot: Robot) -> None:
    """Ring once for each lane of a robot that has work."""
    if Task.objects.queued().of_robot(robot.name).exists():
        ring_all({robot.name: robot.lanes})


def delete_robot(robot: Robot, *, revisions: Collection[int] | None = None) -> None:
    """Delete a robot with its finished tasks, if it is at one of `revisions` (None: whatever it is at).

    Raises RobotHasWork while it has unfinished tasks, and Changed.

    A task submitted at the same moment may be left without its robot; the first worker to look ends it.
    """
    if Task.objects.unfinished().of_robot(robot.name).exists():
        raise RobotHasWork
    if revisions is not None:  # nobody changes it any more, not unnoticed
        robots.services.change(robot.name, revisions=revisions, enabled=False)
    while delete_some(Task.objects.finished().of_robot(robot.name)):
        pass
    robots.services.delete(robot.name)


def delete_some(tasks: QuerySet[Task]) -> int:
    """Delete up to PURGE_STEP of these tasks with their logs; return how many. The logs go first: a crash in between
    leaves a task without its log, never a log without its task."""
    ids = list(tasks.order_by().values_list("pk", flat=True)[:PURGE_STEP])
    LogLine.objects.filter(task__in=ids).delete()
    Task.objects.filter(pk__in=ids).delete()
    return len(ids)
