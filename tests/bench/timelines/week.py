"""Timelines: a week of 100 robots at 10,000 tasks a day ÷ the same week at half as many.

The fleet's week and the comparison are read from rolled-up hours, so twice the tasks should cost the same. A robot's
day reads the tasks that it shows, so twice the tasks may cost twice as much.
"""

import datetime as dt
import logging
import secrets
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.bench.figures import Figure, Size, figure, in_turn, say
from tests.bench.growth import BATCH, Clients, Filled, median_of, seconds_of, use
from tests.bench.stage import Stage

DAYS = 7
A_DAY = 100  # tasks of a robot; of the other database half as many
ROBOTS = {True: 100, False: 10}  # of a whole bench, of a quick one
FAILING = 50  # each of so many tasks fails
SAME, TWICE = "≤ 1.3", "≤ 2.2"
DAY = dt.timedelta(days=1)


def measure(stage: Stage, size: Size) -> list[Figure]:
    from django.conf import settings

    settings.ALLOWED_HOSTS = ["*"]
    settings.STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    logging.disable(logging.WARNING)
    robots = ROBOTS[size.most > 10_000]
    midnight = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    few, many = (fill(stage, robots, a_day, midnight) for a_day in (A_DAY // 2, A_DAY))
    clients = Clients([few, many])
    found = []
    for name, (path, goal) in paths(midnight).items():
        timed = partial(median_of, size.rounds, seconds_of(lambda filled, path=path: clients.get(filled, path)))
        ratios = in_turn(size.pairs, partial(timed, many), partial(timed, few), name)
        title = f"{name}: {robots * A_DAY:,} tasks a day ÷ {robots * A_DAY // 2:,}"
        found.append(figure(title, stage.engine, goal, ratios))
    return found


def paths(midnight: dt.datetime) -> dict[str, tuple[str, str]]:
    """Return what is timed: name -> (path, goal)."""

    def span(days: int) -> str:
        return f"?from={midnight - days * DAY:%Y-%m-%dT%H:%M:%SZ}&to={midnight:%Y-%m-%dT%H:%M:%SZ}"

    until = f"until={midnight:%Y-%m-%dT%H:%M:%SZ}"
    return {
        "a week of the fleet": (f"/admin/timeline/{span(DAYS)}", SAME),
        "a day of the fleet": (f"/admin/timeline/{span(1)}", SAME),
        "the week by robot": (f"/api/v1/compare?by=robot&{until}", SAME),
        "a week of a robot": (f"/api/v1/robot/Robot%200/timeline{span(DAYS)}", TWICE),
        "a day of a robot": (f"/api/v1/robot/Robot%200/timeline{span(1)}", TWICE),
        "a day of a robot, page": (f"/admin/timeline/robot/Robot%200/{span(1)}", TWICE),
    }


def fill(stage: Stage, robots: int, a_day: int, midnight: dt.datetime) -> Filled:
    from django.core.management import call_command

    from fmv.mongodb.counting import collection
    from robots.models import Robot
    from tasks.models import Task
    from tasks.reports import spans

    filled = Filled(robots * a_day * DAYS, f"{stage.database.name}_week_{a_day}")
    use(filled)
    call_command("migrate", interactive=False, verbosity=0)
    names = [f"Robot {number}" for number in range(robots)]
    Robot.objects.bulk_create(
        Robot(name=name, location=f"Hall {number % 5}", description="For the bench")
        for number, name in enumerate(names)
    )
    batch: list[dict[str, Any]] = []
    for document in documents(names, a_day, midnight):
        batch.append(document)
        if len(batch) == BATCH:
            collection(Task).insert_many(batch, ordered=False)
            batch = []
    if batch:
        collection(Task).insert_many(batch, ordered=False)
    while spans.roll_up(midnight + DAY):
        pass
    say(f"  {filled.tasks:,} tasks stored and rolled up")
    return filled


def documents(names: list[str], a_day: int, midnight: dt.datetime) -> Iterator[dict[str, Any]]:
    """Yield the documents of the tasks, oldest first: each robot's are spread evenly, and run for half of the time."""
    from fmv.mongodb.documents import stored_form
    from fmv.mongodb.uuid7 import id_at
    from tasks.models import Task

    like = stored_form(Task(handler="noop", timeout=30.0, max_attempts=3, requested_by="leela", attempt=1))
    step = DAY / a_day
    for number in range(DAYS * a_day):
        made = midnight - DAYS * DAY + number * step
        started, over = made + step / 4, made + 3 * step / 4
        for which, name in enumerate(names):
            status = "FAILURE" if (number + which) % FAILING == 0 else "SUCCESS"
            steps = ((made, "QUEUED", 0), (started, "STARTED", 1), (over, status, 1))
            times = {"stored_at": made, "changed_at": over, "started_at": started, "finished_at": over}
            yield (
                like
                | times
                | {
                    "_id": f"{id_at(made).hex[:20]}{secrets.token_hex(6)}",
                    "robot": name,
                    "status": status,
                    "history": [
                        {"at": at, "status": each, "attempt": attempt, "note": ""} for at, each, attempt in steps
                    ],
                }
            )
