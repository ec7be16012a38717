"""Management commands as tests run them: in this process, or as real ones that can be interrupted and measured."""

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from fmv.devstack import stack
from tests.conftest import wait_until


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status, what it printed, and in a process of its own its most memory in MB."""

    status: int
    out: str
    err: str
    memory: float = 0

    def lines(self) -> list[str]:
        return self.out.splitlines()


def run(*arguments: str) -> Outcome:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    try:
        call_command(*arguments, stdout=out, stderr=err)
    except CommandError as error:
        return Outcome(error.returncode, out.getvalue(), f"{err.getvalue()}{type(error).__name__}: {error}\n")
    except SystemExit as end:
        return Outcome(int(end.code or 0), out.getvalue(), err.getvalue())
    return Outcome(0, out.getvalue(), err.getvalue())


class Process:
    """A command in a process of its own, on the database that `uri` names."""

    def __init__(self, *arguments: str, uri: str, stdin: str = "", stdout: Any = None, **environment: str) -> None:
        self._files = self._in, self._out, self._err = [tempfile.TemporaryFile("w+") for _ in range(3)]  # noqa: SIM115
        self._in.write(stdin)
        self._in.seek(0)
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "manage.py", *arguments],
            cwd=stack.ROOT,
            env=os.environ | {"MONGODB_URI": uri, "PYTHONWARNINGS": ""} | environment,
            stdin=self._in,
            stdout=stdout or self._out,
            stderr=self._err,
        )

    def wait_until(self, condition: Callable[[], object], seconds: float = 300) -> None:
        """Return once `condition` holds; fail when the command ends before."""
        wait_until(lambda: condition() or self._process.poll() is not None, seconds)
        if not condition():
            pytest.fail(f"The command ended too early: {self.ended()}")

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def first_line(self) -> str:
        """Read a line of its output, which goes to a pipe."""
        assert self._process.stdout
        return self._process.stdout.readline().decode()

    def leave(self) -> None:
        """Read no more of it."""
        assert self._process.stdout
        self._process.stdout.close()

    def ended(self) -> Outcome:
        """Wait for its end."""
        memory = 0.0
        while self._process.poll() is None:
            memory = max(memory, peak_memory(self._process.pid))
            time.sleep(0.02)
        self._out.seek(0)
        self._err.seek(0)
        outcome = Outcome(self._process.returncode, self._out.read(), self._err.read(), memory)
        for file in self._files:
            file.close()
        return outcome


def peak_memory(pid: int) -> float:
    """Return the most MB that the process has had so far, 0 once it is over.

    Not what wait4() tells of it: that begins with the memory of the process that started it.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else 0
