"""Growth: what a call costs with many tasks ÷ with few.

Each number of tasks has its own database, and the calls alternate between them. One robot has half of the tasks, a
thousand others have the rest. One task in a hundred is queued, the others have finished.
"""

import datetime as dt
import logging
import secrets
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from tests.bench.figures import Figure, Size, figure, in_turn, say
from tests.bench.stage import Stage

SIZES = (1_000, 10_000, 100_000, 1_000_000)
DAYS = 20.0  # the tasks were created evenly over this time
BUSY, OTHERS, WAITING = "Busy", 1_000, 100  # WAITING of the OTHERS have a queued task
BATCH = 5_000  # documents of one insert
MEASUREMENT_LIMIT = 2.0  # seconds; for engines that do not use indexes
GOAL = "≤ 1.3"

#: pages and lists: name -> path
API = {
    "robots": "/robot/",
    "robots by location": "/robot/?location=Lab%203",
    "robots by label": "/robot/?label=r7",
    "a robot": f"/robot/{BUSY}",
    "tasks": "/task/",
    "tasks of a robot": f"/task/?robot={BUSY}",
    "tasks by status": "/task/?status=FAILURE",
    "tasks by statuses": "/task/?status=QUEUED&status=STARTED",
    "tasks by handler": "/task/?handler=noop",
    "tasks by label": "/task/?label=night",
    "tasks by requester": "/task/?requested_by=fry",
    "tasks of a robot by status": f"/task/?robot={BUSY}&status=SUCCESS",
    "tasks made before": "/task/?created_before={middle}",
    "stats": "/stats",
}
ADMIN = {
    "dashboard": "/admin/",
    "admin: robots": "/admin/robots/robot/",
    "admin: a robot": f"/admin/robots/robot/{BUSY}/change/",
    "admin: tasks": "/admin/tasks/task/",
    "admin: failed tasks": "/admin/tasks/task/?status=FAILURE",
}


@dataclass(frozen=True)
class Filled:
    """A database and its number of tasks."""

    tasks: int
    name: str


def measure(stage: Stage, size: Size) -> list[Figure]:
    from django.conf import settings

    from tests.support.probes import recorded_bells

    settings.ALLOWED_HOSTS = ["*"]
    settings.STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    logging.disable(logging.WARNING)
    base = 10_000 if size.most > 10_000 else 1_000
    with recorded_bells():  # wake-up messages go to a broker in this process, where no worker reads them
        filled = {each.tasks: each for each in fill_all(stage, size)}
        clients = Clients(filled.values())
        return [
            figure(f"{name}: {tasks:,} ÷ {base:,} tasks", stage.engine, GOAL if tasks > base else "", ratios)
            for name, timed in calls(clients, size).items()
            for tasks in filled
            if tasks != base
            for ratios in [in_turn(size.pairs, partial(timed, filled[tasks]), partial(timed, filled[base]), name)]
        ]


# Filling.


def fill_all(stage: Stage, size: Size) -> Iterator[Filled]:
    """Fill a database for each size, except for sizes that would take longer than `size.fill` seconds."""
    rate = 0.0
    for tasks in (each for each in SIZES if each <= size.most):
        if rate and tasks / rate > size.fill:
            say(f"  {tasks:,} tasks are left out: {stage.engine} would need {tasks / rate:.0f} s to store them.")
            return
        begin = time.monotonic()
        yield fill(stage, tasks)
        rate = tasks / (time.monotonic() - begin)
        say(f"  {tasks:,} tasks stored, {rate:.0f}/s")


def fill(stage: Stage, tasks: int) -> Filled:
    from django.core.management import call_command

    from fmv.mongodb.counting import collection
    from robots.models import Robot
    from tasks.models import Tally, Task

    filled = Filled(tasks, f"{stage.database.name}_{tasks}")
    use(filled)
    call_command("migrate", interactive=False, verbosity=0)
    names = [BUSY, *(f"Robot {number}" for number in range(OTHERS))]
    Robot.objects.bulk_create(
        Robot(name=name, location=f"Lab {number % 50}", labels=[f"r{number % 50}"], description="For the bench")
        for number, name in enumerate(names)
    )
    batch: list[dict[str, Any]] = []
    for document in documents(tasks, names):
        batch.append(document)
        if len(batch) == BATCH:
            collection(Task).insert_many(batch, ordered=False)
            batch = []
    collection(Task).insert_many(batch or [next(documents(1, names))], ordered=False)
    now = dt.datetime.now(dt.UTC).replace(second=0, microsecond=0)
    for until in (now - dt.timedelta(hours=2), now):
        Tally(until=until, totals=[]).save(force_insert=True)
    return filled


def documents(tasks: int, names: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the documents of the tasks, oldest first."""
    from fmv.mongodb.documents import stored_form
    from tasks.models import Task

    like = stored_form(Task(handler="noop", timeout=30.0, max_attempts=3, requested_by="leela"))
    newest = dt.datetime.now(dt.UTC)
    for number in range(tasks):
        made = newest - dt.timedelta(days=DAYS * (tasks - number) / tasks)
        yield like | document(number, made, names) | {"stored_at": made, "changed_at": made}


def document(number: int, made: dt.datetime, names: list[str]) -> dict[str, Any]:
    from fmv.mongodb.uuid7 import id_at

    robot = BUSY if number % 2 else names[1 + number // 2 % OTHERS]
    waits = number % 100 == 1 or (number % 2 == 0 and number < 2 * WAITING)
    status = "QUEUED" if waits else "FAILURE" if number % 25 == 3 else "SUCCESS"
    over = made + dt.timedelta(seconds=1)
    lines = [{"at": made, "status": "QUEUED", "attempt": 0, "note": "by leela"}]
    if not waits:
        lines += [{"at": over, "status": each, "attempt": 1, "note": ""} for each in ("STARTED", status)]
    return {
        "_id": f"{id_at(made).hex[:20]}{secrets.token_hex(6)}",
        "robot": robot,
        "handler": ("noop", "echo", "primes", "wait")[number % 4],
        "requested_by": ("leela", "fry", "bender", "amy")[number % 4],
        "labels": ["night"] if number % 10 == 0 else [],
        "status": status,
        "error": {"type": "ValueError", "message": "no", "traceback": ""} if status == "FAILURE" else None,
        "attempt": int(not waits),
        "started_at": None if waits else made,
        "finished_at": None if waits else over,
        "history": lines,
    }


def use(filled: Filled) -> None:
    """Connect Django to this database, over the connections it has."""
    from django.db import connection

    own: Any = connection
    own.ensure_connection()
    own.settings_dict["NAME"] = filled.name
    own.database = own.connection[filled.name]


# The timed calls.


class Clients:
    """A superuser's browser for each database."""

    def __init__(self, databases: Any) -> None:
        from django.test import Client

        from fmv.accounts.models import User

        self._clients = {}
        for filled in databases:
            use(filled)
            admin = User.objects.create_superuser("bench", secrets.token_hex(16))
            client = self._clients[filled] = Client()
            client.force_login(admin)

    def get(self, filled: Filled, path: str) -> None:
        from tasks.admin import dashboard

        dashboard.forget()
        answer = self._clients[filled].get(path, follow=True)
        if answer.status_code != 200:
            raise RuntimeError(f"{path} answered {answer.status_code}")

    def run(self, filled: Filled) -> None:
        url = f"/api/v1/robot/{BUSY}/run"
        answer = self._clients[filled].post(url, {"handler": "noop"}, content_type="application/json")
        if answer.status_code != 200:
            raise RuntimeError(f"{url} answered {answer.status_code}")


def calls(clients: Clients, size: Size) -> dict[str, Callable[[Filled], float]]:
    """Return the measurements by name; each returns its median seconds in the given database."""
    middle = (dt.datetime.now(dt.UTC) - dt.timedelta(days=DAYS / 2)).isoformat(timespec="milliseconds")[:23] + "Z"
    paths = {name: f"/api/v1{path.format(middle=middle)}" for name, path in API.items()} | ADMIN
    timed: dict[str, Callable[[Filled], float]] = {
        name: partial(median_of, size.rounds, seconds_of(lambda filled, path=path: clients.get(filled, path)))
        for name, path in paths.items()
    }
    timed["run"] = partial(median_of, size.rounds, seconds_of(clients.run))
    timed["claim"] = partial(median_of, size.rounds, claim)
    timed |= {
        f"periodic step: {name}": partial(median_of, size.rounds, seconds_of(step))
        for name, step in periodic_steps().items()
    }
    timed |= {
        f"PyMongo alone: {name}": partial(median_of, size.rounds, seconds_of(ask)) for name, ask in bare().items()
    }
    timed["purge of 1 %, a task"] = Purge().timed
    return timed


def median_of(rounds: int, act: Callable[[Filled], float], filled: Filled) -> float:
    """Return the median seconds of the rounds, or of those that fit into MEASUREMENT_LIMIT but at least three."""
    use(filled)
    seconds: list[float] = []
    over = time.perf_counter() + MEASUREMENT_LIMIT
    while len(seconds) < 3 or (len(seconds) < rounds and time.perf_counter() < over):
        seconds.append(act(filled))
    return statistics.median(seconds)


def seconds_of(act: Callable[[Filled], object]) -> Callable[[Filled], float]:
    def timed(filled: Filled) -> float:
        begin = time.perf_counter()
        act(filled)
        return time.perf_counter() - begin

    return timed


def periodic_steps() -> dict[str, Callable[[Filled], object]]:
    from tasks.queue import periodic
    from tasks.reports import queue_stats

    steps = (periodic.promote_due, periodic.recover_lost, periodic.expire, periodic.ring_waiting)
    return {step.__name__: lambda _, step=step: step() for step in (*steps, queue_stats.queue_age)}


def bare() -> dict[str, Callable[[Filled], object]]:
    """Return queries with PyMongo alone. Where they grow with the tasks, FMV's queries by the same index must too."""
    from fmv.mongodb.counting import collection
    from tasks.models import Task

    def newest(_: Filled, **match: str) -> object:
        return list(collection(Task).find(match).sort("_id", -1).limit(101))

    return {
        "the newest tasks": newest,
        "the newest of a robot": partial(newest, robot=BUSY),
        "one task": lambda _: collection(Task).find_one({"_id": "0"}),
    }


def claim(filled: Filled) -> float:
    """Claim the busy robot's next task and queue it again; return the seconds of the claim alone."""
    from fmv.mongodb.counting import collection
    from tasks.models import Task

    begin = time.perf_counter()
    _, [task] = Task.look(BUSY)
    task.start(lane=f"{BUSY}/0", worker="bench", message_id="", lease=30, grace=6)
    seconds = time.perf_counter() - begin
    back = {"status": "QUEUED", "lane": None, "attempt": 0, "lease_expires_at": None}
    collection(Task).update_one({"_id": task.pk.hex}, {"$set": back})
    return seconds


class Purge:
    """Deletes the oldest hundredth of the original tasks at each call."""

    def __init__(self) -> None:
        self._times: dict[Filled, int] = {}

    def timed(self, filled: Filled) -> float:
        from tasks.queue import periodic

        use(filled)
        self._times[filled] = self._times.get(filled, 0) + 1
        begin = time.perf_counter()
        purged = periodic.purge(DAYS * (1 - self._times[filled] / 100))
        return (time.perf_counter() - begin) / max(1, purged)
