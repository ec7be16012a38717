"""The charts of a robot's last day: its battery, and its way on its map. Pure geometry, in units of their own."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from robots import samples
from robots.models import LOW_BATTERY

DAY = dt.timedelta(days=1)
GAP = dt.timedelta(minutes=5)  # without a sample for longer, a line is broken
BATTERY_WIDTH, BATTERY_HEIGHT = 600, 96
TRACK_WIDTH, TRACK_HEIGHT, MARGIN = 600, 300, 12

#: of an hour: when it began, the lowest charge, and the last sample
Hour = tuple[dt.datetime, float | None, dict[str, Any]]
Samples = Sequence[tuple[dt.datetime, dict[str, Any]]]
Point = tuple[float, float]


@dataclass(frozen=True)
class Battery:
    """A line of the charge over the day, from 0 to 100 %."""

    path: str
    lowest: float
    latest: float
    width: int = BATTERY_WIDTH
    height: int = BATTERY_HEIGHT
    low: float = LOW_BATTERY

    @property
    def low_at(self) -> float:
        return BATTERY_HEIGHT * (1 - LOW_BATTERY / 100)


@dataclass(frozen=True)
class Track:
    """The robot's way on the map where it was last, and where it was last: `x` and `y` in metres, `here` in units."""

    map: str
    path: str
    here: Point
    x: float
    y: float
    #: metres from one side of the chart to the other
    across: float
    width: int = TRACK_WIDTH
    height: int = TRACK_HEIGHT


def charts(robot: str, now: dt.datetime) -> dict[str, Any]:
    """Return the charts of the robot's last day, each None if it reported nothing for it, and what they show by the
    hour: one query.
    """
    found = samples.since(robot, now - DAY)
    return {"battery": battery(found, now), "track": track(found), "hours": hours(found)}


def hours(found: Samples) -> list[Hour]:
    """Return the hours with samples, the latest first."""
    by_hour: dict[dt.datetime, list[dict[str, Any]]] = {}
    for at, sample in found:
        by_hour.setdefault(at.replace(minute=0, second=0, microsecond=0), []).append(sample)
    return [
        (begun, min((each["charge"] for each in of_hour if "charge" in each), default=None), of_hour[-1])
        for begun, of_hour in reversed(by_hour.items())
    ]


def battery(found: Samples, now: dt.datetime) -> Battery | None:
    charges = [(at, sample["charge"]) for at, sample in found if "charge" in sample]
    if not charges:
        return None
    points = [
        (at, (BATTERY_WIDTH * (1 - (now - at) / DAY), BATTERY_HEIGHT * (1 - charge / 100))) for at, charge in charges
    ]
    return Battery(_path(points), min(charge for _, charge in charges), charges[-1][1])


def track(found: Samples) -> Track | None:
    places = [(at, sample) for at, sample in found if "x" in sample and "y" in sample]
    if not places:
        return None
    name = places[-1][1].get("map", "")
    way = [(at, (sample["x"], sample["y"])) for at, sample in places if sample.get("map", "") == name]
    xs, ys = [x for _, (x, _) in way], [y for _, (_, y) in way]
    wide, high = max(xs) - min(xs), max(ys) - min(ys)
    scale = max(wide / (TRACK_WIDTH - 2 * MARGIN), high / (TRACK_HEIGHT - 2 * MARGIN), 1 / TRACK_WIDTH)  # m a unit
    middle = (min(xs) + wide / 2, min(ys) + high / 2)

    def place(point: Point) -> Point:
        return TRACK_WIDTH / 2 + (point[0] - middle[0]) / scale, TRACK_HEIGHT / 2 - (point[1] - middle[1]) / scale

    path = _path([(at, place(point)) for at, point in way])
    return Track(name, path, place(way[-1][1]), *way[-1][1], across=TRACK_WIDTH * scale)


def _path(points: Sequence[tuple[dt.datetime, Point]]) -> str:
    """Return an SVG path through the points, broken where more than GAP is between two."""
    parts, before = [], None
    for at, (x, y) in points:
        joined = before is not None and at - before <= GAP
        parts.append(f"L{x:.1f} {y:.1f}" if joined else f"M{x:.1f} {y:.1f}h0")  # a dot, if no line follows
        before = at
    return "".join(parts)
