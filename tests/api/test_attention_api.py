"""`GET /attention` and `GET /task/{id}/waiting`: what needs a person, and why a task waits, for programs."""

import datetime as dt
import uuid

import pytest

from fmv.mongodb.server import server_now
from tasks.models import Status
from tests.support.api import Api, assert_refused
from tests.support.factories import make_process, make_robot, make_task
from tests.support.probes import PAST, make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.fixture
def api() -> Api:
    make_process("host/1", ago=-3600, queues=["work", "maintenance"], handlers=["wait@1"])
    return Api("viewer")


def test_without_any_trouble_there_are_no_lines(api):
    assert api("GET", "/attention").json() == {"lines": [], "more": {}}


def test_a_line_names_what_it_is_about_and_since_when_it_is_so(api):
    task = make_task_in(Status.RETRY, robot="R2")
    assert api("GET", "/attention").json()["lines"] == [
        {
            "kind": "stuck",
            "severity": "error",
            "robot": "R2",
            "task_id": str(task.pk),
            "handler": "wait",
            "worker": None,
            "reason": "Its time has come, and it was not queued",
            "since": "2020-01-01T00:00:00.000Z",
            "remedy": "show_task",
        }
    ]


def test_beyond_a_hundred_lines_of_a_kind_the_others_are_counted(api):
    for number in range(103):
        make_task(robot=f"R{number}", status="RETRY", run_at=PAST)
    found = api("GET", "/attention").json()
    assert len(found["lines"]) == 100
    assert found["more"] == {"stuck": 3}


def test_why_a_task_waits(api):
    make_robot(name="R2")
    other = make_task_in(Status.STARTED, robot="R2")
    first, second = make_task(robot="R2"), make_task(robot="R2")
    short = [f"wait …{str(task.pk)[-8:]}" for task in (other, first)]
    since = "since 2020-01-01 00:00:00 UTC"
    assert api("GET", f"/task/{second.pk}/waiting").json() == {
        "task_id": str(second.pk),
        "status": "QUEUED",
        "waiting": {
            "reason": "robot_busy",
            "sentence": f"An older task is first: {short[1]}. The robot runs {short[0]}, {since}.",
            "since": "2020-01-01T00:00:00.000Z",
            "until": None,
            "blocked_by": str(other.pk),
            "first_task": str(first.pk),
            "remedy": "show_task",
        },
    }


def test_until_when_a_scheduled_task_waits(api):
    later = server_now().replace(microsecond=0) + dt.timedelta(hours=1)
    task = make_task(status="SCHEDULED", run_at=later)
    waiting = api("GET", f"/task/{task.pk}/waiting").json()["waiting"]
    assert (waiting["reason"], waiting["until"]) == ("scheduled", f"{later:%Y-%m-%dT%H:%M:%S}.000Z")


@pytest.mark.parametrize("status", [Status.STARTED, Status.FAILURE])
def test_a_task_that_does_not_wait_has_no_reason(api, status):
    task = make_task_in(status)
    answer = api("GET", f"/task/{task.pk}/waiting").json()
    assert answer == {"task_id": str(task.pk), "status": status, "waiting": None}


def test_an_unknown_task_and_unknown_parameters_are_refused(api):
    assert_refused(api("GET", f"/task/{uuid.uuid4()}/waiting"), 404)
    assert_refused(api("GET", "/attention?kind=stuck"), 422)
