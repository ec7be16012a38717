"""POST /task/{task_id}/priority and /move."""

import pytest

from tasks.models import Status, Task
from tasks.queue import services
from tests.support.agent_requests import Agent
from tests.support.agent_requests import submit as submit_on_robot
from tests.support.api import Api, assert_refused, problems, stored
from tests.support.factories import make_robot, make_task, make_user
from tests.support.probes import make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.fixture
def api():
    return Api(make_user("operator", username="leela", password=None))


def test_a_task_gets_another_priority(api):
    task = make_task(robot=make_robot())
    answer = api("POST", f"/task/{task.pk}/priority", {"priority": 9})
    assert (answer.status_code, answer.json()["priority"]) == (200, 9)
    assert answer.json()["history"][-1]["note"] == "priority 4 → 9 by leela"
    assert answer.content == api("GET", f"/task/{task.pk}").content


def test_a_task_comes_to_the_front(api):
    robot = make_robot()
    make_task(robot=robot, priority=9)
    task = make_task(robot=robot)
    answer = api("POST", f"/task/{task.pk}/priority/", {"front": True})
    assert (answer.status_code, answer.json()["priority"]) == (200, 10)


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ({}, "body.priority"),
        ({"front": "first"}, "body.front"),
        ({"front": True, "priority": 1}, "body.priority"),
        ({"priority": 10}, "body.priority"),
        ({"priority": -1}, "body.priority"),
        ({"priority": "4"}, "body.priority"),
        ({"priority": None}, "body.priority"),
        ({"first": True}, "body.first"),
    ],
)
def test_a_wrong_place_is_refused_and_changes_nothing(api, body, wrong):
    task = make_task(robot=make_robot())
    before = stored()
    answer = api("POST", f"/task/{task.pk}/priority", body)
    assert_refused(answer, 422)
    assert problems(answer) == [wrong]
    assert stored() == before


def test_a_task_that_is_not_to_come_to_the_front_stays_where_it_is(api):
    task = make_task(robot=make_robot())
    before = stored()
    answer = api("POST", f"/task/{task.pk}/priority", {"front": False})
    assert (answer.status_code, answer.json()["priority"]) == (200, task.priority)
    assert stored() == before


@pytest.mark.parametrize("body", [{"priority": 9}, {"front": True}])
def test_what_runs_has_no_place(api, body):
    task = make_task_in(Status.STARTED)
    before = stored()
    assert_refused(api("POST", f"/task/{task.pk}/priority", body), 409)
    assert stored() == before


def test_a_task_moves_to_a_robot_or_to_one_with_a_label(api):
    old, new = make_robot(name="Old"), make_robot(name="New", labels=["forklift"])
    for where in ({"robot": new.name}, {"label": "forklift"}):
        task = make_task(robot=old)
        answer = api("POST", f"/task/{task.pk}/move", where)
        assert (answer.status_code, answer.json()["robot"]) == (200, "New")
        assert answer.json()["history"][-1]["note"] == "moved from Old to New by leela"


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({}, 422, "Give a robot, or a label"),
        ({"robot": "New", "label": "x"}, 422, "Give a robot, or a label"),
        ({"robot": "Nobody"}, 422, "No such robot"),
        ({"robot": "Out"}, 409, "out of service"),
        ({"label": "nothing"}, 409, "No other robot with the label nothing starts tasks"),
        ({"to": "New"}, 422, "to"),
    ],
)
def test_a_wrong_move_is_refused_and_changes_nothing(api, body, status, says):
    make_robot(name="New")
    make_robot(name="Out", enabled=False, labels=["nothing"])
    task = make_task(robot=make_robot())
    before = stored()
    answer = api("POST", f"/task/{task.pk}/move", body)
    assert_refused(answer, status)
    assert says in str(answer.json()["detail"])
    assert stored() == before


def test_a_task_that_runs_on_the_robot_moves_only_where_it_can_run(api):
    task = submit_on_robot(make_robot())
    Agent.signed_in(make_robot(name="Knows", labels=["a"]))
    Agent.signed_in(make_robot(name="Does not", labels=["a"]), handlers=("drive",))
    make_robot(name="Silent", labels=["a"])
    for robot in ("Does not", "Silent"):
        answer = api("POST", f"/task/{task.pk}/move", {"robot": robot})
        assert_refused(answer, 409)
        assert answer.json()["detail"].startswith(f"{robot} cannot run turn: its agent is not signed in")
    assert api("POST", f"/task/{task.pk}/move", {"label": "a"}).json()["robot"] == "Knows"
    assert services.get(task.pk).robot == "Knows"


def test_no_task_no_place(api):
    make_robot(name="New")
    task = make_task()
    Task.objects.all().delete()
    assert_refused(api("POST", f"/task/{task.pk}/priority", {"priority": 1}), 404)
    assert_refused(api("POST", f"/task/{task.pk}/move", {"robot": "New"}), 404)
