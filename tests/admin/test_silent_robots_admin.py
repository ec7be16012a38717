"""A task on a robot of which nothing is heard, in the admin: what it shows, and what an operator may do."""

import datetime as dt

import pytest

from fmv.accounts.permissions import Role
from fmv.templatetags.display import timestamp
from robots import agents
from tasks import registry
from tasks.admin.charts import MAX_BARS
from tasks.models import Status, Task
from tests.support.agent_requests import Agent, submit
from tests.support.factories import make_robot, make_task
from tests.support.pages import TASKS, admin, messages, robot_url, task_url, text
from tests.support.probes import FUTURE, PAST, make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def on_robot(status=Status.STARTED, **fields) -> Task:
    make_robot(name="R2")
    own = {"robot": "R2", "handler": "turn", "runs_on": "robot", "worker": "agent/R2", "session": "s"}
    return make_task_in(status, **own | fields)


def test_a_robot_out_of_contact_is_shown_and_an_operator_need_not_wait():
    task = on_robot(out_of_contact_since=PAST)
    client = admin(Role.OPERATOR)
    assert "robot out of contact" in text(client.get(TASKS))
    page = text(client.get(task_url(task)))
    assert "robot out of contact since" in page
    until = PAST + dt.timedelta(seconds=registry.get("turn").lost_after)
    assert f"FMV waits until about {timestamp(until)} to hear of it" in page
    assert f"out of contact since {timestamp(PAST)}" in text(client.get(robot_url("R2")))
    answer = client.post(f"/admin/tasks/task/{task.pk}/end/", follow=True)
    assert messages(answer) == ["The attempt is over, and the task is tried again."]
    assert Task.objects.get(pk=task.pk).status == Status.RETRY
    answer = client.post(f"/admin/tasks/task/{task.pk}/end/", follow=True)
    assert "Only a running task whose robot is out of contact" in messages(answer)[0]


def test_a_cancel_waits_for_the_robot():
    task = on_robot()
    client = admin(Role.OPERATOR)
    answer = client.post(f"/admin/tasks/task/{task.pk}/cancel/", follow=True)
    assert messages(answer) == []
    assert "cancel asked, waiting for the robot" in text(answer)
    asked = Task.objects.get(pk=task.pk).cancel_requested_at
    assert asked is not None
    until = asked + dt.timedelta(seconds=registry.get("turn").cancel_grace)
    assert f"until about {timestamp(until)} for the robot to confirm" in text(answer)
    page = text(client.get(robot_url("R2")))
    assert "cancel asked, waiting for the robot" in page
    assert "being stopped" not in page
    assert "Do not wait for the robot" not in text(answer)


@pytest.mark.parametrize("status", [Status.REVOKED, Status.FAILURE])
def test_a_blocked_lane_is_shown_and_can_be_freed(status):
    Agent.signed_in(make_robot(name="R2"))
    task = make_task_in(status, robot="R2", handler="turn", runs_on="robot", lane="R2/0", attempt=1)
    for _ in range(MAX_BARS):  # which ended later
        make_task(robot="R2", status="SUCCESS", started_at=PAST, finished_at=FUTURE)
    client = admin(Role.OPERATOR)
    assert "Its lane R2/0 is blocked until its agent reports the end, or is started again." in text(
        client.get(task_url(task))
    )
    for role, told in ((Role.OPERATOR, True), (Role.VIEWER, False)):
        page = text(admin(role).get(robot_url("R2")))
        assert "A lane is blocked" in page
        assert ("if you have seen that the robot stands still" in page) == told
    answer = client.post(f"/admin/tasks/task/{task.pk}/free/", follow=True)
    assert messages(answer) == ["Lane R2/0 is free."]
    assert Task.objects.get(pk=task.pk).lane is None
    assert "blocked" not in text(client.get(task_url(task)))
    assert "blocked" not in text(client.get(robot_url("R2")))


def test_what_an_agent_said_before_it_succeeded_is_not_shown_as_the_end():
    task = on_robot(Status.SUCCESS, message="3.0 m to go")
    client = admin()
    assert "3.0 m to go" not in text(client.get(task_url(task)))
    Task.objects.filter(pk=task.pk).update(runs_on="worker")
    assert "3.0 m to go" in text(client.get(task_url(task)))


def test_the_robots_page_says_why_the_agent_does_not_take_the_next_task():
    robot = make_robot(name="R2")
    submit(robot, "grip")
    client = admin()
    assert "grip runs on the robot, and no agent has connected yet." in text(client.get(robot_url("R2")))
    Agent.signed_in(robot, handlers=("turn",))
    assert "The robot&#x27;s agent does not know grip." in text(client.get(robot_url("R2")))
    Agent.signed_in(robot, handlers=("turn", "grip"))
    shown = text(client.get(robot_url("R2")))
    assert "does not know" not in shown
    assert "no agent has connected" not in shown
    assert "Its next task waits" not in shown


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        ({"mode": "manual"}, "The robot reports the mode manual."),
        ({"emergency_stop": "remote"}, "The robot reports an emergency stop (remote)."),
    ],
)
def test_the_robots_page_says_that_tasks_wait_because_of_what_the_robot_reports(state, sentence):
    robot = make_robot(name="R2")
    agents.report("R2", Agent.signed_in(robot, handlers=("grip",)).session, state)
    assert "Its next task waits" not in text(admin().get(robot_url("R2")))
    submit(robot, "grip")
    assert sentence in text(admin().get(robot_url("R2")))


@pytest.mark.parametrize("act", ["end", "free"])
def test_a_viewer_may_do_neither(act):
    task = on_robot(out_of_contact_since=PAST)
    assert admin(Role.VIEWER).post(f"/admin/tasks/task/{task.pk}/{act}/").status_code == 403
