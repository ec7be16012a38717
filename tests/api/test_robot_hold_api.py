"""POST /robot/{name}/hold and /release."""

import pytest

from robots.models import MAX_REASON, Robot
from tests.support.api import Api, assert_refused, problems, stored
from tests.support.factories import make_robot, make_user

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.fixture
def api():
    return Api(make_user("operator", username="leela", password=None))


def test_a_queue_is_held_and_released(api):
    make_robot(name="R2")
    answer = api("POST", "/robot/R2/hold", {"why": "The lift is being repaired"})
    assert answer.status_code == 200
    held = answer.json()["hold"]
    assert (held["by"], held["why"]) == ("leela", "The lift is being repaired")
    assert held["since"].endswith("Z")
    assert answer.content == api("GET", "/robot/R2").content
    assert answer.headers["ETag"] == api("GET", "/robot/R2").headers["ETag"]
    released = api("POST", "/robot/R2/release/")
    assert (released.status_code, released.json()["hold"]) == (200, None)
    assert released.content == api("GET", "/robot/R2").content


@pytest.mark.parametrize("body", [b"", b"null", b"{}", {"why": ""}, {"why": "  "}])
def test_a_reason_may_be_missing(api, body):
    make_robot(name="R2")
    answer = api("POST", "/robot/R2/hold", body)
    assert (answer.status_code, answer.json()["hold"]["why"]) == (200, "")


@pytest.mark.parametrize("body", [{"why": "x" * (MAX_REASON + 1)}, {"why": 1}, {"reason": "x"}, {"why": None}])
def test_a_wrong_body_is_refused_and_changes_nothing(api, body):
    make_robot(name="R2")
    before = stored()
    answer = api("POST", "/robot/R2/hold", body)
    assert_refused(answer, 422)
    assert problems(answer) == [f"body.{name}" for name in body]
    assert stored() == before


def test_a_name_with_blanks_is_percent_encoded(api):
    make_robot(name="Crow T. Robot")
    assert api("POST", "/robot/Crow%20T.%20Robot/hold").status_code == 200
    assert Robot.objects.get().held_by == "leela"


def test_what_another_holds_is_refused(api):
    make_robot(name="R2")
    Api("operator")("POST", "/robot/R2/hold", {"why": "Mine"})
    before = stored()
    answer = api("POST", "/robot/R2/hold", {"why": "No, mine"})
    assert_refused(answer, 409)
    assert "(“Mine”) since" in answer.json()["detail"]
    assert stored() == before


def test_no_robot_no_hold(api):
    for path in ("hold", "release"):
        assert_refused(api("POST", f"/robot/R2/{path}"), 404)


def test_a_replaced_robot_keeps_its_hold(api):
    make_robot(name="R2")
    api("POST", "/robot/R2/hold", {"why": "Mine"})
    answer = Api("manager")("PUT", "/robot/R2", {"location": "x", "description": "y"})
    assert answer.json()["hold"]["why"] == "Mine"
