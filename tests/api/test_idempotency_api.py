from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection
from django.utils import timezone

from robots.models import Robot
from tasks.models import Submission, Task
from tasks.queue import submissions
from tasks.queue.new_task import new_task
from tests.support.api import Api, assert_refused, problems
from tests.support.factories import make_robot, make_user

pytestmark = pytest.mark.django_db(transaction=True)

KEY = {"HTTP_IDEMPOTENCY_KEY": "order 66"}


@pytest.fixture
def api():
    make_robot(name="R2")
    return Api("operator")


def test_the_same_key_and_body_get_the_first_answer_again_and_start_nothing(api):
    first = api("POST", "/robot/R2/run", **KEY)
    Task.objects.all().update(status="SUCCESS", progress=100, result=1)
    again = api("POST", "/robot/R2/run", **KEY)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert first.json()["status"] == "CREATED"
    assert Task.objects.count() == 1


def test_the_answer_is_that_of_a_submit_without_a_key(api):
    plain = api("POST", "/robot/R2/run", {"handler": "wait", "params": {"seconds": 1}, "labels": ["a"]}).json()
    keyed = api("POST", "/robot/R2/run", {"handler": "wait", "params": {"seconds": 1}, "labels": ["a"]}, **KEY).json()
    differing = {name for name in plain if plain[name] != keyed[name]}
    assert list(plain) == list(keyed)
    assert differing <= {"task_id", "created_at", "history"}
    stored = Task.objects.get(pk=keyed["task_id"])
    assert (stored.status, stored.labels, stored.params) == ("QUEUED", ["a"], {"seconds": 1.0, "steps": 10})


def test_a_scheduled_task_is_answered_alike_both_times(api):
    body = {"handler": "wait", "params": {"seconds": 1}, "run_at": "2099-01-01T00:00:00.123Z"}
    first, again = (api("POST", "/robot/R2/run", body, **KEY) for _ in range(2))
    assert first.content == again.content
    assert first.json()["run_at"] == "2099-01-01T00:00:00.123Z"


def test_the_first_answer_stands_though_the_robot_is_gone_or_out_of_service(api):
    first = api("POST", "/robot/R2/run", **KEY)
    Robot.objects.update(enabled=False)
    assert api("POST", "/robot/R2/run", **KEY).content == first.content
    Robot.objects.all().delete()
    assert api("POST", "/robot/R2/run", **KEY).content == first.content


def test_the_order_of_keys_in_the_body_does_not_matter(api):
    first = api("POST", "/robot/R2/run", b'{"priority": 5, "handler": "primes"}', **KEY)
    assert api("POST", "/robot/R2/run", b'{"handler":"primes","priority":5}', **KEY).content == first.content


@pytest.mark.parametrize(("path", "body"), [("/robot/R2/run", {"priority": 5}), ("/robot/C3/run", {})])
def test_the_same_key_with_another_request_is_refused(api, path, body):
    make_robot(name="C3")
    api("POST", "/robot/R2/run", {}, **KEY)
    answer = api("POST", path, body, **KEY)
    assert answer.status_code == 422
    assert problems(answer) == ["header.Idempotency-Key"]
    assert Task.objects.count() == 1


def test_keys_are_each_callers_own(api):
    other = Api(make_user("operator"))
    assert (
        api("POST", "/robot/R2/run", **KEY).json()["task_id"] != other("POST", "/robot/R2/run", **KEY).json()["task_id"]
    )


def test_a_refused_submit_leaves_the_key_unused(api):
    assert_refused(api("POST", "/robot/R2/run", {"priority": 99}, **KEY), 422)
    assert_refused(api("POST", "/robot/nobody/run", **KEY), 404)
    assert api("POST", "/robot/R2/run", **KEY).status_code == 200


@pytest.mark.parametrize("key", ["", "a" * 256, "caf\xe9", "a\tb"])
def test_a_key_that_is_none_is_refused(api, key):
    answer = api("POST", "/robot/R2/run", HTTP_IDEMPOTENCY_KEY=key)
    assert_refused(answer, 422)
    assert Task.objects.count() == 0


def test_fifty_at_once_start_one_task(api):
    user = make_user("operator")

    def call(_: int):
        try:
            return Api(user)("POST", "/robot/R2/run", **KEY)
        finally:
            connection.close()

    with ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(call, range(50)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert Task.objects.count() == 1


def test_a_key_is_free_again_when_it_is_forgotten_after_24_hours(api):
    first = api("POST", "/robot/R2/run", **KEY)
    Submission.objects.update(created_at=timezone.now() - 2 * submissions.KEY_LIFETIME)
    assert submissions.forget_old() == 1
    assert api("POST", "/robot/R2/run", {"priority": 7}, **KEY).json()["task_id"] != first.json()["task_id"]
    assert Task.objects.count() == 2


def test_a_server_that_dies_before_it_stored_the_task_loses_nothing(api):
    task = new_task(Robot.objects.get(), by="somebody", handler="wait", params={"seconds": 1})
    submission = submissions._accept("key", "print", [task])  # and here it dies
    assert Task.objects.count() == 0
    assert submissions.requeue_unfinished() == 0  # it may be alive, and just slow
    Submission.objects.update(created_at=timezone.now() - 2 * submissions.REQUEUE_AFTER)
    assert submissions.requeue_unfinished() == 1
    assert [stored.pk for stored in Task.objects.all()] == [task.pk]
    assert submissions.requeue_unfinished() == 0
    assert Submission.objects.get(pk=submission.pk).stored


def test_a_key_that_is_used_again_after_24_hours_loses_no_task_that_is_not_stored_yet(api):
    first = api("POST", "/robot/R2/run", **KEY)
    Task.objects.all().delete()  # as if the server had died before it stored the task
    Submission.objects.update(stored=False, created_at=timezone.now() - 2 * submissions.KEY_LIFETIME)
    assert submissions.forget_old() == 0
    again = api("POST", "/robot/R2/run", **KEY)
    assert (again.status_code, again.json()) == (200, first.json())
    assert [str(task.pk) for task in Task.objects.all()] == [first.json()["task_id"]]


def test_old_submissions_are_forgotten(api):
    api("POST", "/robot/R2/run", **KEY)
    submissions.forget_old()
    assert Submission.objects.count() == 1
    Submission.objects.update(created_at=timezone.now() - 2 * submissions.KEY_LIFETIME)
    submissions.forget_old()
    assert Submission.objects.count() == 0
    assert Task.objects.count() == 1
