"""Backlog: tasks a second until all of many have succeeded, of FMV and of a stand-in of the first backend.

Both run whole: web server, two worker processes, periodic steps. Tasks are `primes` of 10 for 100 robots. FMV gets them
by its batch route, 100 in a request; the first backend, which has no such route, one by one. Each measurement begins
with empty databases, and the set-up that is not measured is stopped.
"""

import datetime as dt
import itertools
import json
import os
import shlex
import shutil
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, urlsplit
from uuid import UUID

from pymongo import MongoClient
from uuid_utils.compat import uuid7

from fmv.devstack import embedded_mongodb, stack
from tests.bench.figures import Figure, Size, figure, say
from tests.bench.stage import Stage, cpu_seconds
from tests.chaos.world import children, descendants
from tests.support.uris import with_suffix

ROBOTS = [f"Robot {number}" for number in range(100)]
ONE = ["The one robot"]
WARM_UP = 20  # tasks before the first that are measured
TENTH = 10  # the last tasks that are measured come after nine times as many as the first
BATCH = 100  # tasks in a request to FMV
UP_TO = 10  # the argument of `primes`
QUIET = 10.0  # seconds after the last task until it is idle
LONGEST = 1200.0  # seconds until the tasks of one measurement have succeeded
CHECKOUT = ("fmv", "robots", "tasks", "templates")  # what `make run` needs of a checkout


class Backend(ABC):
    """The running processes of a backend, and a client of its API."""

    name: str
    processes: tuple[str, ...]

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        stage.clear()
        url = self.start()
        self.http = HTTPConnection(urlsplit(url).netloc, timeout=60)
        self.mongodb: MongoClient[Any] = MongoClient(self.mongodb_uri())
        self.database = self.mongodb.get_default_database()
        self.own_commands = 0  # that this object has sent
        for robot in ROBOTS + ONE:
            self.post("/robot/", {"name": robot, "location": "Lab", "description": "For the bench"})
        self.run(ROBOTS, WARM_UP)

    @abstractmethod
    def start(self) -> str:
        """Start the processes; return the address of the web server."""

    @abstractmethod
    def mongodb_uri(self) -> str: ...

    @abstractmethod
    def run(self, robots: Sequence[str], tasks: int) -> float:
        """Submit tasks, for one robot after the other; return the seconds until the last has succeeded."""

    def sent(self) -> int:
        """Return the messages that have woken workers up."""
        return 0

    def stop(self) -> None:
        self.http.close()
        self.mongodb.close()
        for name in self.processes:
            self.stage.stop(name)

    def post(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body)
        self.http.request("POST", f"/api/v1{path}", data, {"Content-Type": "application/json"})
        answer = self.http.getresponse()
        text = answer.read()
        if answer.status >= 300:
            raise embedded_mongodb.StackError(f"{self.name}: {path} answered {answer.status}: {text[:500]!r}")
        return json.loads(text)

    def commands(self) -> int:
        """Return the requests that MongoDB has got from others, with the driver's own, such as `hello`."""
        self.own_commands += 1
        return int(self.mongodb.admin.command("serverStatus")["network"]["numRequests"]) - self.own_commands

    def cpu(self) -> float:
        """Return the seconds of CPU time of its processes and servers, except of those that run elsewhere."""
        roots = {self.stage.up[name].pid for name in {*self.processes, "rabbitmq"} & self.stage.up.keys()}
        self.own_commands += 1
        mongodb = {int(self.mongodb.admin.command("serverStatus")["pid"])} & {*descendants(os.getpid())}
        return cpu_seconds({each for pid in roots for each in (pid, *descendants(pid))} | mongodb)


class Fmv(Backend):
    """FMV on RabbitMQ."""

    name = "FMV on RabbitMQ"
    processes: tuple[str, ...] = ("fmv", "work", "maintenance")

    def start(self) -> str:
        self.messages = self.stage.directory / "messages"
        self.messages.write_bytes(b"")
        self.counting = {"FMV_APPS": "tests.bench.message_watch", "FMV_TEST_MESSAGES": str(self.messages)}
        self.stage.spawn("work", *stack.worker_command(2), **self.counting)
        self.stage.spawn("maintenance", *stack.MAINTENANCE, **self.counting)
        url = self.stage.serve("fmv", *stack.WEB, **self.counting)
        for name in ("work", "maintenance"):
            self.stage.wait_until(partial(self._has_children, name), name)
        return url

    def _has_children(self, name: str) -> bool:
        return bool(children(self.stage.up[name].pid))

    def mongodb_uri(self) -> str:
        return self.stage.environment["MONGODB_URI"]

    def run(self, robots: Sequence[str], tasks: int) -> float:
        self.http.close()  # the server may have closed it meanwhile; the next request opens it again
        self.own_commands += 1
        begin = self.mongodb.admin.command("hello")["localTime"]
        order = itertools.cycle(robots)
        submitted: list[str] = []
        while len(submitted) < tasks:
            named = itertools.islice(order, min(BATCH, tasks - len(submitted)))
            runs = [{"robot": robot, "handler": "primes", "params": {"count": UP_TO}} for robot in named]
            submitted += [UUID(task["task_id"]).hex for task in self.post("/task/batch", {"runs": runs})["tasks"]]
        return (self._last_end(min(submitted), tasks) - begin).total_seconds()

    def _last_end(self, first: str, tasks: int) -> dt.datetime:
        """Return when the last of the tasks has succeeded, from the one with this id on."""
        deadline = time.monotonic() + LONGEST
        while any(map(self._one_in, ("QUEUED", "STARTED", "RETRY"))):
            if time.monotonic() > deadline:
                raise embedded_mongodb.StackError(f"{self.name}: tasks were not over after {LONGEST:g} s.")
            time.sleep(0.2)
        self.own_commands += 1
        ended = list(self.database.tasks_task.find({"_id": {"$gte": first}}, {"status": 1, "finished_at": 1}))
        if [task["status"] for task in ended] != ["SUCCESS"] * tasks:
            raise embedded_mongodb.StackError(f"{self.name}: not all tasks succeeded.")
        return max(task["finished_at"] for task in ended)

    def _one_in(self, status: str) -> bool:
        self.own_commands += 1
        return self.database.tasks_task.find_one({"status": status}, {"_id": 1}) is not None

    def keep(self, tasks: int) -> None:
        """Store copies of the finished tasks, as of yesterday, until there are as many."""
        stored = list(self.database.tasks_task.find())
        originals = itertools.cycle(stored)
        for number in range(0, tasks - len(stored), 1000):
            copied = itertools.islice(originals, min(1000, tasks - len(stored) - number))
            self.database.tasks_task.insert_many(
                {**task, "_id": uuid7().hex, "finished_at": task["finished_at"] - dt.timedelta(days=1)}
                for task in copied
            )

    def sent(self) -> int:
        return self.messages.stat().st_size


class FmvAsMakeRun(Fmv):
    """FMV as `make run` starts it, in a copy of the checkout: with the embedded servers of the development stack."""

    name = "FMV as `make run` has it"
    processes = ("make-run",)

    def start(self) -> str:
        self.checkout = self.stage.directory / "checkout"
        shutil.rmtree(self.checkout, ignore_errors=True)
        for part in CHECKOUT:
            shutil.copytree(stack.ROOT / part, self.checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
        self.messages = self.stage.directory / "messages"
        self.messages.write_bytes(b"")
        given = [] if self.stage.own_mongodb else ["MONGODB_URI"]
        ours = [name for name in self.stage.environment if name.startswith(("FMV_", "MONGODB_", "DJANGO_"))]
        without = [f"--unset={name}" for name in ours if name not in given]
        return self.stage.serve(
            *("make-run", "env", *without, f"--chdir={self.checkout}", "FMV_PORT={port}"),
            *("FMV_APPS=tests.bench.message_watch", f"FMV_TEST_MESSAGES={self.messages}"),
            *(sys.executable, "-m", "fmv.devstack.stack", "run"),
        )

    def mongodb_uri(self) -> str:
        lines = (self.checkout / "var" / "environment").read_text().splitlines()
        return next(shlex.split(line)[1].partition("=")[2] for line in lines if line.startswith("export MONGODB_URI="))


FIRST_WORKER = (
    *(sys.executable, "-m", "celery", "--quiet", "-A", "tests.bench.first_backend:worker"),
    *("worker", "-n", "first@%h", "-c", "2"),
)
FIRST_WEB = (
    *(sys.executable, "-m", "uvicorn", "tests.bench.first_backend:app", "--port", "{port}"),
    *("--log-level", "warning"),  # one process: with several, uvicorn leaves on Nagle's algorithm, 40 ms a response
)


def first_environment(stage: Stage) -> dict[str, str]:
    uri = with_suffix(stage.environment["MONGODB_URI"], "_first")
    return {"FIRST_MONGODB_URI": uri, "FIRST_BROKER_URL": stage.broker_url}


class FirstBackend(Backend):
    """The stand-in of the first backend on RabbitMQ."""

    name = "the first backend"
    processes = ("first-web", "first-worker")

    def start(self) -> str:
        self.marks = self.stage.directory / "marks"
        self.submitted = 0
        self.marks.write_bytes(b"")
        own = first_environment(self.stage) | {"FIRST_COUNT": str(UP_TO), "FIRST_MARKS": str(self.marks)}
        self.stage.spawn("first-worker", *FIRST_WORKER, **own)
        url = self.stage.serve("first-web", *FIRST_WEB, **own)
        self.stage.wait_until(lambda: children(self.stage.up["first-worker"].pid), "first-worker")
        return url

    def mongodb_uri(self) -> str:
        return first_environment(self.stage)["FIRST_MONGODB_URI"]

    def run(self, robots: Sequence[str], tasks: int) -> float:
        self.http.close()
        begin = time.monotonic_ns()
        for robot in itertools.islice(itertools.cycle(robots), tasks):
            self.post(f"/robot/{quote(robot)}/run")
        self.submitted += tasks
        deadline = time.monotonic() + LONGEST
        while len(lines := self.marks.read_text().splitlines()) < self.submitted:
            if time.monotonic() > deadline:
                raise embedded_mongodb.StackError(f"{self.name}: tasks were not over after {LONGEST:g} s.")
            time.sleep(0.02)
        return (int(lines[-1].split()[0]) - begin) / 1e9


@dataclass
class Series:
    """What was measured of a backend that was started once. A task's costs are the mean over all tasks."""

    first: float  # tasks a second
    next: float
    alone: float  # of one robot
    cpu: float  # seconds for a task, of all processes and servers
    messages: float  # for a task
    commands: float  # for a task
    tenth: float = 0.0  # tasks a second
    idle_commands: float = 0.0  # a second, with all tasks kept
    idle_growth: float = 0.0  # CPU while idle with all tasks kept ÷ with hardly any


def of_any(backend: Backend, tasks: int) -> Series:
    before = backend.cpu(), backend.sent(), backend.commands()
    first, next_ = (tasks / backend.run(ROBOTS, tasks) for _ in range(2))
    alone = (tasks // 2) / backend.run(ONE, tasks // 2)
    after = backend.cpu(), backend.sent(), backend.commands()
    a_task = [(now - then) / (tasks * 2 + tasks // 2) for then, now in zip(before, after, strict=True)]
    return Series(first, next_, alone, *a_task)


def of_fmv(backend: Fmv, tasks: int, seconds: int) -> Series:
    _, at_rest = idle(backend, seconds)
    found = of_any(backend, tasks)
    backend.keep((TENTH - 1) * tasks)
    found.tenth = tasks / backend.run(ROBOTS, tasks)
    found.idle_commands, busy = idle(backend, seconds)
    found.idle_growth = busy / at_rest
    return found


def idle(backend: Backend, seconds: int) -> tuple[float, float]:
    """Return the requests that MongoDB gets in a second, and the CPU time used in `seconds`, when there is no task."""
    time.sleep(QUIET)
    cpu, commands = backend.cpu(), backend.commands()
    time.sleep(seconds)
    return (backend.commands() - commands) / seconds, backend.cpu() - cpu


def measure(stage: Stage, size: Size, kind: type[Fmv] = Fmv) -> list[Figure]:
    ours: list[Series] = []
    theirs: list[Series] = []

    def measure_one(of: type[Backend]) -> None:
        backend = of(stage)
        try:
            if isinstance(backend, Fmv):
                ours.append(of_fmv(backend, size.backlog, size.idle))
            else:
                theirs.append(of_any(backend, size.backlog))
        finally:
            backend.stop()
        found = (theirs if of is FirstBackend else ours)[-1]
        say(f"  {of.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in vars(found).items() if value))

    for pair in range(size.series):
        for of in (FirstBackend, kind) if pair % 2 else (kind, FirstBackend):
            measure_one(of)

    def row(name: str, goal: str, ratios: Iterable[float]) -> Figure:
        return figure(f"{kind.name}: {name}", stage.engine, goal, list(ratios))

    n, pairs = size.backlog, list(zip(ours, theirs, strict=True))
    beside = "tasks/s ÷ the first backend's"
    return [
        row(f"{n} tasks of 100 robots: {beside}", "≥ 1", (our.first / their.first for our, their in pairs)),
        row(f"the next {n}: {beside}", "≥ 1", (our.next / their.next for our, their in pairs)),
        row(f"{n // 2} of one robot: {beside}", "≥ 1", (our.alone / their.alone for our, their in pairs)),
        row(f"tasks/s of the tenth {n} ÷ of the first {n}", "≥ 0.9", (our.tenth / our.first for our in ours)),
        row("a task's CPU ÷ the first backend's", "", (our.cpu / their.cpu for our, their in pairs)),
        row("messages for a task", "≤ 1.2", (our.messages for our in ours)),
        row("MongoDB's requests for a task", "", (our.commands for our in ours)),
        row("MongoDB's requests for a task, of the first backend", "", (their.commands for their in theirs)),
        row(f"idle with {TENTH * n} tasks: MongoDB's requests a second", "≤ 5", (our.idle_commands for our in ours)),
        row(f"idle with {TENTH * n} tasks: CPU ÷ with hardly any", "≤ 1.3", (our.idle_growth for our in ours)),
    ]
