import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from typing import Any

from pydantic import BaseModel, Field, JsonValue

from tasks.registry import Context, Params, PermanentError, RetryPolicy, handler, robot_handler
from tests.support.event_marks import mark

AT_ONCE = RetryPolicy(max_attempts=3, first=0.01, longest=0.01)


class Nothing(Params):
    pass


class Echo(Params):
    value: JsonValue = None


class Mark(Params):
    """Leaves a line at its start and its end in an append-only file."""

    file: str
    seconds: float = Field(0, ge=0)
    blocks: bool = Field(False, description="Sleeps in one go and never asks.")
    fail: int = Field(0, description="How many attempts fail.")
    kill: int = Field(0, description="How many attempts kill their own process.")
    permanent: bool = Field(False, description="Fail with a PermanentError.")


@handler("noop", params=Nothing, retry=AT_ONCE)
def noop(ctx: Context[Nothing]) -> None:
    """Do nothing."""


@handler("submits", params=Nothing, retry=AT_ONCE)
def submits(ctx: Context[Nothing]) -> None:
    """Submit another task for its robot, and wait until its message is sent."""
    from fmv.publisher import publisher
    from tasks.queue import services

    services.submit({"robot": ctx.robot.name, "handler": "noop"}, by="a handler")
    publisher.flush()


@handler("echo", params=Echo, retry=AT_ONCE)
def echo(ctx: Context[Echo]) -> JsonValue:
    """Return its parameter."""
    return ctx.params.value


@handler("mark", params=Mark, retry=RetryPolicy(max_attempts=20, first=0.1, longest=1))
def marks(ctx: Context[Mark]) -> dict[str, Any]:
    """Leave marks outside MongoDB, and fail as often as told."""
    params, where = ctx.params, f"{os.getpid()} {ctx.robot.name!r} {ctx.task_id} {ctx.attempt}"
    last = "interrupted"
    try:
        mark(params.file, "start", where)
        pause(ctx, params.seconds, params.seconds if params.blocks else 0.1)
        last = "end"
    finally:
        mark(params.file, "dies" if last == "end" and ctx.attempt <= params.kill else last, where)
    if ctx.attempt <= params.kill:
        os.kill(os.getpid(), signal.SIGKILL)
    if ctx.attempt <= params.fail:
        raise (PermanentError if params.permanent else ValueError)(f"attempt {ctx.attempt} fails, as asked")
    return {"pid": os.getpid()}


def pause(ctx: Context[Any], seconds: float, step: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, step))
        ctx.check()


class Tick(Params):
    file: str


@handler("tick", params=Tick, retry=AT_ONCE)
def tick(ctx: Context[Tick]) -> None:
    """Leave one mark and do nothing."""
    mark(ctx.params.file, "start")


@handler("fails", params=Nothing, retry=AT_ONCE)
def fails(ctx: Context[Nothing]) -> None:
    """Raise, each time."""
    raise ValueError("broken on purpose")


@handler("fails-for-good", params=Nothing, retry=AT_ONCE)
def fails_for_good(ctx: Context[Nothing]) -> None:
    """Raise a PermanentError."""
    raise PermanentError("no use in trying again")


@handler("exits", params=Nothing, retry=RetryPolicy(max_attempts=1))
def exits(ctx: Context[Nothing]) -> None:
    """Call sys.exit()."""
    sys.exit(3)


@handler("dies", params=Nothing, retry=RetryPolicy(max_attempts=2))
def dies(ctx: Context[Nothing]) -> None:
    """Kill its own process: a poison task."""
    os.kill(os.getpid(), signal.SIGKILL)


@handler("sleeps", params=Nothing)
def sleeps(ctx: Context[Nothing]) -> None:
    """Block for ten minutes and never ask."""
    time.sleep(600)


@handler("stubborn", params=Nothing)
def stubborn(ctx: Context[Nothing]) -> None:
    """Swallow every interrupt."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        with contextlib.suppress(BaseException):
            time.sleep(600)


@handler("grips", params=Nothing)
def grips(ctx: Context[Nothing]) -> None:
    """Hold the GIL in C for minutes: no Python code of this process runs meanwhile."""
    pow(3, 10**9)


@handler("awaits", params=Echo, retry=AT_ONCE)
def awaits(ctx: Context[Echo]) -> str:
    """Run a coroutine that sleeps as many seconds as told."""
    return asyncio.run(asyncio.sleep(float(str(ctx.params.value or 0)), "slept"))


@handler("result", params=Echo, retry=AT_ONCE)
def result(ctx: Context[Echo]) -> Any:
    """Return something that is no JSON, or too much of it."""
    return {"nan": float("nan"), "object": object(), "large": "x" * 1_100_000, "number": 2**70}[str(ctx.params.value)]


@handler("logs", params=Echo, retry=AT_ONCE)
def logs(ctx: Context[Echo]) -> None:
    """Log as many lines as told, and report progress."""
    for number in range(int(str(ctx.params.value))):
        ctx.log(f"line {number}")
    ctx.progress(50, "half way")


@handler("speaks", params=Echo, retry=AT_ONCE)
def speaks(ctx: Context[Echo]) -> None:
    """Write to the process's own log, from another module's logger."""
    logging.getLogger("test_handlers").info("at work", extra={"params": ctx.params.value})


from tests.support.test_handlers import leavings  # noqa: E402, F401 - registers its handlers, too


class Turned(BaseModel):
    degrees: float


# Handlers that run on the robot, one for each way to be lost.
robot_handler(
    "turn",
    params=Nothing,
    result=Turned,
    timeout=60,
    lease=30,
    lost_after=100,
    retry=AT_ONCE,
    description="Turn on the spot.",
)
robot_handler(
    "grip", params=Nothing, timeout=3600, on_lost="retry", cancel_grace=20, retry=AT_ONCE, description="Grip."
)
robot_handler("pour", params=Nothing, timeout=3600, on_lost="fail", retry=AT_ONCE, description="Pour")
robot_handler("patrol", params=Nothing, timeout=3600, resume=True, retry=AT_ONCE, description="Patrol")
robot_handler(
    "carry", params=Nothing, timeout=3600, retry=RetryPolicy(max_attempts=3, first=0, longest=0), description="Carry"
)


class MarkOnRobot(Params):
    """Leaves marks as `mark` does; tests/support/marking_robot.py is the robot."""

    file: str
    seconds: float = Field(0, ge=0)
    fail: int = Field(0, description="How many attempts fail.")
    how: str = Field("", description="How it ends: never, not now, no json, exit, large, deaf or late. Empty: well.")


class Steps(Params):
    """Leaves a mark at each step."""

    file: str
    steps: int
    seconds: float = Field(0.2, ge=0, description="Of each step.")


robot_handler("robot.mark", params=MarkOnRobot, timeout=60, lease=3, retry=AT_ONCE)
robot_handler("robot.strict", params=MarkOnRobot, timeout=60, lease=3, on_lost="retry", retry=AT_ONCE)
robot_handler("robot.steps", params=Steps, timeout=60, lease=3, resume=True, retry=AT_ONCE)

# For chaos: leases that a busy machine does not lose, and attempts enough for all that happens to an agent.
OFTEN = RetryPolicy(max_attempts=20, first=0.1, longest=1)
robot_handler("robot.careful", params=MarkOnRobot, timeout=60, lease=6, on_lost="retry", retry=OFTEN)
robot_handler("robot.walk", params=Steps, timeout=120, lease=5, lost_after=5, cancel_grace=6, resume=True, retry=OFTEN)
