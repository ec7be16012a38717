"""Tasks: no-op tasks end to end, compared with bare Celery and with Celery that sends FMV's MongoDB commands."""

import os
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from fmv.devstack import embedded_mongodb, stack
from tests.bench.figures import Figure, Size, figure, in_turn, say
from tests.bench.stage import Stage
from tests.chaos.world import children

ROBOTS = [f"Robot {number}" for number in range(50)]
Submit = Callable[[Path, str], None]


def measure(stage: Stage, size: Size) -> list[Figure]:
    prepare()
    start_workers(stage)
    marks = stage.directory / "marks"
    rate, wait = partial(throughput, marks, size.tasks), partial(latency, marks, 2 * size.rounds)
    compared: list[tuple[str, str, Callable[[Submit], float], Submit, Submit]] = [
        ("tasks/s ÷ bare Celery", "≥ 0.4", rate, by_fmv, by_celery),
        ("tasks/s ÷ Celery and its MongoDB commands", "≥ 0.7", rate, by_fmv, by_floor),
        ("submit → STARTED ÷ bare Celery", "≤ 2", wait, by_fmv, by_celery),
        ("submit → STARTED ÷ Celery and its MongoDB commands", "", wait, by_fmv, by_floor),
    ]
    found = [
        figure(name, stage.engine, goal, in_turn(size.pairs, partial(timed, ours), partial(timed, theirs), name))
        for name, goal, timed, ours, theirs in compared
    ]
    return found + shares_of_cpu(stage, size, rate)


def prepare() -> None:
    from fmv.mongodb.plan import planned_indexes
    from robots.models import Robot
    from tasks.models import Task
    from tests.bench import floor_worker

    Robot.objects.bulk_create(Robot(name=name, location="Lab", description="For the bench") for name in ROBOTS)
    floor_worker.database()[floor_worker.ROBOTS].insert_many({"_id": name} for name in ROBOTS)
    floor_worker.database().command("createIndexes", floor_worker.TASKS, indexes=planned_indexes(Task))


def start_workers(stage: Stage) -> None:
    """Start FMV's workers, and one of bare Celery with as many processes."""
    bare = [sys.executable, "-m", "celery", "--quiet", "-A", "tests.bench.floor_worker", "worker", "-Q", "bare"]
    for name in ("work1", "maintenance1"):
        stage.start(name)
    stage.spawn("bare", *bare, "-n", "bare@%h", "-c", "2")
    for name in ("work1", "maintenance1", "bare"):
        stage.wait_until(lambda name=name: children(stage.up[name].pid), name)


# One submit of each kind. A task that runs leaves one mark.


def by_fmv(marks: Path, robot: str) -> None:
    from tasks.queue import services

    services.submit({"robot": robot, "handler": "tick", "params": {"file": str(marks)}}, by="bench")


def by_celery(marks: Path, robot: str) -> None:
    from tests.bench import floor_worker

    floor_worker.noop.delay(str(marks))


def by_floor(marks: Path, robot: str, queue: str = "bare") -> None:
    from tests.bench import floor, floor_worker

    floor_worker.database()[floor_worker.ROBOTS].find_one({"_id": robot})
    floor_worker.tasks().insert_one(floor.queued(robot, "tick"))
    floor_worker.floor.apply_async((str(marks), robot), queue=queue)


# Measurements.


def throughput(marks: Path, tasks: int, submit: Submit) -> float:
    """Return the tasks a second, from the first submit to the last mark."""
    marks.write_bytes(b"")
    begin = time.monotonic()
    for number in range(tasks):
        submit(marks, ROBOTS[number % len(ROBOTS)])
    wait_for(marks, tasks)
    return tasks / (time.monotonic() - begin)


def latency(marks: Path, rounds: int, submit: Submit) -> float:
    """Return the median seconds from a submit to the start of its task, when nothing else runs."""
    seconds = []
    for number in range(rounds):
        marks.write_bytes(b"")
        begin = time.monotonic_ns()
        submit(marks, ROBOTS[number % len(ROBOTS)])
        wait_for(marks, 1)
        seconds.append((int(marks.read_text().split()[0]) - begin) / 1e9)
        time.sleep(0.02)  # until the worker waits for messages again
    return statistics.median(seconds)


def measure_waiting(stage: Stage, size: Size) -> list[Figure]:
    """Return the shares of the steps from a submit to the start of its task, when nothing else runs."""
    prepare()
    steps, marks = stage.directory / "steps", stage.directory / "marks"
    watch = {"FMV_TEST_STEPS": str(steps), "FMV_APPS": f"{stage.environment['FMV_APPS']},tests.bench.message_watch"}
    stage.spawn("work", *stack.worker_command(2), **watch)
    stage.wait_until(lambda: children(stage.up["work"].pid), "work")
    os.environ["FMV_TEST_STEPS"] = str(steps)
    from tests.bench import message_watch  # noqa: F401 - watches what this process sends

    rounds = []
    for number in range(6 * size.rounds):
        steps.write_bytes(b"")
        marks.write_bytes(b"")
        begin = time.monotonic_ns()
        by_fmv(marks, ROBOTS[number % len(ROBOTS)])
        wait_for(marks, 1)
        at = {
            name: int(moment) for moment, name in map(str.split, (steps.read_text() + marks.read_text()).splitlines())
        }
        rounds.append([begin, *(at[name] for name in ("sent", "received", "handed-over", "start"))])
        time.sleep(0.05)  # until the worker waits for messages again
    del os.environ["FMV_TEST_STEPS"]
    found = []
    for number, name in enumerate(WAY):
        spent = [each[number + 1] - each[number] for each in rounds[1:]]
        shares = [took / (each[-1] - each[0]) for took, each in zip(spent, rounds[1:], strict=True)]
        say(f"  {name}: {statistics.median(spent) / 1e6:.2f} ms, at least {min(spent) / 1e6:.2f}")
        found.append(figure(f"submit → STARTED: share of {name}", stage.engine, "", shares))
    return found


#: the steps from a submit to the start of its task
WAY = (
    "storing the task",
    "sending the message until a worker has it",
    "handing it over to a pool process",
    "claiming the task",
)


def shares_of_cpu(stage: Stage, size: Size, rate: Callable[[Submit], float]) -> list[Figure]:
    """Return the shares of a task's CPU time, and bare Celery's part of it. The rest of the machine must be idle."""

    def spent(submit: Submit, worker: str) -> dict[str, float]:
        processes = {"the submitter": time.process_time, "the worker": partial(stage.cpu, worker), "all": busy}
        before = {name: read() for name, read in processes.items()}
        rate(submit)
        return {name: read() - before[name] for name, read in processes.items()}

    runs = [(spent(by_fmv, "work1"), spent(by_celery, "bare")) for _ in range(size.pairs)]
    for fmv, _ in runs:
        fmv["MongoDB and RabbitMQ"] = 2 * fmv["all"] - sum(fmv.values())
    names = [name for name in runs[0][0] if name != "all"]
    shares = [(f"a task's CPU: share of {name}", [fmv[name] / fmv["all"] for fmv, _ in runs]) for name in names]
    bare = [("a task's CPU: bare Celery's whole ÷ FMV's", [celery["all"] / fmv["all"] for fmv, celery in runs])]
    return [figure(name, stage.engine, "", ratios) for name, ratios in shares + bare]


def busy() -> float:
    """Return the seconds of CPU time that this machine has used: https://man7.org/linux/man-pages/man5/proc_stat.5.html"""
    user, nice, system, _, _, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def wait_for(marks: Path, count: int) -> None:
    deadline = time.monotonic() + 300
    while marks.read_bytes().count(b"\n") < count:
        if time.monotonic() > deadline:
            raise embedded_mongodb.StackError("the tasks of a measurement did not end within 300 s.")
        time.sleep(0.002)
