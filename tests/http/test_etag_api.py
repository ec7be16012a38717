import pytest

from robots.models import Robot
from tests.support.api import Api, assert_refused
from tests.support.factories import make_robot, make_task

pytestmark = pytest.mark.django_db

BODY = {"location": "Mars", "description": "beep"}


@pytest.fixture
def api():
    make_robot(name="R2")
    return Api("manager")


def etag(api) -> str:
    return api("GET", "/robot/R2").headers["ETag"]


def test_each_change_gives_a_robot_another_etag(api):
    seen = [etag(api)]
    for method, body in (("PATCH", {"location": "Mars"}), ("PUT", BODY), ("PATCH", {"enabled": False})):
        answer = api(method, "/robot/R2", body)
        assert answer.headers["ETag"] == etag(api)
        seen.append(answer.headers["ETag"])
    assert len(set(seen)) == 4


@pytest.mark.parametrize("value", ["", '"1"', "abc", '*, "1"'])
def test_if_none_match_knows_the_star_alone(api, value):
    assert_refused(api("PUT", "/robot/R2", BODY, headers={"If-None-Match": value}), 422)


def test_creating_answers_with_the_etag(api):
    answer = api("POST", "/robot/", {"name": "C3", **BODY})
    assert answer.headers["ETag"] == api("GET", "/robot/C3").headers["ETag"]


@pytest.mark.parametrize(("method", "body"), [("PATCH", {"location": "Mars"}), ("PUT", BODY), ("DELETE", None)])
def test_a_change_of_what_has_changed_since_is_refused(api, method, body):
    old = etag(api)
    api("PATCH", "/robot/R2", {"location": "Venus"})
    make_task(robot="R2", status="SUCCESS")
    assert_refused(api(method, "/robot/R2", body, HTTP_IF_MATCH=old), 412)
    assert Robot.objects.get().location == "Venus"
    assert len(api("GET", "/robot/R2").json()["tasks"]) == 1


@pytest.mark.parametrize(
    ("method", "body", "status"), [("PATCH", {"location": "Mars"}, 200), ("PUT", BODY, 200), ("DELETE", None, 204)]
)
@pytest.mark.parametrize("form", ["{}", '"77", {}', "*"])
def test_a_change_of_what_is_as_expected_is_done(api, method, body, status, form):
    assert api(method, "/robot/R2", body, HTTP_IF_MATCH=form.format(etag(api))).status_code == status


@pytest.mark.parametrize("tag", ["1", 'W/"1"', '"one"', "", '"99999999999999999999"', "\x00"])
def test_a_tag_that_is_none_matches_nothing(api, tag):
    assert_refused(api("PATCH", "/robot/R2", {"location": "Mars"}, HTTP_IF_MATCH=tag), 412)
    assert Robot.objects.get().location == "Lab"


def test_put_only_if_new(api):
    assert_refused(api("PUT", "/robot/R2", BODY, HTTP_IF_NONE_MATCH="*"), 412)
    assert Robot.objects.get().location == "Lab"
    assert api("PUT", "/robot/C3", BODY, HTTP_IF_NONE_MATCH="*").status_code == 201


def test_put_only_if_it_exists(api):
    assert_refused(api("PUT", "/robot/C3", BODY, HTTP_IF_MATCH="*"), 412)
    assert Robot.objects.count() == 1


def test_an_operator_may_take_a_robot_out_of_service_and_change_nothing_else(api):
    operator = Api("operator")
    assert operator("PATCH", "/robot/R2", {"enabled": False}).json()["enabled"] is False
    assert_refused(operator("PATCH", "/robot/R2", {"enabled": True, "location": "Mars"}), 403)
    assert Robot.objects.get().enabled is False
    assert_refused(Api("viewer")("PATCH", "/robot/R2", {"enabled": True}), 403)


@pytest.mark.parametrize("name", ["%20x%0Ay%20", "a" * 65, ".."])
def test_put_only_if_new_takes_no_name_that_others_would_not(api, name):
    assert api("PUT", f"/robot/{name}", BODY, HTTP_IF_NONE_MATCH="*").status_code in (404, 422)
    assert Robot.objects.count() == 1


def test_a_change_of_nothing_leaves_the_etag(api):
    before = etag(api)
    assert api("PATCH", "/robot/R2", {}, HTTP_IF_MATCH=before).headers["ETag"] == before
    assert_refused(api("PATCH", "/robot/R2", {}, HTTP_IF_MATCH='"7"'), 412)
    assert_refused(api("PATCH", "/robot/nobody", {}), 404)
