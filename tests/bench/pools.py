"""Pools: what the same no-op tasks cost on Celery's other pools.

They run the floor's task, because FMV itself works only with prefork: each running task needs its own process, so that
a signal can interrupt its main thread and it can be killed without the others.
"""

import sys
from functools import partial
from pathlib import Path

from tests.bench.figures import Figure, Size, figure, in_turn
from tests.bench.stage import Stage
from tests.bench.tasks import by_floor, prepare, throughput
from tests.chaos.world import children

TASKS_AT_ONCE = 2
OURS = "prefork"
OTHERS = {"threads": "threads in one process", "solo": "processes of one task each, without a parent"}


def measure(stage: Stage, size: Size) -> list[Figure]:
    prepare()
    for pool in (OURS, *OTHERS):
        start(stage, pool)
    marks = stage.directory / "marks"

    def timed(pool: str) -> float:
        return throughput(marks, size.tasks, partial(submit, pool))

    return [
        figure(
            f"{about}: tasks/s ÷ {OURS}",
            stage.engine,
            "",
            in_turn(size.pairs, partial(timed, pool), partial(timed, OURS), pool),
        )
        for pool, about in OTHERS.items()
    ]


def submit(pool: str, marks: Path, robot: str) -> None:
    by_floor(marks, robot, queue=f"bare-{pool}")


def start(stage: Stage, pool: str) -> None:
    bare = [sys.executable, "-m", "celery", "--quiet", "-A", "tests.bench.floor_worker", "worker", "-P", pool]
    for number in range(TASKS_AT_ONCE if pool == "solo" else 1):
        name = f"bare-{pool}-{number}"
        stage.spawn(name, *bare, "-Q", f"bare-{pool}", "-n", f"{name}@%h", "-c", str(TASKS_AT_ONCE))
        if pool == OURS:
            stage.wait_until(lambda name=name: children(stage.up[name].pid), name)
