"""What can be done with tasks. The API, the admin, the commands and the jobs all call these functions."""

import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import Any, Literal, overload
from uuid import UUID

from django.db.models import QuerySet

import robots.services
from fmv import audit
from fmv.errors import InvalidInput, Problem
from fmv.mongodb.documents import Document, find_document, insert
from robots.errors import UnknownRobot
from robots.models import Robot
from tasks.models import WAITING, Bulk, LogLine, Status, Task
from tasks.models.transitions import cancel_asked
from tasks.queue import bulk
from tasks.queue.doorbell import ring_all, ring_for_new, ring_for_next
from tasks.queue.errors import AlreadyFinished, NotFinished, NotWaiting, RobotHasWork, UnknownTask
from tasks.queue.new_task import Run, new_task, new_tasks, options_of, repeat_of
from tasks.queue.submissions import submit_batch, submit_idempotent
from tasks.queue.targets import Targets
from tasks.queue.waiting import wake
from tasks.reports import endings, outcomes

REQUEST_BUDGET = 1.0  # seconds that a request works on a bulk run; the periodic job does the rest
MAX_REASON = 500  # characters of the reason of a cancel
DELETE_STEP = 1000  # tasks deleted at a time


def get(id: Any) -> Task:
    """Return the task. Raises UnknownTask."""
    task = Task.objects.find(id)
    if task is None:
        raise UnknownTask
    return task


def document(id: UUID) -> Document:
    """Return the task as MongoDB has it. Raises UnknownTask."""
    found = find_document(Task, id)
    if found is None:
        raise UnknownTask
    return found


@overload
def submit(runs: Run, *, by: str, key: str | None = None) -> Task: ...


@overload
def submit(runs: Sequence[Run], *, by: str, key: str | None = None) -> list[Task]: ...


def submit(runs: Run | Sequence[Run], *, by: str, key: str | None = None) -> Task | list[Task]:
    """Submit a task for one run and return it; or a task for each of several runs, all or none.

    With a `key`, the same runs submitted again return the tasks of the first time, for at least 24 hours. If the broker
    is down, the tasks are queued nevertheless, and a periodic job rings for them later.

    Raises UnknownRobot and RobotOutOfService (one run only), and InvalidInput, which for several runs names each
    refused run, and is also raised for a `key` that was used with other runs.
    """
    if not isinstance(runs, Mapping):
        build = partial(new_tasks, runs, by=by)
        return submit_batch(*build()) if key is None else submit_idempotent(key, runs, by=by, build=build)
    if key is not None:
        [task] = submit_idempotent(key, runs, by=by, build=partial(_new, runs, by))
        return task
    [task], [robot] = _new(runs, by)
    insert(task)
    if robot.starts_tasks and task.status == Status.QUEUED:
        ring_for_new(task)  # at once: whether somebody comes anyway would be asked by a third command
    return task


def _new(run: Run, by: str) -> tuple[list[Task], list[Robot]]:
    robot = robots.services.get(run["robot"])
    return [new_task(robot, by=by, **options_of(run))], [robot]


def cancel(task: Task, *, by: str, reason: str = "") -> Task:
    """Revoke a waiting task, or ask whoever runs it to stop it; return the task as it is then.

    The `reason` is for people; a robot's agent gets it too. Raises AlreadyFinished, also if a running task ends before
    its worker notices the request.
    """
    note = cancel_asked(by, reason)
    while not task.is_finished:
        asked = task.revoke(note) or task.request_cancel(note)
        task = get(task.pk)
        being_stopped = task.status == Status.STARTED and task.cancel_requested
        if asked:
            text = f"it is {task.status}" + (f"; {reason}" if reason else "")
            audit.record("task.cancel", by=by, kind="task", key=task.pk, text=text)
        if asked and task.status == Status.REVOKED and task.runs_on == "robot":
            ring_for_next(task.robot)  # a worker that came for the task behind it has left
        if being_stopped or (asked and task.status == Status.REVOKED):
            return task
    raise AlreadyFinished


def retry(task: Task, *, by: str, key: str | None = None, now: bool = False) -> Task:
    """Submit a new task that repeats a finished one, and return it; with the same `key` again the first new task.

    A task that was cancelled before the time it was scheduled for keeps that time, unless it is to run `now`.

    Raises NotFinished, UnknownRobot, InvalidInput.
    """
    if not task.is_finished:
        raise NotFinished
    new = submit(repeat_of(task, now=now), by=by, key=key)
    text = f"as {new.pk}"
    if key is None or all(entry.text != text for entry in audit.of("task", task.pk)):
        audit.record("task.retry", by=by, kind="task", key=task.pk, text=text)
    return new


def move(task: Task, *, by: str, to: str = "", label: str = "") -> Task:
    """Move a waiting task to another robot: to `to`, or to the one with the shortest queue of those with the label.

    Returns the task as it is then. Raises NotWaiting, UnknownRobot, RobotOutOfService if the robot is out of service,
    and CannotMove if no robot with the label starts tasks, or if the task runs on the robot and the agent there cannot.
    """
    targets = Targets(to=to, label=label)
    targets.require(besides=task.robot)
    while task.is_waiting and task.robot != to:
        before, target = task.robot, targets.choose(task)
        moved = task.reassign(target, by)
        task = get(task.pk)
        if moved:
            audit.record("task.move", by=by, kind="task", key=task.pk, text=f"from {before} to {target}")
            ring_for_next(target)
            if task.runs_on == "robot":
                ring_for_next(before)
            return task
    if task.is_waiting:
        return task
    raise NotWaiting


def move_queue(name: str, *, by: str, to: str = "", label: str = "") -> Bulk:
    """Move the waiting tasks of a robot as `move` moves one; return the bulk run, begun as in `take_out_of_service`.

    Tasks that cannot run there stay, and the run says why. Raises UnknownRobot for either robot, RobotOutOfService,
    CannotMove, InvalidInput.
    """
    robot = robots.services.get(name)
    _require_another(robot.name, to)
    Targets(to=to, label=label).require(besides=robot.name)
    run = bulk.start("move", by=by, conditions={"robot": robot.name, "status": WAITING}, to=to, label=label)
    return bulk.run(run, REQUEST_BUDGET)


def _require_another(name: str, to: str) -> None:
    if to == name:
        raise InvalidInput([Problem(("body", "to"), "Must be another robot")])


def change_robot(name: str, *, by: str, **values: Any) -> Robot:
    """Change fields of a robot and return it. If `enabled` or `lanes` change, its queue is started again.

    Raises UnknownRobot, NotPossible.
    """
    robot = robots.services.change(name, by=by, **values)
    if "enabled" in values or "lanes" in values:
        restart_queue(robot)
    return robot


def replace_robot(name: str, *, by: str, **values: Any) -> tuple[Robot, bool]:
    """Create or replace a robot; return it and whether it is new. The queue of a replaced one is started again.

    Raises InvalidInput, NotPossible.
    """
    robot, created = robots.services.replace(name, by=by, **values)
    if not created:
        restart_queue(robot)
    return robot, created


def take_out_of_service(
    name: str, *, by: str, queue: Literal["keep", "cancel", "move"] = "keep", to: str = "", label: str = ""
) -> tuple[Robot, Bulk | None]:
    """Take a robot out of service: it starts no more tasks. Its queue is kept, cancelled, or moved: to the robot `to`,
    or to robots with the label, spread by the shortest queue.

    Returns the robot, and the bulk run that cancels or moves the queue (None: keep). The first REQUEST_BUDGET seconds
    of the run are done at once, the rest by the periodic job. Running tasks go on. A task that is submitted at the same
    time may be missed by the run, and then waits; and so does one that cannot run there.

    Raises UnknownRobot for either robot, RobotOutOfService if `to` is out of service, and CannotMove if no other robot
    with the label starts tasks.
    """
    if queue == "move":
        _require_another(name, to)
        Targets(to=to, label=label).require(besides=name)
    where = to or f"robots with the label {label}"
    why = {"keep": "its queue waits", "cancel": "its queue is cancelled", "move": f"its queue moves to {where}"}[queue]
    robot = robots.services.change(name, by=by, enabled=False, why=why)
    if queue == "keep":
        return robot, None
    waiting = {"robot": name, "status": WAITING}
    run = bulk.start(queue, by=by, conditions=waiting, to=to, label=label, why=f"{name} is out of service")
    return robot, bulk.run(run, REQUEST_BUDGET)


def hold_queue(name: str, *, by: str, why: str = "") -> Robot:
    """Hold a robot's queue: see `robots.services.hold_queue`. A process that has looked at the queue within the last
    `tasks.worker.claim.LOOK_LIFETIME` may still start what it has found there.
    """
    return robots.services.hold_queue(name, by=by, why=why)


def release_queue(name: str, *, by: str) -> Robot:
    """Release a robot's queue, and start it if it was held. Raises UnknownRobot."""
    robot, was_held = robots.services.release_queue(name, by=by)
    if was_held:
        restart_queue(robot)
    return robot


def put_in_service(name: str, *, by: str) -> Robot:
    """Put a robot back in service, and start its queue. Raises UnknownRobot."""
    return change_robot(name, by=by, enabled=True)


def restart_queue(robot: Robot) -> None:
    """Ring once for each lane of the robot if its next task runs on a worker, or wake its agent if on the robot.

    Not if the robot starts no tasks.
    """
    if not robot.starts_tasks:
        return
    runs_on = Task.objects.next_runs_on(robot.name)
    if runs_on == "worker":
        ring_all({robot.name: robot.lanes})
    elif runs_on == "robot":
        wake(robot.name)


def has_work(robot: str) -> bool:
    """Return whether the robot has unfinished tasks, or may still move because of one that blocks a lane."""
    return Task.objects.unfinished().of_robot(robot).exists() or bool(Task.blocking(robot))


def delete_robot(name: str, *, by: str, revisions: Collection[int] | None = None) -> None:
    """Delete a robot with its finished tasks, if it is at one of `revisions` (None: at any).

    The robot goes first, in one conditional write. If the process dies before the tasks are gone too, the same call
    deletes the rest. A task that is submitted at the same time may be left without its robot; the worker that gets its
    message ends it.

    Raises RobotHasWork, UnknownRobot, and Changed.
    """
    name = robots.services.stored_name(name)
    if has_work(name):
        raise RobotHasWork
    finished = Task.objects.finished().of_robot(name)
    try:
        robots.services.delete(name, by=by, revisions=revisions)
    except UnknownRobot:
        if not finished.exists():
            raise
    delete_every(finished)
    outcomes.forget(name)


def delete_every(tasks: QuerySet[Task], until: float = float("inf")) -> int:
    """Delete these tasks with their logs, until a time by `time.monotonic()`; return how many.

    An index must find them; else use tasks.cli.archive.
    """
    deleted, found = 0, tasks.order_by().values_list("pk", flat=True)
    while ids := list(found[:DELETE_STEP]):
        delete_all(ids)
        deleted += len(ids)
        if time.monotonic() >= until:
            break
    return deleted


def delete_all(ids: Collection[Any]) -> None:
    """Delete these tasks with their logs and the endings of their ids.

    The tasks go last: a crash in between leaves a task without its log, but never a log without its task.
    """
    LogLine.objects.filter(task__in=ids).delete()
    endings.forget(ids)
    Task.objects.filter(pk__in=ids).delete()
