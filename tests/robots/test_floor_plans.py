"""Floor plans: stored, changed and deleted, with an entry of the audit for each."""

import pytest

from fmv.audit.models import AuditEntry
from fmv.errors import InvalidInput
from robots import floor_plans
from robots.models import FloorPlan
from robots.plan_files import Placement, read_picture
from tests.support.plan_files import png
from tests.support.probes import listening

pytestmark = pytest.mark.django_db

HERE, THERE = Placement(0.05, -1.0, 2.0, 0.5), Placement(0.1, 0.0, 0.0, 0.0)


def entries() -> list[tuple[str, str, str]]:
    return [(entry.action, entry.key, entry.text) for entry in AuditEntry.objects.filter(kind="plan").order_by("id")]


def test_a_plan_is_stored_changed_and_deleted():
    first, second = read_picture(png(20, 10)), read_picture(png(30, 40))
    assert floor_plans.store("hall", HERE, first, by="fry")
    plan = floor_plans.find("hall")
    assert (plan.width, plan.height, plan.resolution, plan.x, plan.y, plan.yaw) == (20, 10, 0.05, -1.0, 2.0, 0.5)
    assert plan.changed_by == "fry"
    assert floor_plans.picture_of("hall") == (plan.digest, first.png)
    assert not floor_plans.store("hall", THERE, None, by="leela")
    moved = floor_plans.find("hall")
    assert (moved.digest, moved.resolution, moved.changed_by) == (plan.digest, 0.1, "leela")
    assert not floor_plans.store("hall", THERE, second, by="leela")
    assert floor_plans.picture_of("hall") == (floor_plans.digest_of("hall"), second.png)
    assert floor_plans.names() == ["hall"]
    assert floor_plans.delete("hall", by="amy")
    assert not floor_plans.delete("hall", by="amy")
    assert (floor_plans.find("hall"), floor_plans.picture_of("hall"), floor_plans.names()) == (None, None, [])
    assert entries() == [
        ("plan.create", "hall", "20 by 10 pixels; 0.05 m per pixel; origin -1, 2; yaw 0.5"),
        ("plan.change", "hall", "the same picture; 0.1 m per pixel; origin 0, 0; yaw 0"),
        ("plan.change", "hall", "30 by 40 pixels; 0.1 m per pixel; origin 0, 0; yaw 0"),
        ("plan.delete", "hall", ""),
    ]


@pytest.mark.parametrize("name", ["", "hall 3/west", "搬送", "x" * 200])
def test_a_map_may_have_any_name_that_robots_report(name):
    floor_plans.store(name, HERE, read_picture(png()), by="fry")
    assert floor_plans.names() == [name]
    assert floor_plans.find(name).name == name


@pytest.mark.parametrize(
    ("name", "field", "with_picture"), [("x" * 201, "map", True), ("a\0b", "map", True), ("hall", "image", False)]
)
def test_what_cannot_be_stored_is_refused_and_changes_nothing(name, field, with_picture):
    picture = read_picture(png()) if with_picture else None
    with pytest.raises(InvalidInput) as error:
        floor_plans.store(name, HERE, picture, by="fry")
    assert [problem.loc for problem in error.value.problems] == [("body", field)]
    assert not FloorPlan.objects.exists()
    assert entries() == []


def test_there_are_so_many_plans_at_most_and_those_there_are_can_be_replaced(monkeypatch):
    monkeypatch.setattr(floor_plans, "MAX_PLANS", 2)
    picture = read_picture(png())
    for name in ("a", "b", "a", "b"):
        floor_plans.store(name, HERE, picture, by="fry")
    with pytest.raises(InvalidInput, match="There are 2 floor plans"):
        floor_plans.store("c", HERE, picture, by="fry")
    assert floor_plans.names() == ["a", "b"]


def test_where_a_plan_lies_is_read_without_its_picture():
    floor_plans.store("hall", HERE, read_picture(png(2000, 1500)), by="fry")
    with listening() as commands:
        assert floor_plans.find("hall").width == 2000
        assert floor_plans.digest_of("hall")
    assert len(commands.sent) == 2
    assert sum(len(repr(answer)) for answer in commands.answers) < 3000
