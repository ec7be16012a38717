"""The picture of a map: pure geometry, in units of its own. x points to the right and y up, both in metres."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robots.models import FloorPlan
from robots.positions import Position
from tasks.reports.fleet_map import STATES, Place

WIDTH, LOWEST, HIGHEST = 1000.0, 380.0, 720.0  # of the picture; its height depends on the map
NEAR_WIDTH, NEAR_HEIGHT, NEAR = 600.0, 260.0, 24.0  # of the picture about one robot, which is so many metres wide
MARGIN = 0.04  # of the width and height, left free about what is shown
LEAST = 10.0  # metres across, at least, of a map without a floor plan
LINES = 90.0  # units from one line of the grid to the next, at least
FARTHEST = 1e7  # metres; a position that is farther away is not drawn
EDGE = 36.0  # units from the edge of the picture, within which no line has a number
FEW = 30  # robots that are drawn with their names
MAX_LABEL = 24  # characters of a name
STEPS = (1, 2, 5, 10)

Point = tuple[float, float]


@dataclass(frozen=True)
class View:
    """The part of a map that a picture shows: its left and upper edge in metres, and how many units a metre has."""

    left: float
    top: float
    scale: float
    width: float
    height: float

    def place(self, x: float, y: float) -> Point:
        """Return where in the picture a point of the map is."""
        return (x - self.left) * self.scale, (self.top - y) * self.scale

    def shows(self, x: float, y: float) -> bool:
        across, down = self.place(x, y)
        return 0 <= across <= self.width and 0 <= down <= self.height

    @property
    def step(self) -> float:
        """Metres from one line of the grid to the next: 1, 2 or 5 of a power of ten."""
        least = LINES / self.scale
        size = 10.0 ** math.floor(math.log10(least))
        return next(size * step for step in STEPS if size * step >= least * (1 - 1e-9))


@dataclass(frozen=True)
class Dot:
    """A robot in the picture. `turned`: degrees, clockwise, from pointing to the right; None if unknown."""

    place: Place
    x: float
    y: float
    turned: float | None
    label: str
    #: whether the label is at the left, because there is no room at the right
    flipped: bool


@dataclass(frozen=True)
class Tick:
    at: float
    text: str
    #: one of two is left out where there is little room
    minor: bool


@dataclass(frozen=True)
class Picture:
    view: View
    plan: FloorPlan | None
    dots: list[Dot]
    #: robots that are not drawn, because they are beyond the floor plan
    beyond: frozenset[str] = frozenset()

    @property
    def grid(self) -> str:
        """The SVG path of the grid."""
        columns = (f"M{tick.at:.1f} 0V{self.view.height:.1f}" for tick in self.columns)
        return "".join([*columns, *(f"M0 {tick.at:.1f}H{self.view.width:.1f}" for tick in self.lines)])

    @property
    def columns(self) -> list[Tick]:
        """Where the vertical lines of the grid are, with their x."""
        view = self.view
        return [
            Tick(at := view.place(metres, 0)[0], text if EDGE <= at <= view.width - 2 * EDGE else "", minor)
            for metres, text, minor in _marks(view.left, view.left + view.width / view.scale, view.step)
        ]

    @property
    def lines(self) -> list[Tick]:
        """Where the horizontal lines of the grid are, with their y."""
        view = self.view
        return [
            Tick(at := view.place(0, metres)[1], text if EDGE <= at <= view.height - EDGE else "", minor)
            for metres, text, minor in _marks(view.top - view.height / view.scale, view.top, view.step)
        ]

    @property
    def bar(self) -> tuple[float, str]:
        """The length of the scale bar, and what it says."""
        return self.view.step * self.view.scale, f"{self.view.step:g} m"

    @property
    def bar_at(self) -> Point:
        """Where the scale bar begins: it ends at the lower right."""
        return self.view.width - 20 - self.bar[0], self.view.height - 36

    @property
    def matrix(self) -> str:
        """The SVG transform that puts the pixels of the floor plan where they lie on the map."""
        if self.plan is None:
            return ""
        plan, view = self.plan, self.view
        unit = plan.resolution * view.scale  # units a pixel
        cos, sin = unit * math.cos(plan.yaw), unit * math.sin(plan.yaw)
        left, lower = view.place(plan.x, plan.y)  # of the lower left corner, from which a pixel's row counts downwards
        numbers = (cos, -sin, sin, cos, left - sin * plan.height, lower - cos * plan.height)
        return f"matrix({' '.join(f'{number:.7g}' for number in numbers)})"

    @property
    def number(self) -> str:
        """How many robots are drawn, in a word for their size."""
        return "few" if len(self.dots) <= 10 else "some" if len(self.dots) <= FEW else "many"


def picture(places: Sequence[Place], plan: FloorPlan | None) -> Picture:
    """Return the picture of a map: of its whole floor plan, or of all positions if there is none."""
    near = [place for place in places if _is_near(place.position)]
    points = _corners(plan) if plan else [(place.position.x, place.position.y) for place in near]
    view = _fitted(points, snapped=plan is None)
    drawn = [place for place in near if view.shows(place.position.x, place.position.y)]
    named = len(drawn) <= FEW
    order = sorted(drawn, key=lambda place: STATES.index(place.state), reverse=True)  # those that matter most on top
    beyond = frozenset(place.position.robot for place in places) - {place.position.robot for place in drawn}
    return Picture(view, plan, [_dot(place, view, named) for place in order], beyond)


def picture_about(place: Place, plan: FloorPlan | None) -> Picture | None:
    """Return the picture of the map about a robot; None if it is too far away. It moves on by whole lines of the grid.

    Otherwise the map would move, not the robot.
    """
    if not _is_near(place.position):
        return None
    scale = NEAR_WIDTH / NEAR
    view = View(0, 0, scale, NEAR_WIDTH, NEAR_HEIGHT)
    x, y = (round(metres / view.step) * view.step for metres in (place.position.x, place.position.y))
    view = View(x - NEAR / 2, y + NEAR_HEIGHT / scale / 2, scale, NEAR_WIDTH, NEAR_HEIGHT)
    return Picture(view, plan, [_dot(place, view, named=False)])


def _is_near(position: Position) -> bool:
    return abs(position.x) <= FARTHEST and abs(position.y) <= FARTHEST


def _corners(plan: FloorPlan) -> list[Point]:
    cos, sin = math.cos(plan.yaw), math.sin(plan.yaw)
    wide, high = plan.width * plan.resolution, plan.height * plan.resolution
    sides = ((0.0, 0.0), (wide, 0.0), (0.0, high), (wide, high))
    return [(plan.x + cos * u - sin * v, plan.y + sin * u + cos * v) for u, v in sides]


def _fitted(points: Iterable[Point], *, snapped: bool) -> View:
    """Return a view of all these points. `snapped`: its edges lie on round numbers, so that it seldom moves."""
    points = list(points) or [(0.0, 0.0)]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    bottom, top = min(y for _, y in points), max(y for _, y in points)
    if snapped:
        size = max(right - left, top - bottom, LEAST)
        unit = 10.0 ** math.floor(math.log10(size)) / 5
        left, bottom = (math.floor(edge / unit) * unit for edge in (left, bottom))
        right, top = (math.ceil(edge / unit) * unit for edge in (right, top))
        left, right = _widened(left, right)
        bottom, top = _widened(bottom, top)
    wide, high = right - left, top - bottom
    scale = (1 - 2 * MARGIN) * min(WIDTH / wide, HIGHEST / high)
    height = min(HIGHEST, max(LOWEST, high * scale / (1 - 2 * MARGIN)))
    return View((left + right - WIDTH / scale) / 2, (bottom + top + height / scale) / 2, scale, WIDTH, height)


def _widened(low: float, high: float) -> Point:
    middle = (low + high) / 2
    return min(low, middle - LEAST / 2), max(high, middle + LEAST / 2)


def _dot(place: Place, view: View, named: bool) -> Dot:
    position = place.position
    x, y = view.place(position.x, position.y)
    turned = None if position.theta is None else -math.degrees(math.remainder(position.theta, math.tau))
    name = position.robot if len(position.robot) <= MAX_LABEL else f"{position.robot[: MAX_LABEL - 1]}…"
    return Dot(place, x, y, turned, name if named else "", flipped=x > 0.7 * view.width)


def _marks(begin: float, end: float, step: float) -> list[tuple[float, str, bool]]:
    numbers = range(math.ceil(begin / step), math.floor(end / step) + 1)
    return [(number * step, f"{number * step:.10g}", number % 2 == 1) for number in numbers]
