import datetime as dt

import pytest

from tasks.models import Status
from tests.support.api import Api
from tests.support.factories import make_robot, make_task

pytestmark = pytest.mark.django_db


@pytest.fixture
def api():
    return Api("viewer")


def test_it_begins_as_the_first_backend_wrote_it(api):
    make_robot(name="Bender", is_great=True, location="Earth", description="Please insert girder")
    answer = api("GET", "/robot/Bender")
    assert answer.status_code == 200
    assert answer.content.startswith(
        b'{"name":"Bender","is_great":true,"location":"Earth","description":"Please insert girder","tasks":[],'
    )


def test_a_real_name_is_percent_encoded(api):
    make_robot(name="Crow T. Robot")
    for path in ("/robot/Crow%20T.%20Robot", "/robot/Crow%20T.%20Robot/", "/robot/%43row%20T%2E%20Robot"):
        assert api("GET", path).json()["name"] == "Crow T. Robot", path


def test_a_name_is_unicode(api):
    make_robot(name="Röbi 🤖")
    assert api("GET", "/robot/R%C3%B6bi%20%F0%9F%A4%96").json()["name"] == "Röbi 🤖"


def test_times_are_in_utc_with_milliseconds(api):
    robot = make_robot(name="R2")
    profile = api("GET", "/robot/R2").json()
    for name in ("created_at", "updated_at"):
        assert profile[name].endswith("Z")
        assert len(profile[name]) == len("2026-11-23T08:00:00.000Z")
        assert abs(dt.datetime.fromisoformat(profile[name]) - robot.created_at) < dt.timedelta(milliseconds=1)


def test_a_task_begins_as_the_first_backend_wrote_it(api):
    task = make_task(robot="R2", status=Status.STARTED)
    make_robot(name="R2")
    [shown] = api("GET", "/robot/R2").json()["tasks"]
    assert list(shown.items())[:2] == [("task_id", str(task.pk)), ("status", "STARTED")]
    assert shown == api("GET", f"/task/{task.pk}").json()


def test_it_shows_the_latest_50_tasks_newest_first(api):
    make_robot(name="R2")
    tasks = [make_task(robot="R2") for _ in range(53)]
    make_task(robot="Another")
    shown = [task["task_id"] for task in api("GET", "/robot/R2").json()["tasks"]]
    assert shown == [str(task.pk) for task in tasks[:2:-1]]


def test_an_unknown_name_is_not_found(api):
    make_robot(name="R2")
    odd = "R3 r2 R2%20 %20R2 .. %2E%2E . %00 %0A %FF %ED%A0%80 a%2Fb a/b $where {} R2%252F *"
    for name in [*odd.split(), "x" * 10_000]:
        answer = api("GET", f"/robot/{name}")
        assert (answer.status_code, answer.content) == (404, b'{"detail":"Not Found"}'), name


def test_head_answers_without_a_body(api):
    make_robot(name="R2")
    assert (api("HEAD", "/robot/R2").status_code, api("HEAD", "/robot/R2").content) == (200, b"")
    assert api("HEAD", "/robot/R3").status_code == 404
