import datetime as dt
import uuid

import pytest

from tasks.models import Status
from tasks.models.error_document import error_document
from tests.support.api import Api
from tests.support.factories import make_task

pytestmark = pytest.mark.django_db

KEYS = (
    "task_id status robot handler params priority labels progress message result error attempt max_attempts timeout "
    "run_at expires_at created_at started_at finished_at worker runs_on requested_by retry_of cancel_requested "
    "out_of_contact_since history"
)
NOON = dt.datetime(2026, 11, 23, 12, 0, 0, 1500, tzinfo=dt.UTC)


@pytest.fixture
def api():
    return Api("viewer")


def test_it_shows_everything_of_a_task_that_is_over(api):
    old = uuid.uuid4()
    task = make_task(
        robot="Crow T. Robot",
        status=Status.FAILURE,
        labels=["a"],
        progress=40.0,
        message="half way",
        error=error_document("ValueError", "no", "Traceback …"),
        attempt=2,
        max_attempts=2,
        run_at=NOON,
        expires_at=NOON,
        started_at=NOON,
        finished_at=NOON,
        worker="host/1",
        retry_of=old,
        history=[{"at": NOON, "status": "FAILURE", "attempt": 2, "note": "ValueError: no"}],
    )
    answer = api("GET", f"/task/{task.pk}")
    assert answer.status_code == 200
    noon = "2026-11-23T12:00:00.001Z"
    assert answer.json() == {
        "task_id": str(task.pk),
        "status": "FAILURE",
        "robot": "Crow T. Robot",
        "handler": "wait",
        "params": {"seconds": 0},
        "priority": 4,
        "labels": ["a"],
        "progress": 40.0,
        "message": "half way",
        "result": None,
        "error": {"type": "ValueError", "message": "no", "traceback": "Traceback …"},
        "attempt": 2,
        "max_attempts": 2,
        "timeout": 30.0,
        "run_at": noon,
        "expires_at": noon,
        "created_at": task.created_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "started_at": noon,
        "finished_at": noon,
        "worker": "host/1",
        "runs_on": "worker",
        "requested_by": "test",
        "retry_of": str(old),
        "cancel_requested": False,
        "out_of_contact_since": None,
        "history": [{"at": noon, "status": "FAILURE", "attempt": 2, "note": "ValueError: no"}],
    }


def test_its_keys_are_in_their_order_and_it_shows_no_others(api):
    task = make_task()
    assert list(api("GET", f"/task/{task.pk}/").json()) == KEYS.split()


def test_a_result_is_any_json(api):
    for result in [None, 0, 1.5, "text", "", [], {}, {"$a.b": [1, {"": None}]}, 2**63 - 1, True]:
        task = make_task(status=Status.SUCCESS, result=result)
        assert api("GET", f"/task/{task.pk}").json()["result"] == result


def test_its_status_is_the_real_one(api):
    for status in Status:
        task = make_task(status=status)
        assert api("GET", f"/task/{task.pk}").json()["status"] == status.value


VERBS = ("cancel", "retry", "end", "free")


def test_an_unknown_task_is_not_found_and_never_a_made_up_one(api):
    known = str(make_task().pk)
    odd = [str(uuid.uuid4()), "00000000-0000-0000-0000-000000000000", "x", "%00", known[:-1], known + "0", "..", "$ne"]
    for id in [*odd, "%7B" + known + "%7D", "urn:uuid:" + known, known + "%20", known + "%0A", "x" * 10_000, "1e3"]:
        for method, path in (("GET", ""), ("GET", "/log"), *(("POST", f"/{verb}") for verb in VERBS)):
            answer = Api("operator")(method, f"/task/{id}{path}")
            assert (answer.status_code, answer.content) == (404, b'{"detail":"Not Found"}'), id


def test_head_answers_without_a_body(api):
    answer = api("HEAD", f"/task/{make_task().pk}")
    assert (answer.status_code, answer.content) == (200, b"")
