"""Where robots and FMV do not fit together: a robot says that it runs a task which FMV does not count as running on it;
tasks wait for an agent that is not there, or that does not know their handler.
"""

import datetime as dt
from collections.abc import Iterable
from typing import Any

from fmv.mongodb.server import recent_now
from robots.condition import Condition
from robots.models import Robot, RobotState
from tasks.models import Task
from tasks.models.status import EPOCH

SETTLED = dt.timedelta(seconds=2)  # between the last change of a task and a report that counts
MAX_QUEUED = 10_000  # tasks that `unserved` reads
MAX_ROBOTS = 1000  # of which `of_all` reads the state

#: the task as the robot names it: {task_id, attempt}
HeldTask = dict[str, Any]


def of_all() -> dict[str, HeldTask]:
    """Return the tasks that robots wrongly believe they run, by robot: three queries."""
    now = recent_now()
    states = [state for state in RobotState.objects.fresh(now)[:MAX_ROBOTS] if "task" in state.reported]
    running = Task.objects.started().filter(robot__in=[state.robot for state in states]).order_by()
    held = {(robot, str(pk), attempt) for robot, pk, attempt in running.values_list("robot", "pk", "attempt")}
    found = []
    for condition in (Condition(state, now) for state in states):
        mine = [(pk, attempt) for robot, pk, attempt in held if robot == condition.state.robot]
        if task := condition.mismatch(mine):
            found.append((condition.state, task))
    return settled(found)


def unserved() -> tuple[list[str], list[tuple[str, str]]]:
    """Return the robots in service for whose agent tasks wait while it is not online, and the pairs of robot and
    handler whose online agent does not know the handler. Three queries; of very long queues the first tasks count.
    """
    now = recent_now()
    queued = Task.objects.queued().filter(runs_on="robot").order_by().values_list("robot", "handler")
    waiting = set(queued[:MAX_QUEUED])
    names = set(Robot.objects.in_service().filter(pk__in={robot for robot, _ in waiting}).values_list("pk", flat=True))
    conditions = {state.robot: Condition(state, now) for state in RobotState.objects.filter(pk__in=names)}
    online = {name for name, condition in conditions.items() if condition.online}
    unknown = [(name, handler) for name, handler in waiting if name in online and not conditions[name].knows(handler)]
    return sorted(names - online), sorted(unknown)


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
