from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from robots.models import Robot
from tests.support.api import Api, assert_refused, problems, stored
from tests.support.factories import make_robot, make_task

pytestmark = pytest.mark.django_db

BODY = {"location": "Tatooine", "description": "beep"}


@pytest.fixture
def api():
    return Api("manager")


def test_a_new_robot_is_created(api):
    answer = api("PUT", "/robot/Crow%20T.%20Robot", BODY)
    assert answer.status_code == 201
    assert list(answer.json().items())[:5] == [
        ("name", "Crow T. Robot"),
        ("is_great", False),
        ("location", "Tatooine"),
        ("description", "beep"),
        ("tasks", []),
    ]
    assert Robot.objects.get().pk == "Crow T. Robot"


def test_an_existing_one_becomes_exactly_this(api):
    before = make_robot(name="R2", enabled=False, lanes=3, labels=["a"], endpoint="http://r2.example", is_great=False)
    task = make_task(robot="R2")
    answer = api("PUT", "/robot/R2/", BODY | {"lanes": 2})
    assert answer.status_code == 200
    assert [shown["task_id"] for shown in answer.json()["tasks"]] == [str(task.pk)]
    robot = Robot.objects.get()
    assert (robot.location, robot.enabled, robot.lanes, robot.labels, robot.endpoint) == ("Tatooine", True, 2, [], None)
    assert robot.updated_at > before.updated_at
    assert abs((robot.created_at - before.created_at).total_seconds()) < 0.001


def test_doing_it_twice_changes_nothing_more(api):
    first, second, third = [api("PUT", "/robot/R2", BODY) for _ in range(3)]
    assert [first.status_code, second.status_code, third.status_code] == [201, 200, 200]
    without_time = [{**answer.json(), "updated_at": None} for answer in (first, second, third)]
    assert without_time[0] == without_time[1] == without_time[2]
    assert Robot.objects.count() == 1


def test_the_name_in_the_body_may_only_repeat_the_path(api):
    assert api("PUT", "/robot/R2", BODY | {"name": "R2"}).status_code == 201
    for name in ("R3", "r2", "", None, 5):
        answer = api("PUT", "/robot/R2", BODY | {"name": name})
        assert problems(answer) == ["body.name"], name
    assert Robot.objects.count() == 1


def test_a_name_that_cannot_be_is_refused(api):
    odd = "%00 a%00b %0A a%0A a%0Db %20 %20a a%20 .. %2E%2E . %7F a%C2%85b %E2%80%A8"
    for name in [*odd.split(), "x" * 65, "x" * 10_000]:
        answer = api("PUT", f"/robot/{name}", BODY)
        assert_refused(answer, 422)
        assert set(problems(answer)) == {"path.name"}, name
    assert not Robot.objects.exists()


@pytest.mark.parametrize("name", ["a%2Fb", "a/b", "%2F", "..%2F..%2Fhealth"])
def test_a_slash_is_no_part_of_a_name(api, name):
    assert_refused(api("PUT", f"/robot/{name}", BODY), 404)
    assert not Robot.objects.exists()


def test_nobody_but_bender_is_great(api):
    make_robot(name="R2")
    for name in ("R2", "R3"):
        answer = api("PUT", f"/robot/{name}", BODY | {"is_great": True})
        assert (answer.status_code, answer.content) == (400, b'{"detail":"Not possible"}')
    assert api("PUT", "/robot/Bender", BODY | {"is_great": True}).json()["is_great"] is True
    assert not Robot.objects.get(pk="R2").is_great


def test_bad_input_changes_nothing(api):
    make_robot(name="R2", location="Naboo")
    before = stored()
    for body in ({}, {"location": "x"}, BODY | {"lanes": 0}, BODY | {"location": 5}, [], None, "x", b"{", b""):
        assert_refused(api("PUT", "/robot/R2", body), 422)
    assert stored() == before


def test_unknown_fields_are_ignored(api):
    assert api("PUT", "/robot/R2", BODY | {"tasks": None, "$set": 1, "created_at": "x"}).status_code == 201


def test_of_many_at_once_one_creates_and_the_rest_replace(api):
    def put(caller):
        try:
            return caller("PUT", "/robot/R2", BODY).status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(put, [Api("manager") for _ in range(8)]))
    assert sorted(statuses) == [*[200] * 7, 201]
