"""Bars that the server draws: pure geometry, in units of a slot ten wide."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10

SLOT, BAR = 10, 8  # widths
LEAST = 2.0  # height of the smallest bar that stands for something


@dataclass(frozen=True)
class Part:
    """A coloured part of a bar; `kind` is its class in the style sheet."""

    kind: str
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    x: float
    title: str
    parts: list[Part]


@dataclass(frozen=True)
class Strip:
    """Bars beside each other on one scale from 0 to `top`; `middle` is the height of half of it."""

    width: int
    height: int
    top: int
    bars: list[Bar]

    @property
    def middle(self) -> float:
        return self.height / 2


def strip(columns: Sequence[tuple[str, dict[str, float]]], height: int) -> Strip:
    """Return a strip with a bar for each column: its title, and how much of which kind lies upon each other."""
    top = round_up(max((sum(values.values()) for _, values in columns), default=0))
    bars = [
        Bar(SLOT * number + (SLOT - BAR) / 2, title, _stack(values, height, top))
        for number, (title, values) in enumerate(columns)
    ]
    return Strip(SLOT * len(columns), height, top, bars)


def _stack(values: dict[str, float], height: int, top: int) -> list[Part]:
    parts, y = [], float(height)
    for kind, value in values.items():
        if value > 0:
            high = max(LEAST, height * value / top)
            y -= high
            parts.append(Part(kind, round(max(0.0, y), 1), round(high, 1)))
    return parts


def round_up(most: float) -> int:
    """Return the next number from `most` on that makes a good end of a scale: 1, 2, 3, 4, 5, 6, 8, 10, 20, …"""
    if most <= 1:
        return 1
    size = 10 ** floor(log10(most))
    return int(next(size * step for step in (1, 2, 3, 4, 5, 6, 8, 10) if size * step >= most))
