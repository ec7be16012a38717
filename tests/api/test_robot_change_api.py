import pytest

from robots.models import Robot
from tests.support.api import Api, assert_refused, problems, stored
from tests.support.factories import make_robot, make_task

pytestmark = pytest.mark.django_db


@pytest.fixture
def api():
    return Api("manager")


def test_only_the_fields_given_change(api):
    make_robot(name="R2", location="Naboo", labels=["a"], lanes=3, enabled=False, endpoint="http://r2.example")
    answer = api("PATCH", "/robot/R2", {"location": "Tatooine"})
    assert answer.status_code == 200
    robot = Robot.objects.get()
    assert (robot.location, robot.labels, robot.lanes, robot.enabled) == ("Tatooine", ["a"], 3, False)
    assert (robot.endpoint, robot.description) == ("http://r2.example", "Made for a test")
    assert answer.content == api("GET", "/robot/R2").content


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", "bleep"),
        ("enabled", False),
        ("lanes", 16),
        ("labels", []),
        ("labels", ["x"]),
        ("endpoint", None),
        ("endpoint", "https://r2.example"),
        ("is_great", False),
        ("name", "R2"),
    ],
)
def test_each_field_can_be_changed(api, field, value):
    make_robot(name="R2", labels=["a"], endpoint="http://old.example")
    answer = api("PATCH", "/robot/R2/", {field: value})
    assert answer.status_code == 200
    assert answer.json()[field] == value
    assert getattr(Robot.objects.get(), field) == value


def test_nothing_given_changes_nothing(api):
    robot = make_robot(name="R2", labels=["a"])
    for body in ({}, {"tasks": None, "unknown": 1}):
        answer = api("PATCH", "/robot/R2", body)
        assert answer.status_code == 200
        assert answer.json()["labels"] == ["a"]
    assert Robot.objects.get().location == robot.location


def test_a_robot_is_not_renamed(api):
    make_robot(name="R2")
    answer = api("PATCH", "/robot/R2", {"name": "R3"})
    assert answer.json()["detail"] == [
        {"loc": ["body", "name"], "msg": "A robot cannot be renamed", "type": "immutable"}
    ]
    assert Robot.objects.get().pk == "R2"


def test_nobody_but_bender_becomes_great(api):
    make_robot(name="R2")
    make_robot(name="Bender")
    assert api("PATCH", "/robot/R2", {"is_great": "yes"}).content == b'{"detail":"Not possible"}'
    assert api("PATCH", "/robot/Bender", {"is_great": "yes"}).json()["is_great"] is True
    assert not Robot.objects.get(pk="R2").is_great


def test_an_unknown_robot_is_not_found(api):
    for name in ("R2", "%00", "..", "x" * 10_000, "a%2Fb"):
        answer = api("PATCH", f"/robot/{name}", {"location": "x"})
        assert (answer.status_code, answer.content) == (404, b'{"detail":"Not Found"}')
    assert not Robot.objects.exists()


def test_bad_input_changes_nothing(api):
    make_robot(name="R2")
    make_task(robot="R2")
    before = stored()
    for body in ([], None, 5, "x", b"{", b'{"lanes":1e400}'):
        assert_refused(api("PATCH", "/robot/R2", body), 422)
    for field, value in [
        ("location", ""),
        ("location", None),
        ("location", "a\0b"),
        ("description", 5),
        ("enabled", "maybe"),
        ("enabled", None),
        ("lanes", 17),
        ("lanes", 2**70),
        ("labels", [1]),
        ("endpoint", "ftp://x"),
    ]:
        answer = api("PATCH", "/robot/R2", {"description": "changed", field: value})
        assert_refused(answer, 422)
        assert problems(answer)[0].startswith(f"body.{field}"), (field, value)
    assert stored() == before


def test_labels_of_null_leave_the_labels_as_they_are(api):
    make_robot(name="Labelled", labels=["a"])
    changed = api("PATCH", "/robot/Labelled", {"labels": None, "location": "Mars"})
    assert (changed.status_code, changed.json()["labels"], changed.json()["location"]) == (200, ["a"], "Mars")
    assert api("PATCH", "/robot/Labelled", {"labels": []}).json()["labels"] == []
