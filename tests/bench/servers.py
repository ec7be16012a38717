"""Servers: FMV on other web servers compared with FMV on gunicorn, over 16 connections.

The others do not keep event streams as `fmv.server.gunicorn` does. Each runs with its defaults and as many threads or
processes as gunicorn works on requests at once.
"""

import sys
from functools import partial

from fmv.devstack import stack
from tests.bench.figures import Figure, Size, figure, in_turn
from tests.bench.requests import prepare, routes
from tests.bench.stage import Stage

APPLICATION = "tests.bench.candidate:application"
ROUTES = ("a task", "a robot with 50 tasks")
PROCESSES, THREADS = 2, 4
GUNICORN = ("gunicorn", "-c", "python:fmv.server.gunicorn")

#: web server -> the arguments after `python -m`
CANDIDATES: dict[str, tuple[str, ...]] = {
    # with more than one thread gunicorn would not use its sync worker
    "gunicorn sync": (*GUNICORN, "-k", "sync", "--threads", "1", "-w", f"{PROCESSES * THREADS}", "fmv.wsgi"),
    "granian": (
        *("granian", "--interface", "wsgi", "--no-ws", "--no-access-log", "--log-level", "warning"),
        *("--workers", f"{PROCESSES}", "--blocking-threads", f"{THREADS}", "--host", "127.0.0.1", "--port", "{port}"),
        APPLICATION,
    ),
    # always one process
    "waitress": ("waitress", "--listen", "127.0.0.1:{port}", "--threads", f"{PROCESSES * THREADS}", APPLICATION),
}


def measure(stage: Stage, size: Size) -> list[Figure]:
    measured = [route for route in routes(prepare()) if route.name in ROUTES]
    ours = stage.serve("fmv", *stack.WEB)
    found = []
    for name, command in CANDIDATES.items():
        theirs = stage.serve(name.replace(" ", "-"), sys.executable, "-m", *command)
        for route in measured:
            about = f"{route.name}: requests/s of {name} ÷ gunicorn gthread"
            urls = (f"{url}/api/v1{route.path}" for url in (theirs, ours))
            calls = (partial(rate, stage, url, size.seconds) for url in urls)
            found.append(figure(about, stage.engine, "", in_turn(size.pairs, *calls, about)))
        stage.stop(name.replace(" ", "-"))
    return found


def rate(stage: Stage, url: str, seconds: int) -> float:
    return stage.call(url, seconds).rate
