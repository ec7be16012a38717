"""The figures of the report: a ratio, its spread, and whether it reaches its goal."""

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    pairs: int  # at least five, except with QUICK
    seconds: int  # of requests in one measurement
    tasks: int  # in one measurement
    rounds: int  # of calls that are timed one by one
    load: int  # requests or tasks before memory is measured
    most: int  # tasks in the largest collection
    fill: float  # seconds that filling a collection may take
    series: int  # of tasks of a backend that is started anew
    backlog: int  # tasks that are submitted at once
    idle: int  # seconds
    agents: int  # that work; they are compared with a tenth of them
    claims: int  # that wait


FULL = Size(
    pairs=7,
    seconds=4,
    tasks=1000,
    rounds=30,
    load=10_000,
    most=1_000_000,
    fill=1800,
    series=5,
    backlog=1000,
    idle=60,
    agents=1000,
    claims=500,
)
QUICK = Size(
    pairs=3,
    seconds=2,
    tasks=200,
    rounds=10,
    load=1000,
    most=10_000,
    fill=240,
    series=2,
    backlog=300,
    idle=10,
    agents=100,
    claims=50,
)


@dataclass(frozen=True)
class Figure:
    """`ratio` is the median of the pairs, `low` and `high` are the lowest and the highest.

    `goal` is like "≥ 0.6" or "≤ 2". Without a goal it is "" and `met` is None.
    """

    name: str
    ratio: float
    low: float
    high: float
    goal: str
    met: bool | None
    engine: str


def figure(name: str, engine: str, goal: str, ratios: Sequence[float]) -> Figure:
    ratio = statistics.median(ratios)
    return Figure(
        name, round(ratio, 3), round(min(ratios), 3), round(max(ratios), 3), goal, reaches(ratio, goal), engine
    )


def reaches(ratio: float, goal: str) -> bool | None:
    if not goal:
        return None
    sign, limit = goal.split()
    return ratio >= float(limit) if sign == "≥" else ratio <= float(limit)


def in_turn(pairs: int, ours: Callable[[], float], theirs: Callable[[], float], name: str = "") -> list[float]:
    """Return ours / theirs for each pair; every other pair begins with theirs."""
    ours()  # to fill the caches
    theirs()
    ratios = []
    for number in range(pairs):
        if number % 2:
            divisor, dividend = theirs(), ours()
        else:
            dividend, divisor = ours(), theirs()
        ratios.append(dividend / divisor)
        say(f"  {name}: {ratios[-1]:.2f}")
    return ratios


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
