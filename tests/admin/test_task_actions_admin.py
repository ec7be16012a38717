"""Cancel and retry of many tasks from the admin's list: a question first, then a bulk run."""

import datetime as dt

import pytest
from django.utils import timezone

from fmv.accounts.permissions import Role
from tasks.models import Bulk, Task
from tasks.queue import bulk
from tests.support.api import stored
from tests.support.factories import make_robot, make_task
from tests.support.pages import TASKS, admin, messages, text

pytestmark = pytest.mark.django_db(transaction=True)


def ago(**span):
    return timezone.now() - dt.timedelta(**span)


def act(client, query="", **form):
    ids = form.pop("ids", None)
    form |= {"id": [str(id) for id in ids]} if ids else {}
    return client.post(f"{TASKS}act/?{query}", form, follow="confirmed" not in form)


def test_the_selected_tasks_are_cancelled_after_a_question():
    chosen, over, other = (make_task(robot="R2", status=status) for status in ("QUEUED", "SUCCESS", "QUEUED"))
    client = admin(Role.OPERATOR, username="leela")
    asked = act(client, action="cancel", ids=[chosen.pk, over.pk])
    assert "Cancel 1 task?" in text(asked)
    assert not Bulk.objects.exists()
    begun = act(client, action="cancel", ids=[chosen.pk, over.pk], confirmed="yes", reason=" Wet floor ")
    run = Bulk.objects.get()
    assert begun.headers["Location"] == f"/admin/tasks/bulk/{run.pk}/change/"
    assert (run.by, run.action) == ("leela", "cancel")
    assert [Task.objects.get(pk=task.pk).status for task in (chosen, over, other)] == ["REVOKED", "SUCCESS", "QUEUED"]
    assert ": Wet floor" in text(client.get(f"{TASKS}{chosen.pk}/change/"))


def test_all_that_match_are_retried_and_no_others():
    robot = make_robot(name="R2")
    failed = [make_task(robot=robot, status="FAILURE", finished_at=ago(hours=1)) for _ in range(3)]
    make_task(robot=robot, status="SUCCESS", finished_at=ago(hours=1))
    client = admin(Role.OPERATOR)
    asked = act(client, "show=failed&robot=R2", action="retry", scope="all")
    shown = text(asked)
    assert "Retry 3 tasks?" in shown
    assert "robot R2" in shown
    act(client, "show=failed&robot=R2", action="retry", scope="all", confirmed="yes")
    bulk.run(Bulk.objects.get())
    assert {task.retry_of for task in Task.objects.queued()} == {task.pk for task in failed}


def test_those_retried_before_are_left_out_unless_asked_for():
    robot = make_robot(name="R2")
    task = make_task(robot=robot, status="FAILURE", finished_at=ago(hours=1))
    make_task(robot=robot, retry_of=task.pk)
    client = admin(Role.OPERATOR)
    assert "Retry 1 task again?" in text(act(client, "status=FAILURE", action="retry", scope="all"))
    act(client, "status=FAILURE", action="retry", scope="all", confirmed="yes")
    assert Task.objects.queued().count() == 1
    act(client, "status=FAILURE", action="retry", scope="all", confirmed="yes", again="yes")
    assert Task.objects.queued().count() == 2


def test_a_bulk_run_leads_to_the_tasks_that_it_made():
    robot = make_robot(name="R2")
    for _ in range(2):
        make_task(robot=robot, status="FAILURE", finished_at=ago(hours=1))
    client = admin(Role.OPERATOR)
    for again in ("", "yes"):
        act(client, "status=FAILURE", action="retry", scope="all", confirmed="yes", again=again)
        run = Bulk.objects.latest("id")
        address = f"{TASKS}?run={run.pk}"
        assert address in text(client.get(f"/admin/tasks/bulk/{run.pk}/change/"))
        listed = client.get(address)
        assert "2 tasks match, newest first" in text(listed)
        assert {task.status for task in listed.context["tasks"]} == {"QUEUED"}
    assert Task.objects.queued().count() == 4


def test_a_count_beyond_the_bound_is_told_as_more_than_it(monkeypatch):
    monkeypatch.setattr("tasks.queue.bulk.MAX_ESTIMATE", 2)
    for _ in range(3):
        make_task(robot="R2")
    assert "Cancel more than 2 tasks?" in text(act(admin(Role.OPERATOR), action="cancel", scope="all"))


@pytest.mark.parametrize(
    ("query", "form"),
    [
        ("", {"action": "cancel"}),
        ("", {"action": "cancel", "id": "x"}),
        ("", {"action": "delete", "scope": "all"}),
        ("", {"scope": "all"}),
        ("status=SUCCESS", {"action": "cancel", "scope": "all"}),
        ("robot=nobody", {"action": "retry", "scope": "all"}),
    ],
)
def test_what_would_do_nothing_is_said_and_begins_nothing(query, form):
    make_task(robot="R2", status="SUCCESS")
    client, before = admin(Role.OPERATOR), stored()
    for confirmed in ({}, {"confirmed": "yes"}):
        answer = client.post(f"{TASKS}act/?{query}", form | confirmed, follow=True)
        assert "No tasks were changed" in messages(answer)[0]
    assert stored() == before
    assert not Bulk.objects.exists()


def test_actions_are_begun_by_post_only():
    make_task(robot="R2")
    client = admin(Role.OPERATOR)
    assert "Cancel 1 task?" in text(client.get(f"{TASKS}act/?action=cancel&scope=all"))
    assert client.get(f"{TASKS}act/?action=cancel&scope=all&confirmed=yes").status_code == 302
    assert not Bulk.objects.exists()


def test_one_may_go_back_to_the_question_and_from_there_to_the_list():
    chosen, other = make_task(robot="R2"), make_task(robot="R2")
    client = admin(Role.OPERATOR)
    asked = act(client, "robot=R2&age=day", action="cancel", ids=[chosen.pk])
    [(url, _)] = asked.redirect_chain
    again = client.get(url)
    assert "Cancel 1 task?" in text(again)
    assert again.context["back"] == f"{TASKS}?age=day&robot=R2"
    client.post(url, {"action": "cancel", "id": again.context["ids"], "confirmed": "yes"})
    assert [Task.objects.get(pk=task.pk).status for task in (chosen, other)] == ["REVOKED", "QUEUED"]
    assert "No tasks were changed" in messages(client.get(url, follow=True))[0]


def test_a_viewer_is_not_even_asked():
    make_task(robot="R2")
    assert admin(Role.VIEWER).get(f"{TASKS}act/?action=cancel&scope=all").status_code == 403
