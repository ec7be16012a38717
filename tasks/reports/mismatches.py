"""Tasks which robots say they run, and which FMV does not count as running there."""

import datetime as dt
from collections.abc import Iterable
from typing import Any

from fmv.mongodb.server import recent_now
from robots.condition import Condition
from robots.models import RobotState
from tasks.models import Task
from tasks.models.status import EPOCH

SETTLED = dt.timedelta(seconds=2)  # between the last change of a task and a report that counts
MAX_ROBOTS = 1000  # of which `of_all` reads the state

#: the task as the robot names it: {task_id, attempt}
HeldTask = dict[str, Any]


def of_all() -> dict[str, HeldTask]:
    """Return the tasks that robots wrongly believe they run, by robot: three queries."""
    now = recent_now()
    fresh = RobotState.objects.fresh(now).values_list("robot", "online", "last_seen", "reported_at", "reported__task")
    states = [
        RobotState(robot=robot, online=online, last_seen=seen, reported_at=reported_at, reported={"task": task})
        for robot, online, seen, reported_at, task in fresh[:MAX_ROBOTS]
        if task
    ]
    running = Task.objects.started().filter(robot__in=[state.robot for state in states]).order_by()
    held: dict[str, list[tuple[str, int]]] = {}
    for robot, pk, attempt in running.values_list("robot", "pk", "attempt"):
        held.setdefault(robot, []).append((str(pk), attempt))
    mismatches = ((state, Condition(state, now).mismatch(held.get(state.robot, []))) for state in states)
    return settled((state, task) for state, task in mismatches if task)


def settled(found: Iterable[tuple[RobotState, HeldTask]]) -> dict[str, HeldTask]:
    """Return those that the robot reported after the task had last changed, by robot: a report may be on its way
    while a task begins or ends. No query if there are none.
    """
    suspects = list(found)
    if not suspects:
        return {}
    tasks = Task.objects.filter(pk__in=[task["task_id"] for _, task in suspects]).order_by()
    changed = {str(pk): at for pk, at in tasks.values_list("pk", "changed_at")}
    return {
        state.robot: task
        for state, task in suspects
        if task["task_id"] not in changed or changed[task["task_id"]] + SETTLED < (state.reported_at or EPOCH)
    }
