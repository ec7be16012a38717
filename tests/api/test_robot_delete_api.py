import pytest

import robots.services
from fmv.accounts.models import ApiToken
from robots.errors import UnknownRobot
from robots.models import Robot
from tasks.models import FINISHED, UNFINISHED, LogLine, Task
from tests.support.api import Api
from tests.support.factories import make_robot, make_task, make_token
from tests.support.probes import before_nth, listening

pytestmark = pytest.mark.django_db


@pytest.fixture
def api():
    return Api("manager")


def test_it_is_gone(api):
    make_robot(name="Crow T. Robot")
    answer = api("DELETE", "/robot/Crow%20T.%20Robot")
    assert (answer.status_code, answer.content) == (204, b"")
    assert "Content-Type" not in answer.headers
    assert api("DELETE", "/robot/Crow%20T.%20Robot").status_code == 404


def test_its_tokens_are_revoked(api):
    make_robot(name="R2"), make_robot(name="C3")
    agent, other = Api(make_token(robot="R2")), Api(make_token(robot="C3"))
    assert agent("GET", "/robot/").status_code == 403
    assert api("DELETE", "/robot/R2").status_code == 204
    assert agent("GET", "/robot/").status_code == 401
    assert other("GET", "/robot/").status_code == 403


def test_a_call_revokes_tokens_that_a_call_before_has_left(api):
    token = make_token(robot="R2")
    assert api("DELETE", "/robot/R2").status_code == 404
    assert ApiToken.objects.get(pk=token.pk).state == "revoked"


def test_a_token_that_is_made_meanwhile_is_revoked_too(api):
    make_robot(name="R2")
    delete = before_nth(1, "insert fmv_apitoken", lambda: robots.services.delete("R2", by="test"))
    with listening(delete), pytest.raises(UnknownRobot):
        robots.services.create_token("R2", by="test")
    assert ApiToken.objects.get().state == "revoked"


def test_its_finished_tasks_and_their_logs_go_with_it(api):
    robot, other = make_robot(), make_task(status="SUCCESS")
    for status in FINISHED:
        LogLine.objects.create(task=make_task(robot=robot, status=status).pk, attempt=1, text="done")
    kept = LogLine.objects.create(task=other.pk, attempt=1, text="kept")
    assert api("DELETE", f"/robot/{robot.name.replace(' ', '%20')}/").status_code == 204
    assert list(Task.objects.values_list("pk", flat=True)) == [other.pk]
    assert list(LogLine.objects.values_list("pk", flat=True)) == [kept.pk]


@pytest.mark.parametrize("status", UNFINISHED)
def test_it_is_refused_while_the_robot_has_unfinished_tasks(api, status):
    make_robot(name="R2")
    make_task(robot="R2", status="SUCCESS")
    make_task(robot="R2", status=status)
    answer = api("DELETE", "/robot/R2")
    assert answer.status_code == 409
    assert "unfinished tasks" in answer.json()["detail"]
    assert Robot.objects.filter(pk="R2").exists()
    assert Task.objects.count() == 2


def test_more_finished_tasks_than_go_at_a_time_go_too(api):
    make_robot(name="R2")
    Task.objects.bulk_create(
        Task(robot="R2", handler="wait", timeout=1, requested_by="test", status="SUCCESS") for _ in range(1001)
    )
    assert api("DELETE", "/robot/R2").status_code == 204
    assert not Task.objects.exists()


def test_an_unknown_robot_is_not_found(api):
    make_robot(name="R2")
    for name in ("R3", "r2", "%00", "..", "x" * 10_000, "a%2Fb", "R2%20"):
        answer = api("DELETE", f"/robot/{name}")
        assert (answer.status_code, answer.content) == (404, b'{"detail":"Not Found"}'), name
    assert Robot.objects.count() == 1


def test_the_whole_registry_is_not_deleted(api):
    make_robot()
    for path in ("/robot/", "/robot"):
        assert api("DELETE", path).status_code == 405
    assert Robot.objects.count() == 1
