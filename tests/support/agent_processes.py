"""Agents as real processes of the file that robots get, with the skills of marking_robot.py."""

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

from fmv.devstack import stack
from robots.models import Robot
from tests.support.factories import make_token

AGENT = stack.ROOT / "robots" / "agent"
ROBOT = Path(__file__).with_name("marking_robot.py")


class Mark(NamedTuple):
    """A mark that a skill left: what it did, in which process, for which attempt; `more` is what else it says."""

    at: float
    word: str
    pid: int
    robot: str
    task: str
    attempt: int
    more: str

    @classmethod
    def read(cls, line: str) -> Self:
        at, word, pid, rest = line.split(maxsplit=3)
        found = re.fullmatch(r"'(.*)' (\S+) (\d+) ?(.*)", rest)
        assert found, line
        robot, task, attempt, more = found.groups()
        return cls(int(at) / 1e9, word, int(pid), robot, task, int(attempt), more)


class AgentProcess:
    """An agent of the robot, which can be started again; its directory stays."""

    def __init__(self, run: Callable[..., subprocess.Popen[bytes]], directory: Path, robot: Robot, url: str) -> None:
        self._run, self.robot, self.url = run, robot, url
        self.home = directory / f"agent {robot.name}"
        self.name = self.home.name
        self.log_file = directory / f"{self.name}.log"
        self.token = make_token(robot=robot.name)
        self.process: subprocess.Popen[bytes] | None = None
        self.home.mkdir(mode=0o700)
        self.store_token(self.token.text)

    def store_token(self, text: str) -> None:
        (self.home / "token").touch(0o600)
        (self.home / "token").write_text(text)

    def start(self, *options: str, python: str = sys.executable, **environment: str) -> Self:
        always = ("--home", str(self.home), "--verbose", "--stop-seconds", "3")
        command = (python, str(ROBOT), self.url, *always, *options)
        self.process = self._run(self.name, *command, PYTHONPATH=str(AGENT), **environment)
        return self

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=30)

    @property
    def log(self) -> str:
        return self.log_file.read_text() if self.log_file.exists() else ""

    def journal(self) -> list[Path]:
        """Return the files of attempts that FMV does not have the outcome of."""
        return sorted((self.home / "tasks").glob("*.json"))


def read_marks(file: Path) -> list[Mark]:
    return [Mark.read(line) for line in file.read_text().splitlines()] if file.exists() else []


def uptime() -> float:
    """Return the time by the clock of the marks."""
    return time.monotonic()
