from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from fmv import audit
from tasks.models import FINISHED, WAITING, Task
from tests.support.api import Api, assert_refused
from tests.support.factories import make_task, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def api():
    return Api(make_user("operator", username="Leela", password=None))


@pytest.mark.parametrize("status", WAITING)
def test_a_task_that_waits_is_revoked_at_once(api, status):
    task = make_task(status=status)
    answer = api("POST", f"/task/{task.pk}/cancel")
    assert answer.status_code == 200
    shown = answer.json()
    assert (shown["status"], shown["cancel_requested"], shown["run_at"]) == ("REVOKED", True, None)
    assert shown["finished_at"]
    assert shown["history"][-1]["note"] == "cancel asked for by Leela"
    assert shown == api("GET", f"/task/{task.pk}").json()


def test_a_running_one_is_asked_to_stop(api):
    task = make_task(status="STARTED", attempt=1, lane="R2/0")
    answer = api("POST", f"/task/{task.pk}/cancel/")
    assert answer.status_code == 202
    shown = answer.json()
    assert (shown["status"], shown["cancel_requested"], shown["finished_at"]) == ("STARTED", True, None)
    assert shown == api("GET", f"/task/{task.pk}").json()


def test_asking_again_while_it_stops_changes_nothing(api):
    task = make_task(status="STARTED", attempt=1, lane="R2/0")
    first = api("POST", f"/task/{task.pk}/cancel")
    second = api("POST", f"/task/{task.pk}/cancel")
    assert (second.status_code, second.content) == (202, first.content)


@pytest.mark.parametrize("status", FINISHED)
def test_one_that_is_over_is_409(api, status):
    task = make_task(status=status)
    answer = api("POST", f"/task/{task.pk}/cancel")
    assert (answer.status_code, answer.content) == (409, b'{"detail":"The task is already over."}')
    assert Task.objects.get().history == []


@pytest.mark.parametrize("status", ["QUEUED", "STARTED"])
def test_a_reason_is_kept_in_the_history(api, status):
    task = make_task(status=status, attempt=int(status == "STARTED"))
    shown = api("POST", f"/task/{task.pk}/cancel", {"reason": " The hall is wet "}).json()
    assert shown["history"][-1]["note"] == "cancel asked for by Leela: The hall is wet"
    assert "The hall is wet" in audit.of("task", task.pk)[0].text


@pytest.mark.parametrize("body", [b"", b"null", b"{}", {"reason": ""}, {"why": "unknown"}])
def test_it_needs_no_reason(api, body):
    answer = api("POST", f"/task/{make_task().pk}/cancel", body)
    assert answer.status_code == 200
    assert answer.json()["history"][-1]["note"] == "cancel asked for by Leela"


@pytest.mark.parametrize("body", [b"{", b"[]", b'"x"', {"reason": 5}, {"reason": "x" * 501}])
def test_a_wrong_body_is_refused_and_changes_nothing(api, body):
    task = make_task()
    assert_refused(api("POST", f"/task/{task.pk}/cancel", body), 422)
    assert Task.objects.get().status == "QUEUED"


def test_of_many_at_once_one_cancels(api):
    task = make_task()

    def cancel(caller):
        try:
            return caller("POST", f"/task/{task.pk}/cancel").status_code
        finally:
            connection.close()

    with ThreadPoolExecutor(6) as pool:
        statuses = list(pool.map(cancel, [Api("operator") for _ in range(6)]))
    assert sorted(statuses) == [200, *[409] * 5]
    assert len(Task.objects.get().history) == 1
