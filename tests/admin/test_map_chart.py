"""Where on the picture of a map a robot is."""

import datetime as dt
import math
import re

import pytest

from robots.models import FloorPlan
from robots.positions import Position
from tasks.admin.pages import map_chart
from tasks.reports.fleet_map import Place

NOW = dt.datetime(2026, 11, 28, tzinfo=dt.UTC)


def at(x: float, y: float, theta: float | None = 0.0, name: str = "R2", state: str = "idle") -> Place:
    return Place(Position(name, x, y, theta, True, NOW, True, True, False), state)


def plan(width=200, height=100, resolution=0.05, x=0.0, y=0.0, yaw=0.0) -> FloorPlan:
    return FloorPlan(name="hall", width=width, height=height, resolution=resolution, x=x, y=y, yaw=yaw)


def pixel(picture: map_chart.Picture, dot: map_chart.Dot) -> tuple[float, float]:
    """Return over which pixel of the floor plan, column and row, the dot is."""
    a, b, c, d, e, f = map(float, re.findall(r"[-+.e0-9]+", picture.matrix.removeprefix("matrix")))
    across, down, size = dot.x - e, dot.y - f, a * d - b * c
    return (d * across - c * down) / size, (a * down - b * across) / size


@pytest.mark.parametrize(
    ("yaw", "x", "y", "column", "row"),
    [
        (0.0, -2.0 + 7.5, -1.0 + 4.0, 150, 20),  # 7.5 m to the right of the lower left corner, and 4 m above it
        (math.pi / 2, -2.0 - 4.0, -1.0 + 7.5, 150, 20),  # the picture's right points up, and its top to the left
        (math.pi, -2.0 - 7.5, -1.0 - 4.0, 150, 20),
        (-math.pi / 2, -2.0 + 4.0, -1.0 - 7.5, 150, 20),
        (
            math.pi / 6,
            -2.0 + 7.5 * math.cos(math.pi / 6) - 4 * 0.5,
            -1.0 + 7.5 * 0.5 + 4 * math.cos(math.pi / 6),
            150,
            20,
        ),
        (0.0, -2.0, -1.0, 0, 100),
        (1.0, -2.0, -1.0, 0, 100),  # the corner about which it is turned stays
    ],
)
def test_a_robot_is_over_the_pixel_of_the_floor_plan_where_it_is(yaw, x, y, column, row):
    picture = map_chart.picture([at(x, y)], plan(x=-2.0, y=-1.0, yaw=yaw))
    [dot] = picture.dots
    assert pixel(picture, dot) == pytest.approx((column, row), abs=0.01)
    assert picture.beyond == frozenset()


def test_a_floor_plan_fills_the_picture_and_its_scale_is_in_metres():
    picture = map_chart.picture([at(0, 0), at(10, 5, name="R3")], plan())
    left, right = sorted(picture.dots, key=lambda dot: dot.x)
    assert (left.x, right.x) == pytest.approx((40, 960))  # 10 m are 920 units
    assert left.y - right.y == pytest.approx(460)
    assert picture.view.step == 1
    length, text = picture.bar
    assert (length, text) == (pytest.approx(92), "1 m")
    assert [tick.text for tick in picture.columns if tick.text] == [str(x) for x in range(10)]
    assert [tick.text for tick in picture.lines if tick.text] == [str(y) for y in range(1, 5)]


def test_robots_beyond_the_floor_plan_are_named_and_not_drawn():
    places = [at(1, 1, name="Here"), at(50, 1, name="There"), at(1e300, -1e300, name="Nowhere")]
    picture = map_chart.picture(places, plan())
    assert [dot.place.position.robot for dot in picture.dots] == ["Here"]
    assert picture.beyond == {"There", "Nowhere"}


@pytest.mark.parametrize(
    "points",
    [
        [(0, 0)],
        [(-3, 7), (4, -2)],
        [(0, 0), (0, 300)],
        [(-2500, 10), (2500, 11)],
        [(1e7, 1e7), (-1e7, -1e7)],
        [(9_999_999.5, 0), (9_999_999, 0)],
        [(0.001, 0.001), (0.002, 0.001)],
    ],
)
def test_without_a_floor_plan_a_grid_is_fitted_to_the_positions(points):
    picture = map_chart.picture([at(x, y, name=f"R{n}") for n, (x, y) in enumerate(points)], None)
    view = picture.view
    assert len(picture.dots) == len(points)
    assert all(0 < dot.x < view.width and 0 < dot.y < view.height for dot in picture.dots)
    assert view.width / view.scale >= map_chart.LEAST * 0.99
    assert map_chart.LOWEST <= view.height <= map_chart.HIGHEST
    assert map_chart.LINES * 0.99 <= picture.bar[0] <= 5 * map_chart.LINES
    assert 2 <= len(picture.columns) <= 13
    assert not picture.matrix


def test_the_grid_stays_while_robots_move_a_little():
    views = {map_chart.picture([at(2 + move, 3), at(17, 9 - move, name="R3")], None).view for move in (0, 0.3, 0.9)}
    assert len(views) == 1


@pytest.mark.parametrize(
    ("theta", "turned"), [(0.0, 0.0), (math.pi / 2, -90.0), (-math.pi / 4, 45.0), (7 * math.pi, 180.0), (None, None)]
)
def test_a_heading_is_turned_against_the_clock_on_the_map(theta, turned):
    [dot] = map_chart.picture([at(0, 0, theta)], None).dots
    assert turned == (None if dot.turned is None else pytest.approx(abs(dot.turned) if turned == 180 else dot.turned))


def test_few_robots_have_their_names_and_many_have_none():
    few = map_chart.picture([at(n, 0, name=f"R{n}") for n in range(map_chart.FEW)], None)
    many = map_chart.picture([at(n, 0, name=f"R{n}") for n in range(1000)], None)
    assert {dot.label for dot in few.dots} == {f"R{n}" for n in range(map_chart.FEW)}
    assert {dot.label for dot in many.dots} == {""}
    assert (few.number, many.number) == ("some", "many")
    [long] = map_chart.picture([at(0, 0, name="x" * 64)], None).dots
    assert long.label == "x" * 23 + "…"


def test_those_that_need_a_look_are_drawn_on_top():
    places = [at(0, 0, name=state, state=state) for state in ("with_errors", "idle", "offline", "busy", "out")]
    drawn = [dot.place.state for dot in map_chart.picture(places, None).dots]
    assert drawn == ["idle", "busy", "out", "with_errors", "offline"]


def test_the_map_about_a_robot_moves_on_by_whole_lines():
    seen = {}
    for step in range(100):
        picture = map_chart.picture_about(at(step * 0.1, 0), None)
        [dot] = picture.dots
        assert 0.25 * picture.view.width < dot.x < 0.75 * picture.view.width
        seen[picture.view] = seen.get(picture.view, 0) + 1
    assert len(seen) == 3
    assert map_chart.picture_about(at(1e9, 0), None) is None
