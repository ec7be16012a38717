"""What claims cost that wait for a task: memory, threads, MongoDB's requests."""

import time
from dataclasses import dataclass

from fmv.devstack import embedded_mongodb, stack
from tests.bench.agents.crew import SETTLED, Crew, read_threads, requests_of
from tests.bench.agents.fleet import PACE, Pace
from tests.bench.figures import Figure, Size, figure, say
from tests.bench.memory import resident
from tests.bench.stage import Stage
from tests.chaos.world import children

WARM_UP = 4  # times that all claims wait before memory is compared: each thread keeps the most that it ever needed


@dataclass
class Waiting:
    """What was measured of a web process."""

    none: float  # MiB, when as many agents have signed in and claimed without waiting
    waiting: float  # MiB, while as many claims wait
    again: float  # MiB, while as many wait once more
    threads: float  # while they wait, more than with none
    commands: float  # requests that MongoDB gets in a second, more than with none
    cpu: float  # seconds of CPU a second, more than with none


def measure(stage: Stage, size: Size, pace: Pace = PACE) -> list[Figure]:
    claims = size.claims
    seconds = pace.wait * max(1, round(size.idle / pace.wait))  # in which each agent claims as often as every other
    measured = [of(stage, claims, seconds, pace) for _ in range(size.series)]
    for each in measured:
        say("  " + ", ".join(f"{name} {value:.4g}" for name, value in vars(each).items()))
    a_claim = [(each.waiting - each.none) * 1024 / claims for each in measured]
    about = f"{claims} waiting claims"
    return [
        figure(
            f"{about}: memory of a web process ÷ with none", stage.engine, "", [e.waiting / e.none for e in measured]
        ),
        figure(
            f"{about}: memory once more ÷ the first time",
            stage.engine,
            "≤ 1.05",
            [e.again / e.waiting for e in measured],
        ),
        figure(f"{about}: KiB of memory a claim", stage.engine, "", a_claim),
        figure(f"{about}: threads a claim", stage.engine, "≤ 1.05", [each.threads / claims for each in measured]),
        figure(f"{about}: MongoDB's requests a second", stage.engine, "", [each.commands for each in measured]),
        figure(f"{about}: cores of the web process", stage.engine, "", [each.cpu for each in measured]),
    ]


def of(stage: Stage, claims: int, seconds: float, pace: Pace) -> Waiting:
    """Measure a new web process, which has served as many agents before."""
    stage.clear()
    crew = Crew(stage, [f"Robot {number}" for number in range(claims)], pace)
    url = stage.serve("fmv", *stack.WEB, FMV_WEB_PROCESSES="1", FMV_MAX_CLAIMS=str(claims))
    [web] = children(stage.up["fmv"].pid)
    crew.start(url, "asks")
    crew.wait_for(claims, "claim")
    crew.stop()
    none, threads = resident(web), read_threads(web)
    commands, cpu = spent(stage, seconds)
    for _ in range(WARM_UP):
        let_wait(crew, url)
        leave(crew)
    found = []
    for _ in range(2):
        let_wait(crew, url)
        found.append((resident(web), read_threads(web), *spent(stage, seconds)))
        if any(answer.seconds < pace.wait for answer in crew.answers() if answer.status == 204):
            raise embedded_mongodb.StackError(f"not all of {claims} claims waited.")
        leave(crew)
    (waiting, more_threads, more_commands, more_cpu), (again, *_) = found
    return Waiting(none, waiting, again, more_threads - threads, more_commands - commands, more_cpu - cpu)


def let_wait(crew: Crew, url: str) -> None:
    """Let all agents wait."""
    crew.start(url, "waits")
    crew.wait_for(len(crew.robots), "sign-in")
    time.sleep(SETTLED)


def leave(crew: Crew) -> None:
    """End the agents; return when the server has noticed that their claims wait for nobody."""
    crew.stop()
    time.sleep(SETTLED)


def spent(stage: Stage, seconds: float) -> tuple[float, float]:
    """Return MongoDB's requests in a second, and the seconds of CPU of the web server in one."""
    commands, cpu = requests_of(stage), stage.cpu("fmv")
    time.sleep(seconds)
    return (requests_of(stage) - commands) / seconds, (stage.cpu("fmv") - cpu) / seconds
