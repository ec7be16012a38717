"""The page that runs a task on a robot: what its form submits, and what it says when it does not."""

import pytest

from fmv.accounts.permissions import Role
from tasks.models import Task
from tests.support.factories import make_robot, make_task
from tests.support.pages import TASKS, admin, messages, robot_url, text

pytestmark = pytest.mark.django_db(transaction=True)


def test_an_operator_runs_a_task_from_its_form():
    make_robot(name="Crow T. Robot")
    client, url = admin(Role.OPERATOR, username="leela"), robot_url("Crow T. Robot", "run")
    assert 'name="params.seconds"' in text(client.get(f"{url}?handler=wait"))
    form = {"params.seconds": "0.5", "params.steps": "", "priority": "9", "labels": "night"}
    answer = client.post(f"{url}?handler=wait", form)
    task = Task.objects.get()
    assert answer.headers["Location"] == f"{TASKS}{task.pk}/change/"
    assert (task.handler, task.params, task.priority) == ("wait", {"seconds": 0.5, "steps": 10}, 9)
    assert (task.robot, task.requested_by, task.labels, task.status) == ("Crow T. Robot", "leela", ["night"], "QUEUED")


def test_the_default_handler_is_offered_first():
    make_robot(name="R2")
    client = admin(Role.OPERATOR)
    assert client.get(robot_url("R2", "run")).context["handler"].name == "primes"
    assert client.post(robot_url("R2", "run"), {"params.count": ""}).status_code == 302
    assert 3_000_000 <= Task.objects.get().params["count"] <= 3_500_000


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({}, "params.seconds"),
        ({"params.seconds": "-1"}, "params.seconds"),
        ({"params.seconds": "long"}, "params.seconds"),
        ({"params.seconds": "1", "priority": "10"}, "priority"),
        ({"params.seconds": "1", "timeout": "0"}, "timeout"),
        ({"params.seconds": "1", "max_attempts": "101"}, "max_attempts"),
        ({"params.seconds": "1", "expires_at": "2020-01-01T00:00"}, "expires_at"),
        ({"params.seconds": "1", "run_at": "soon"}, "run_at"),
        ({"params.seconds": "1", "labels": "x" * 65}, "labels"),
    ],
)
def test_what_is_wrong_is_said_beside_its_field_and_nothing_is_submitted(form, field):
    make_robot(name="R2")
    answer = admin(Role.OPERATOR).post(f"{robot_url('R2', 'run')}?handler=wait", form)
    assert "No task was submitted" in text(answer)
    assert list(answer.context["form"].errors) == [field]
    assert not Task.objects.exists()


def test_a_form_that_is_sent_twice_submits_once():
    make_robot(name="R2")
    client, url = admin(Role.OPERATOR), f"{robot_url('R2', 'run')}?handler=wait"
    form = {"params.seconds": "1", "once": str(client.get(url).context["once"])}
    first, second = client.post(url, form), client.post(url, form)
    assert first.headers["Location"] == second.headers["Location"]
    other = client.post(url, form | {"params.seconds": "2"})
    assert "already sent" in text(other)
    assert Task.objects.count() == 1
    client.post(url, form | {"params.seconds": "2", "once": str(other.context["once"])})
    assert Task.objects.count() == 2


def test_a_robot_out_of_service_takes_a_task_only_when_told_so():
    make_robot(name="R2", enabled=False)
    client, url = admin(Role.OPERATOR), f"{robot_url('R2', 'run')}?handler=wait"
    answer = client.post(url, {"params.seconds": "1"})
    assert "out of service" in " ".join(answer.context["form"].errors["queue_anyway"])
    assert client.post(url, {"params.seconds": "1", "queue_anyway": "on"}).status_code == 302
    assert Task.objects.count() == 1


def test_a_task_is_run_again_with_other_words():
    make_robot(name="R2")
    task = make_task(robot="R2", status="FAILURE", params={"seconds": 7, "steps": 3})
    form = admin(Role.OPERATOR).get(f"{robot_url('R2', 'run')}?like={task.pk}").context["form"]
    assert (form["params.seconds"].value(), form["params.steps"].value()) == ("7", "3")


def test_an_unknown_handler_leads_back():
    make_robot(name="R2")
    answer = admin(Role.OPERATOR).get(f"{robot_url('R2', 'run')}?handler=<b>", follow=True)
    assert messages(answer) == ["There is no handler <b>."]
    assert "<b>." not in text(answer)
    assert admin(Role.OPERATOR).get(f"{robot_url('R2', 'run')}?like=x").status_code == 200
