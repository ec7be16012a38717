"""From a submit to the agent's claim, compared with the start of a task in a worker, which a message wakes up."""

import json
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from fmv.devstack import embedded_mongodb, stack
from tests.bench.agents.crew import SETTLED, Crew, p99, store_robots
from tests.bench.agents.fleet import PACE, Pace
from tests.bench.agents.load import few_of
from tests.bench.figures import Figure, Size, figure, in_turn, say
from tests.bench.stage import Stage
from tests.bench.tasks import wait_for
from tests.chaos.world import children

PAUSE = 0.02  # seconds after a task until its worker or agent waits again
Submit = Callable[[str, dict[str, Any]], str]  # of a task for a robot; returns its id


def measure(stage: Stage, size: Size, pace: Pace = PACE) -> list[Figure]:
    """Measure single tasks, submitted to the web process in which the claim waits and by another process."""
    agents = few_of(size)
    crew = Crew(stage, [f"Agent {number}" for number in range(agents)], pace)
    store_robots(others := [f"Robot {number}" for number in range(agents)])
    stage.start("work1")
    stage.wait_until(lambda: children(stage.up["work1"].pid), "work1")
    url = stage.serve("fmv", *stack.WEB, FMV_WEB_PROCESSES="1", FMV_MAX_CLAIMS=str(agents))
    crew.start(url, "waits")
    crew.wait_for(agents, "sign-in")
    time.sleep(SETTLED)
    marks, rounds = stage.directory / "marks", 4 * size.rounds
    ways: dict[str, Submit] = {"to the same process": partial(by_http, url), "by another process": by_service}
    found = []
    for way, submit in ways.items():
        tails: dict[str, list[float]] = {"an agent": [], "a worker": []}

        def timed(kind: str, one: Callable[[int], float], tails: dict[str, list[float]] = tails) -> float:
            seconds = [one(number) for number in range(rounds)]
            tails[kind].append(p99(seconds))
            say(f"    {kind}: {statistics.median(seconds) * 1e3:.1f} ms, p99 {tails[kind][-1] * 1e3:.1f} ms")
            return statistics.median(seconds)

        ours = partial(timed, "an agent", partial(to_agent, crew, submit))
        theirs = partial(timed, "a worker", partial(to_worker, others, submit, marks))
        name = f"submit {way} → claim"
        medians = in_turn(size.pairs, ours, theirs, name)
        p99s = [agent / worker for agent, worker in zip(tails["an agent"][1:], tails["a worker"][1:], strict=True)]
        found += [
            figure(f"{name} ÷ submit → start in a worker: median", stage.engine, "", medians),
            figure(f"{name} ÷ submit → start in a worker: p99", stage.engine, "", p99s),
            figure(f"{name}: p99 in ms", stage.engine, "", [1000 * each for each in tails["an agent"][1:]]),
        ]
    return found


def to_agent(crew: Crew, submit: Submit, number: int) -> float:
    """Return the seconds from a submit until the agent has the answer to its claim."""
    from tasks.queue.waiting import POLL_INTERVAL

    crew.forget()
    begin = time.monotonic_ns()
    task = submit(crew.robots[number % len(crew.robots)], {"handler": "turn"})
    claimed = crew.claim_of(task)
    crew.wait_for(1, "finish")
    time.sleep(PAUSE + random.uniform(0, POLL_INTERVAL))  # at any time of the poll, which has just been
    return (claimed.at - begin) / 1e9


def to_worker(robots: list[str], submit: Submit, marks: Path, number: int) -> float:
    """Return the seconds from a submit until the handler begins."""
    marks.write_bytes(b"")
    begin = time.monotonic_ns()
    submit(robots[number % len(robots)], {"handler": "tick", "params": {"file": str(marks)}})
    wait_for(marks, 1)
    time.sleep(PAUSE)
    return (int(marks.read_text().split()[0]) - begin) / 1e9


def by_http(url: str, robot: str, run: dict[str, Any]) -> str:
    http = HTTPConnection(urlsplit(url).netloc, timeout=60)
    http.request("POST", f"/api/v1/robot/{quote(robot)}/run", json.dumps(run), {"Content-Type": "application/json"})
    answer = http.getresponse()
    text = answer.read()
    http.close()
    if answer.status >= 300:
        raise embedded_mongodb.StackError(f"run answered {answer.status}: {text[:500]!r}")
    return str(json.loads(text)["task_id"])


def by_service(robot: str, run: dict[str, Any]) -> str:
    from tasks.queue import services

    return str(services.submit({"robot": robot, **run}, by="bench").pk)
