"""`make bench`: what FMV costs, as ratios to the same work done without it, in one run.

Machines are noisy, so no time by itself is a result: each figure is a ratio of two measurements taken in turn, the
median of several such pairs, with the least and the greatest. `PARTS=throughput,latency,claim` runs some of the parts,
`QUICK=1` fewer and smaller pairs. MONGODB_URI names a scratch database of another MongoDB than the embedded one. The
report is a table on the terminal and `var/bench/report.json`.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fmv import embedded, stack
from tests.chaos_world import World, what_is_missing

REPORT = stack.ROOT / "var" / "bench" / "report.json"
QUICK = bool(os.environ.get("QUICK"))
PAIRS = 3 if QUICK else 7
TASKS = 200 if QUICK else 1000
ROBOTS = 50


@dataclass
class Figure:
    """`ratio`: the median of the pairs; `low`, `high`: the least and the greatest. `goal`: at least, or at most."""

    name: str
    ratio: float
    low: float
    high: float
    goal: str
    met: bool
    engine: str


def figure(name: str, engine: str, goal: str, ours: Callable[[], float], theirs: Callable[[], float]) -> Figure:
    """Measure both in turn and return ours / theirs; `goal` is like "≥ 0.4" or "≤ 2"."""
    ours()  # once for the caches
    theirs()
    ratios = []
    for _ in range(PAIRS):
        ratios.append(ours() / theirs())
        print(f"  {name}: {ratios[-1]:.2f}", file=sys.stderr)
    ratio = statistics.median(ratios)
    least, limit = goal.startswith("≥"), float(goal.split()[1])
    met = ratio >= limit if least else ratio <= limit
    return Figure(name, round(ratio, 3), round(min(ratios), 3), round(max(ratios), 3), goal, met, engine)


class Bench:
    """Submits to the workers of a World, and waits for the marks that the work leaves."""

    def __init__(self, directory: Path) -> None:
        self.marks = directory / "marks"
        self.robots = [f"Robot {number}" for number in range(ROBOTS)]

    def prepare(self) -> None:
        from robots.models import Robot
        from tests import bench_bare

        Robot.objects.bulk_create(Robot(name=name, location="Lab", description="For the bench") for name in self.robots)
        bench_bare._database()["bench_robots"].insert_many({"_id": name} for name in self.robots)
        bench_bare.collection().create_index([("status", 1), ("robot", 1), ("priority", -1), ("_id", 1)])

    # One submit of each kind; what runs leaves one mark.

    def fmv(self, robot: str) -> None:
        from robots import services as registry
        from tasks import services

        services.submit(registry.get(robot), by="bench", handler="tick", params={"file": str(self.marks)})

    def celery(self, robot: str) -> None:
        from tests import bench_bare

        bench_bare.noop.delay(str(self.marks))

    def floor(self, robot: str) -> None:
        from uuid_utils.compat import uuid7

        from tests import bench_bare

        bench_bare._database()["bench_robots"].find_one({"_id": robot})
        bench_bare.collection().insert_one({"_id": str(uuid7()), "robot": robot, "status": "QUEUED", "priority": 4})
        bench_bare.floor.delay(str(self.marks), robot)

    # Measurements.

    def throughput(self, submit: Callable[[str], None]) -> float:
        """Return tasks a second, from the first submit to the last mark."""
        self.marks.write_bytes(b"")
        begin = time.monotonic()
        for number in range(TASKS):
            submit(self.robots[number % ROBOTS])
        self._wait_for(TASKS)
        return TASKS / (time.monotonic() - begin)

    def latency(self, submit: Callable[[str], None]) -> float:
        """Return the median of seconds from a submit, with nothing else to do, to the start of what it asked for."""
        seconds = []
        for number in range(20 if QUICK else 60):
            self.marks.write_bytes(b"")
            begin = time.monotonic_ns()
            submit(self.robots[number % ROBOTS])
            self._wait_for(1)
            seconds.append((int(self.marks.read_text().split()[0]) - begin) / 1e9)
            time.sleep(0.02)  # the worker goes back to waiting
        return statistics.median(seconds)

    def claim(self, queued: int) -> float:
        """Return the median of seconds to claim a robot's next task while so many are queued for it."""
        from robots.models import Robot
        from tasks import services
        from tasks.models import Task

        name = f"{queued} queued"  # out of service, so that no worker takes part
        robot = Robot.objects.get_or_create(name=name, location="Lab", description="For the bench", enabled=False)[0]

        def fill() -> None:
            missing = queued - Task.objects.queued().of_robot(name).up_to(queued)
            new = (services.build(robot, by="bench", handler="noop", queue_anyway=True) for _ in range(missing))
            Task.objects.bulk_create(new)

        fill()
        seconds = []
        for _ in range(10 if QUICK else 30):
            begin = time.monotonic()
            task = Task.objects.claim_next(name, lane=f"{name}/0", worker="bench", message_id="", lease=30, grace=6)
            seconds.append(time.monotonic() - begin)
            task.succeed(None, "")
        fill()
        return statistics.median(seconds)

    def _wait_for(self, marks: int) -> None:
        deadline = time.monotonic() + 300
        while self.marks.read_bytes().count(b"\n") < marks:
            if time.monotonic() > deadline:
                raise embedded.StackError("the tasks of a measurement did not end within 300 s.")
            time.sleep(0.002)


def run(directory: Path, parts: list[str]) -> list[Figure]:
    own_mongodb = "MONGODB_URI" not in os.environ
    given = {} if own_mongodb else {"MONGODB_URI": os.environ["MONGODB_URI"]}
    with World(directory, processes=("work1", "maintenance1"), FMV_LOG_LEVEL="ERROR", **given) as world:
        bare = [sys.executable, "-m", "celery", "--quiet", "-A", "tests.bench_bare", "worker", "-Q", "bare"]
        world.spawn("bare", *bare, "-n", "bare@%h", "-c", "2")  # as many processes as work1 has
        os.environ.update(world.environment)
        import django

        django.setup()
        from django.db import connection

        engine = "SecantusDB (embedded)" if own_mongodb else f"MongoDB {connection.get_database_version()}"
        bench = Bench(directory)
        bench.prepare()
        figures: dict[str, list[tuple[Any, ...]]] = {
            "throughput": [
                ("tasks/s ÷ bare Celery", "≥ 0.4", bench.throughput, bench.fmv, bench.celery),
                ("tasks/s ÷ Celery and the same MongoDB commands", "≥ 0.7", bench.throughput, bench.fmv, bench.floor),
            ],
            "latency": [("accepted → STARTED ÷ bare Celery", "≤ 2", bench.latency, bench.fmv, bench.celery)],
            "claim": [("claim, 10,000 queued ÷ 10 queued", "≤ 1.3", bench.claim, 10_000, 10)],
        }
        return [
            figure(name, engine, goal, lambda m=measure, s=ours: m(s), lambda m=measure, s=theirs: m(s))
            for part in parts
            for name, goal, measure, ours, theirs in figures[part]
        ]


def main() -> int:
    known = ["throughput", "latency", "claim"]
    parts = [part for part in os.environ.get("PARTS", ",".join(known)).split(",") if part]
    if unknown := set(parts) - set(known):
        print(f"bench: PARTS has no {', '.join(sorted(unknown))}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    if missing := what_is_missing():
        print(f"bench: {missing}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="fmv-bench-") as directory:
        figures = run(Path(directory), parts)
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    REPORT.write_text(json.dumps([asdict(each) for each in figures], indent=2, ensure_ascii=False) + "\n")
    width = max(len(each.name) for each in figures)
    print(f"\n{'':{width}}  median    low   high   goal  met   on {figures[0].engine}")
    for each in figures:
        met = "yes" if each.met else "no"
        print(f"{each.name:{width}}  {each.ratio:6.2f} {each.low:6.2f} {each.high:6.2f} {each.goal:>6}  {met}")
    print(f"\nThe report is in {REPORT.relative_to(stack.ROOT)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
