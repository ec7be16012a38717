"""POST /task/{task_id}/end and /free: an operator does not wait for a robot that is silent."""

import pytest

from fmv import audit
from tasks.models import Status, Task
from tests.support.api import Api
from tests.support.factories import make_robot, make_user
from tests.support.probes import PAST, make_task_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("bells")]


@pytest.fixture
def api():
    return Api(make_user("operator", username="Leela", password=None))


def on_robot(status: Status, **fields) -> Task:
    make_robot(name="R2")
    own = {"robot": "R2", "handler": "turn", "runs_on": "robot", "worker": "agent/R2", "session": "s", "attempt": 1}
    return make_task_in(status, **own | fields)


@pytest.mark.parametrize(("attempts", "status"), [(2, "RETRY"), (1, "FAILURE")])
def test_the_wait_for_a_robot_out_of_contact_ends(api, attempts, status):
    task = on_robot(Status.STARTED, out_of_contact_since=PAST, max_attempts=attempts)
    answer = api("POST", f"/task/{task.pk}/end")
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["status"], shown["out_of_contact_since"], shown["error"]["type"]) == (status, None, "AgentLost")
    assert "Leela did not wait longer" in shown["history"][-1]["note"]
    assert shown == api("GET", f"/task/{task.pk}").json()
    [entry] = audit.of("task", task.pk)
    assert (entry.action, entry.by) == ("task.end", "Leela")


@pytest.mark.parametrize(
    "fields", [{}, {"out_of_contact_since": PAST, "cancel_requested": True}], ids=["in contact", "being cancelled"]
)
def test_no_other_task_is_ended(api, fields):
    task = on_robot(Status.STARTED, **fields)
    before = Task.objects.get(pk=task.pk).history
    answer = api("POST", f"/task/{task.pk}/end")
    assert (answer.status_code, answer.json()["detail"][:35]) == (409, "Only a running task whose robot is ")
    assert Task.objects.get(pk=task.pk).history == before
    assert not audit.of("task", task.pk)


@pytest.mark.parametrize("status", [Status.REVOKED, Status.FAILURE])
def test_a_lane_that_a_task_keeps_after_its_end_is_freed(api, status, bells):
    task = on_robot(status, lane="R2/0")
    make_task_in(Status.QUEUED, robot="R2")
    answer = api("POST", f"/task/{task.pk}/free/")
    assert answer.status_code == 200
    assert answer.json()["status"] == status
    assert answer.json()["history"][-1]["note"] == "the robot stands still: lane freed by Leela"
    assert Task.objects.get(pk=task.pk).lane is None
    assert [bell[1] for bell in bells()] == ["R2"]
    [entry] = audit.of("task", task.pk)
    assert (entry.action, entry.by, entry.text) == ("task.free_lane", "Leela", "lane R2/0")
    assert api("POST", f"/task/{task.pk}/free").status_code == 409


@pytest.mark.parametrize("status", [Status.STARTED, Status.SUCCESS, Status.REVOKED])
def test_no_other_lane_is_freed(api, status):
    task = on_robot(status)
    answer = api("POST", f"/task/{task.pk}/free")
    assert (answer.status_code, answer.json()["detail"][:24]) == (409, "The task keeps no lane: ")
    assert Task.objects.get(pk=task.pk).lane == task.lane
