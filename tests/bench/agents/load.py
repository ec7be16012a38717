"""What agents cost that all run a task: they renew it every 10 s and report the robot's state every 5 s."""

import statistics
import time
from dataclasses import dataclass

from fmv.devstack import stack
from tests.bench.agents.crew import Crew, p99, requests_of
from tests.bench.agents.fleet import PACE, Pace
from tests.bench.figures import Figure, Size, figure, say
from tests.bench.stage import Stage, cpu_seconds
from tests.chaos.world import children

PARAMS = {"x": 1.0, "y": 2.0}  # of `drive`
BATCH = 100  # tasks in a submission


@dataclass
class Load:
    """What was measured of a number of agents, each second."""

    web: float  # seconds of CPU, of all processes of the web server
    maintenance: float  # seconds of CPU, of the maintenance worker
    mongodb: float  # seconds of CPU; 0 when it runs elsewhere
    commands: float  # requests that MongoDB gets
    answered: float  # renewals and reports that were answered ÷ those that were due
    contact: float  # agents with which FMV was in contact at the end ÷ all
    median: float  # seconds of an answer
    p99: float


def measure(stage: Stage, size: Size, pace: Pace = PACE) -> list[Figure]:
    few, many = few_of(size), size.agents
    loads: dict[int, list[Load]] = {few: [], many: []}
    for pair in range(size.series):
        for agents in (many, few) if pair % 2 else (few, many):
            loads[agents].append(load := of(stage, agents, size.idle, pace))
            say(f"  {agents} agents: " + ", ".join(f"{name} {value:.4g}" for name, value in vars(load).items()))

    def numbers(agents: int) -> list[Figure]:
        engine = stage.engine
        return [
            figure(f"{agents} agents: cores of the web server", engine, "", [each.web for each in loads[agents]]),
            figure(
                f"{agents} agents: cores of the maintenance worker", engine, "", [e.maintenance for e in loads[agents]]
            ),
            figure(f"{agents} agents: cores of MongoDB", engine, "", [each.mongodb for each in loads[agents]]),
            figure(f"{agents} agents: MongoDB's requests a second", engine, "", [e.commands for e in loads[agents]]),
            figure(f"{agents} agents: answered ÷ due", engine, "≥ 0.99", [each.answered for each in loads[agents]]),
            figure(f"{agents} agents: in contact at the end", engine, "≥ 1", [each.contact for each in loads[agents]]),
        ]

    def growth(name: str) -> list[float]:
        pairs = zip(loads[many], loads[few], strict=True)
        return [getattr(big, name) / many / (getattr(small, name) / few) for big, small in pairs]

    beside = f"{many} agents ÷ {few}"
    return [
        *numbers(few),
        *numbers(many),
        figure(f"an agent's CPU of the web server: {beside}", stage.engine, "≤ 1.2", growth("web")),
        figure(f"an agent's requests to MongoDB: {beside}", stage.engine, "≤ 1.1", growth("commands")),
    ]


def few_of(size: Size) -> int:
    """Return how many agents the many are compared with."""
    return size.agents // 10


def of(stage: Stage, agents: int, seconds: int, pace: Pace) -> Load:
    """Measure so many agents for these seconds, on empty databases and with processes of FMV's that are new."""
    stage.clear()
    crew = Crew(stage, [f"Robot {number}" for number in range(agents)], pace)
    submit(crew.robots)
    stage.spawn("maintenance", *stack.MAINTENANCE)
    stage.wait_until(lambda: children(stage.up["maintenance"].pid), "maintenance")
    crew.start(stage.serve("fmv", *stack.WEB), "works")
    crew.wait_for(agents, "claim")
    time.sleep(pace.renew)
    crew.forget()
    before, begin = costs(stage), time.monotonic_ns()
    time.sleep(seconds)
    after, end = costs(stage), time.monotonic_ns()
    answers = [answer for answer in crew.answers() if begin <= answer.at <= end and answer.status == 200]
    contact = in_contact() / agents
    crew.stop()
    took = (end - begin) / 1e9
    due = agents * took * (1 / pace.renew + 1 / pace.report)
    latencies = [answer.seconds for answer in answers]
    spent = [(now - then) / took for then, now in zip(before, after, strict=True)]
    return Load(*spent, len(answers) / due, contact, statistics.median(latencies), p99(latencies))


def submit(robots: list[str]) -> None:
    """Submit a task for each robot that takes longer than the measurement."""
    from tasks.queue import services

    for start in range(0, len(robots), BATCH):
        some = robots[start : start + BATCH]
        services.submit([{"robot": robot, "handler": "drive", "params": PARAMS} for robot in some], by="bench")


def costs(stage: Stage) -> tuple[float, float, float, int]:
    """Return the seconds of CPU of web server, maintenance worker and MongoDB, and the requests that MongoDB got."""
    mongodb = cpu_seconds([int(stage.client.admin.command("serverStatus")["pid"])]) if stage.own_mongodb else 0.0
    return stage.cpu("fmv"), stage.cpu("maintenance"), mongodb, requests_of(stage)


def in_contact() -> int:
    """Return the number of tasks that run and whose agents FMV has heard of in time."""
    from tasks.models import Task

    return Task.objects.started().filter(out_of_contact_since=None).count()
