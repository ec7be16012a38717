"""The robots of a measurement with their tokens, and the process `fleet`, which is their agents."""

import math
import sys
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from fmv.devstack import embedded_mongodb
from tests.bench.agents.fleet import NOT_NOW, NOTHING, PACE, Mark, Pace
from tests.bench.stage import Stage

LONGEST = 600.0  # seconds until all agents have got that far
SETTLED = 3.0  # seconds after the last sign-in until all claims wait
OK = (200, NOTHING, NOT_NOW)


class Crew:
    """The robots, which are stored with a token each, and their agents once `start` has been called."""

    def __init__(self, stage: Stage, robots: Sequence[str], pace: Pace = PACE) -> None:
        self.stage, self.robots, self.pace = stage, robots, pace
        self.tokens, self.marks = stage.directory / "tokens", stage.directory / "agents"
        self.tokens.write_text("\n".join(store_robots(robots)))

    def start(self, url: str, do: str) -> None:
        """Start the agents, which do what `fleet` says."""
        self.forget()
        files, pace = (str(self.tokens), str(self.marks)), map(str, self.pace)
        self.stage.spawn("fleet", sys.executable, "-m", "tests.bench.agents.fleet", url, *files, do, *pace)

    def stop(self) -> None:
        self.stage.stop("fleet")

    def forget(self) -> None:
        """Forget the answers that the agents have got."""
        self.marks.write_bytes(b"")

    def answers(self) -> list[Mark]:
        """Return the answers that the agents have got. Raises StackError if a request was refused."""
        found = [Mark.read(line) for line in self.marks.read_text().splitlines()]
        if bad := [mark for mark in found if mark.status not in OK]:
            raise embedded_mongodb.StackError(f"an agent's request was refused: {bad[0]}; there are {len(bad)} more.")
        return found

    def wait_for(self, number: int, asked: str, seconds: float = LONGEST) -> list[Mark]:
        """Return the answers to that request once there are so many. Raises StackError."""
        deadline, words = time.monotonic() + seconds, (f" {asked} 200 ".encode(), f" {asked} 204 ".encode())
        while sum(map(self.marks.read_bytes().count, words)) < number:
            if time.monotonic() > deadline:
                raise embedded_mongodb.StackError(f"there were no {number} answers to {asked} in {seconds:g} s.")
            if self.stage.up["fleet"].poll():
                raise embedded_mongodb.StackError(f"the agents ended: {self.stage.log('fleet').read_text()[-2000:]}")
            time.sleep(0.1)  # the file grows to megabytes
        return [mark for mark in self.answers() if mark.asked == asked]

    def claim_of(self, task: str, seconds: float = LONGEST) -> Mark:
        """Return the answer with that task once an agent has got it. Raises StackError."""
        deadline = time.monotonic() + seconds
        while task.encode() not in self.marks.read_bytes():
            if time.monotonic() > deadline:
                raise embedded_mongodb.StackError(f"no agent had task {task} after {seconds:g} s.")
            time.sleep(0.02)
        return next(mark for mark in self.answers() if mark.task == task)


def store_robots(names: Iterable[str]) -> list[str]:
    """Store robots; return the text of a token for each."""
    from fmv.accounts import api_tokens
    from fmv.accounts.models import ApiToken
    from robots.models import Robot

    robots = [Robot(name=name, location="Lab", description="For the bench") for name in names]
    Robot.objects.bulk_create(robots)
    tokens = [api_tokens.build_for_robot(robot.name) for robot in robots]
    ApiToken.objects.bulk_create(tokens)
    return [token.text for token in tokens]


def requests_of(stage: Stage) -> int:
    """Return the requests that MongoDB has got, with the driver's own, such as `hello`."""
    return int(stage.client.admin.command("serverStatus")["network"]["numRequests"])


def p99(values: Collection[float]) -> float:
    return sorted(values)[math.ceil(len(values) * 0.99) - 1]


def read_threads(pid: int) -> int:
    """Return the number of threads of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))
