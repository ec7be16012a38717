"""Bulk runs in the admin: what was begun, how far it is, and who may stop it."""

import uuid

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fmv import audit
from fmv.accounts.permissions import Role
from tasks.models import Bulk, Status, Task
from tasks.models.bulk import BulkStatus
from tasks.queue import bulk
from tests.support.factories import make_robot, make_user
from tests.support.probes import make_task_in, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

LIST = "/admin/tasks/bulk/"


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(bulk, "STEP_SIZE", 2)


def staff(role, **fields):
    client = Client()
    client.force_login(make_user(role, password=None, **fields))
    return client


def begin(count=5, action="cancel", status=Status.QUEUED, **conditions):
    robot = conditions.pop("robot", None) or make_robot(name="Wall-E").name
    tasks = [make_task_in(status, robot=robot) for _ in range(count)]
    return bulk.start(action, by="amy", conditions={"robot": robot} | conditions), tasks


def page(run, name="change"):
    return f"{LIST}{run.pk}/{name}/"


def text(answer):
    assert answer.status_code == 200, answer.status_code
    return answer.content.decode()


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_the_list_says_who_does_what_and_how_far_it_is(role):
    run, _ = begin()
    bulk.step(run)
    over, _ = begin(2, robot="Crow T. Robot")
    bulk.run(over)
    shown = text(staff(role).get(LIST))
    for part in ("cancel tasks: robot Wall-E", "cancel tasks: robot Crow T. Robot", "RUNNING", "DONE", "amy"):
        assert part in shown
    assert "robot Wall-E" not in text(staff(role).get(LIST + "?status__exact=DONE"))


def test_a_runs_page_tells_all_of_it():
    run, tasks = begin(3, "retry", Status.FAILURE)
    Task.objects.filter(pk=tasks[0].pk).update(handler="unheard of")
    bulk.step(run)
    shown = text(staff(Role.VIEWER).get(page(run)))
    for part in ("retry tasks: robot Wall-E", "amy", "RUNNING", 'max="3"', 'value="2"', "bulk.start"):
        assert part in shown, part
    assert f"/admin/tasks/task/{tasks[0].pk}/change/" in shown
    assert "No such handler" in shown
    assert f'data-live="{page(run, "state")}"' in shown


def test_the_live_part_says_when_there_will_be_no_more_news():
    run, _ = begin()
    client = staff(Role.VIEWER)
    answer = client.get(page(run, "state"))
    assert "RUNNING" in text(answer)
    assert answer.headers["X-Live"] == "goes on"
    bulk.run(run)
    answer = client.get(page(run, "state"))
    assert "DONE" in text(answer)
    assert answer.headers["X-Live"] == "done"
    assert "<progress" not in text(answer)


def test_a_run_on_very_many_tells_no_end(monkeypatch):
    monkeypatch.setattr(bulk, "MAX_ESTIMATE", 3)
    run, _ = begin()
    shown = text(staff(Role.VIEWER).get(page(run)))
    assert run.expected is None
    assert "more than 3 tasks" in shown
    assert "<progress aria-label" in shown


def test_an_operator_stops_it():
    run, tasks = begin()
    bulk.step(run)
    client = staff(Role.OPERATOR, username="bob")
    assert "Stop" in text(client.get(page(run)))
    answer = client.post(page(run, "stop"), follow=True)
    assert "Tasks that it changed stay changed" in text(answer)
    assert Bulk.objects.get(pk=run.pk).status == BulkStatus.STOPPED
    assert [statuses(task)[-1] for task in tasks] == ["REVOKED"] * 2 + ["QUEUED"] * 3
    latest = next(iter(audit.of("bulk", run.pk)))
    assert (latest.action, latest.by) == ("bulk.stop", "bob")
    assert "had already ended" in text(client.post(page(run, "stop"), follow=True))


def test_a_viewer_stops_nothing_even_by_hand():
    run, _ = begin()
    client = staff(Role.VIEWER)
    assert page(run, "stop") not in text(client.get(page(run)))
    assert client.post(page(run, "stop")).status_code == 403
    assert client.post(page(run), {"status": "STOPPED"}).status_code == 403
    assert (
        client.post(LIST, {"action": "delete_selected", "_selected_action": [str(run.pk)], "post": "yes"}).status_code
        != 500
    )
    assert Bulk.objects.get(pk=run.pk).status == BulkStatus.RUNNING


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.MANAGER])
def test_nobody_makes_changes_or_deletes_one_by_form(role):
    run, _ = begin()
    client = staff(role)
    assert client.post(LIST + "add/", {"action": "cancel"}).status_code == 403
    assert client.post(page(run, "delete"), {"post": "yes"}).status_code == 403
    assert client.post(page(run), {"by": "bob"}).status_code == 403
    assert client.get(page(run, "stop")).status_code == 405
    assert Bulk.objects.get(pk=run.pk).by == "amy"


def test_a_stranger_signs_in_first(client):
    run, _ = begin()
    for url in (LIST, page(run), page(run, "state"), page(run, "stop")):
        assert client.get(url).status_code == 302, url
        assert client.post(url).status_code == 302, url
    assert Bulk.objects.get(pk=run.pk).status == BulkStatus.RUNNING


def test_there_is_no_stop_without_a_csrf_token():
    run, _ = begin()
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user(Role.OPERATOR, password=None))
    assert client.post(page(run, "stop")).status_code == 403
    assert Bulk.objects.get(pk=run.pk).status == BulkStatus.RUNNING


def test_odd_addresses_never_harm():
    client, nobody = staff(Role.OPERATOR), f"{LIST}{uuid.uuid4()}"
    for url in (
        f"{LIST}x/change/",
        f"{LIST}%00/change/",
        f"{nobody}/change/",
        f"{LIST}x/history/",
        f"{nobody}/history/",
    ):
        assert client.get(url, follow=True).status_code == 200, url
    assert client.get(f"{nobody}/state/").status_code == 404
    assert "There is no bulk run" in text(client.post(f"{nobody}/stop/", follow=True))


def test_the_list_takes_as_many_queries_for_many_runs_as_for_one():
    client = staff(Role.VIEWER)

    def queries():
        begin(1, robot="R2")
        with CaptureQueriesContext(connection) as captured:
            assert client.get(LIST).status_code == 200
        return len(captured)

    assert len({queries() for _ in range(3)}) == 1
