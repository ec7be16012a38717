"""Requests: FMV's web server over 16 connections.

It is compared with a floor that sends the same MongoDB commands, and with a stand-in of the first backend.
"""

import datetime as dt
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from uuid_utils.compat import uuid7

from fmv.devstack import stack
from tests.bench.backlog import FIRST_WEB, first_environment
from tests.bench.figures import Figure, Size, figure, in_turn
from tests.bench.stage import FLOOR, Load, Stage

READ, WRITE = "≥ 0.5", "≥ 0.45"


@dataclass(frozen=True)
class Route:
    name: str
    path: str
    goal: str = READ
    method: str = "GET"
    body: str = ""


def routes(task: str) -> list[Route]:
    """Return the measured routes. Those that write come last, because they make the collections grow."""
    return [
        Route("100 robots", "/robot/"),
        Route("a robot with 50 tasks", "/robot/Robot%200"),
        Route("a task", f"/task/{task}"),
        Route("a page of 100 tasks", "/task/"),
        Route("run", "/robot/Robot%2099/run", WRITE, "POST", '{"handler": "noop"}'),
        Route("create a robot", "/robot/", WRITE, "POST", '{"name": "N#", "location": "Lab", "description": "New"}'),
    ]


def prepare(robots: int = 100, tasks: int = 200) -> str:
    """Store robots, and tasks of the first few; return the id of one."""
    from robots.models import Robot
    from tasks.models import Status, Task

    Robot.objects.bulk_create(
        Robot(name=f"Robot {n}", location="Lab", description="For the bench") for n in range(robots)
    )
    done = [finished(Task, Status, f"Robot {number % 2}") for number in range(tasks)]
    Task.objects.bulk_create(done)
    return str(done[0].pk)


def finished(task: Any, status: Any, robot: str) -> Any:
    now = dt.datetime.now(dt.UTC)
    lines = [
        {"at": now, "status": each, "attempt": 1, "note": "by host/1"} for each in ("QUEUED", "STARTED", "SUCCESS")
    ]
    times = {"started_at": now, "finished_at": now}
    return task(
        id=uuid7(), robot=robot, handler="noop", status=status.SUCCESS, timeout=30.0, requested_by="anonymous",
        progress=100.0, attempt=1, worker="host/1", history=lines, **times,
    )  # fmt: skip


def measure(stage: Stage, size: Size) -> list[Figure]:
    task = prepare()
    urls = {"fmv": stage.serve("fmv", *stack.WEB), "floor": stage.serve("floor", *FLOOR)}
    return [each for route in routes(task) for each in _compare(stage, size, route, urls)]


def _compare(stage: Stage, size: Size, route: Route, urls: dict[str, str]) -> list[Figure]:
    loads: dict[str, list[Load]] = {"fmv": [], "floor": []}
    costs: dict[str, list[float]] = {"fmv": [], "floor": []}

    def call(server: str) -> float:
        url, before = f"{urls[server]}/api/v1{route.path}", stage.cpu(server)
        load = stage.call(url, size.seconds, method=route.method, body=route.body)
        loads[server].append(load)
        costs[server].append((stage.cpu(server) - before) / load.requests)
        return load.rate

    ratios = in_turn(size.pairs, partial(call, "fmv"), partial(call, "floor"), route.name)
    tails = {server: [load.p99 / load.median for load in loads[server][1:]] for server in loads}
    spent = [floor / ours for floor, ours in zip(costs["floor"][1:], costs["fmv"][1:], strict=True)]
    return [
        figure(f"{route.name}: requests/s ÷ floor", stage.engine, route.goal, ratios),
        figure(f"{route.name}: p99 ÷ median", stage.engine, "≤ 4", tails["fmv"]),
        figure(f"{route.name}: p99 ÷ median, of the floor", stage.engine, "", tails["floor"]),
        figure(f"{route.name}: floor's CPU a request ÷ FMV's", stage.engine, "", spent),
    ]


# --- The first backend -----------------------------------------------------------------------------------------------

#: the routes of `routes` that the first backend has, and a robot without tasks: name -> goal
KEPT = {
    "100 robots": "≤ 0.3",
    "a robot with 50 tasks": "≤ 0.45",
    "a robot without tasks": "≤ 0.45",
    "create a robot": "≤ 0.4",
    "run": "≤ 0.45",
}


def measure_first(stage: Stage, size: Size) -> list[Figure]:
    """Compare the CPU time of the web server's processes for a request. No worker runs."""
    measured = [*routes(prepare()), Route("a robot without tasks", "/robot/Robot%2050")]
    environment = first_environment(stage)
    prepare_first(stage.client[urlsplit(environment["FIRST_MONGODB_URI"]).path.strip("/")].robots)
    urls = {"fmv": stage.serve("fmv", *stack.WEB), "first": stage.serve("first", *FIRST_WEB, **environment)}

    def cost(server: str, route: Route) -> float:
        before = stage.cpu(server)
        load = stage.call(f"{urls[server]}/api/v1{route.path}", size.seconds, method=route.method, body=route.body)
        return (stage.cpu(server) - before) / load.requests

    found = []
    for route in measured:
        if route.name in KEPT:
            name = f"{route.name}: CPU a request ÷ the first backend's"
            ratios = in_turn(size.pairs, *(partial(cost, server, route) for server in urls), name)
            found.append(figure(name, stage.engine, KEPT[route.name], ratios))
    return found


def prepare_first(robots: Any) -> None:
    """Store as many robots for the first backend, and the 50 tasks of one that FMV shows."""
    tasks = [{"task_id": str(uuid7()), "status": "SUCCESS"} for _ in range(50)]
    robots.insert_many(
        {"_id": f"Robot {n}", "name": f"Robot {n}", "is_great": False, "location": "Lab"}
        | {"description": "For the bench", "tasks": tasks if n == 0 else []}
        for n in range(100)
    )
