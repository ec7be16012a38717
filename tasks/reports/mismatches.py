"""Tasks which robots say they run, and which FMV does not count as running there."""

import datetime as dt
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any

from django.db import models

from fmv.mongodb.counting import collection
from fmv.mongodb.documents import Document
from fmv.mongodb.server import recent_now
from robots import connections
from robots.condition import Condition
from robots.models import RobotState
from robots.models.state import STATES_READ, documents_with_state
from tasks.models import Task
from tasks.models.status import EPOCH
from tasks.reports.queue_stats import by_queue

SETTLED = dt.timedelta(seconds=2)  # between the last change of a task and a report that counts
MAX_ROBOTS = 1000  # of which `of_all` reads the state

#: the task as the robot names it: {task_id, attempt}
HeldTask = dict[str, Any]


def of_documents(states: Collection[Document]) -> dict[str, list[str]]:
    """Return those of connections.ALARMS that each of these robots has, by the documents of their states.

    At most four queries. Of a robot's queue only its next task counts.
    """
    now = recent_now()
    conditions = {state["_id"]: Condition.of(state, now) for state in states}
    several = {state["_id"] for state in states if connections.times_replaced(state) > 1}
    other = _wrongly_held([each for each in conditions.values() if each.fresh and "task" in each.reported])
    served = [name for name, each in conditions.items() if each.online and each.state.session]
    unknown = {name for name, handler in _next_on_robots(served) if not conditions[name].knows(handler)}
    sets = zip(connections.ALARMS, (several, other, unknown), strict=True)
    having = [(alarm, names) for alarm, names in sets]
    return {name: [alarm for alarm, names in having if name in names] for name in conditions}


def documents_with_alarms(model: type[models.Model], criteria: Document, **options: Any) -> Iterator[Document]:
    """Yield what `documents_with_state` yields, each with its state's alarms as `alarms`."""
    robots = documents_with_state(model, criteria, **options)
    while chunk := list(islice(robots, STATES_READ)):
        alarms = of_documents([robot["state"] for robot in chunk if robot["state"]])
        yield from (robot | {"alarms": alarms.get(robot["_id"], [])} for robot in chunk)


def _next_on_robots(names: Collection[str]) -> list[tuple[str, str]]:
    """Return robot and handler of the next task of each of these robots, if it runs on the robot: two commands.

    One, if none has queued tasks. The index has all that finds the tasks, so that only these are read themselves.
    """
    first = [row["first"] for row in by_queue(names, 1, first={"$first": "$_id"})]
    if not first:
        return []
    found = collection(Task).find({"_id": {"$in": first}}, ["robot", "handler", "runs_on"])
    return [(task["robot"], task["handler"]) for task in found if task.get("runs_on") == "robot"]


def of_all() -> dict[str, HeldTask]:
    """Return the tasks that robots wrongly believe they run, by robot: three queries."""
    now = recent_now()
    fresh = RobotState.objects.fresh(now).values_list("robot", "online", "last_seen", "reported_at", "reported__task")
    states = [
        RobotState(robot=robot, online=online, last_seen=seen, reported_at=reported_at, reported={"task": task})
        for robot, online, seen, reported_at, task in fresh[:MAX_ROBOTS]
        if task
    ]
    return _wrongly_held([Condition(state, now) for state in states])


def _wrongly_held(conditions: Collection[Condition]) -> dict[str, HeldTask]:
    """Return what `of_all` returns, of these robots, which report a task: two queries, none without robots."""
    if not conditions:
        return {}
    running = Task.objects.started().filter(robot__in=[each.state.robot for each in conditions]).order_by()
    held: dict[str, list[tuple[str, int]]] = {}
    for robot, pk, attempt in running.values_list("robot", "pk", "attempt"):
        held.setdefault(robot, []).append((str(pk), attempt))
    mismatches = ((each.state, each.mismatch(held.get(each.state.robot, []))) for each in conditions)
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
