import pytest

from robots.models import Robot
from tasks.models import Submission, Task
from tasks.queue import submissions
from tasks.queue.new_task import new_tasks
from tests.support.api import Api, assert_refused, problems
from tests.support.factories import make_robot

pytestmark = pytest.mark.django_db

WAIT = {"handler": "wait", "params": {"seconds": 1}}


@pytest.fixture
def api():
    make_robot(name="R2")
    make_robot(name="C3")
    return Api("operator")


def test_each_run_has_its_answer_in_order(api):
    runs = [{"robot": "R2" if n % 2 else "C3", "labels": [str(n)], **WAIT} for n in range(20)]
    answer = api("POST", "/task/batch", {"runs": runs})
    assert answer.status_code == 200
    tasks = answer.json()["tasks"]
    assert [(task["robot"], task["labels"], task["status"]) for task in tasks] == [
        (run["robot"], run["labels"], "CREATED") for run in runs
    ]
    assert [task["task_id"] for task in tasks] == [str(task.pk) for task in Task.objects.order_by("id")]


def test_a_run_takes_all_the_options_of_a_single_one(api):
    run = {"priority": 9, "run_at": "2099-01-01T00:00:00Z", "timeout": 5, "max_attempts": 7, "labels": ["x"], **WAIT}
    [task] = api("POST", "/task/batch", {"runs": [{"robot": "R2", **run}]}).json()["tasks"]
    single = api("POST", "/robot/R2/run", run).json()
    assert {name for name in task if task[name] != single[name]} <= {"task_id", "created_at", "history"}


def test_nothing_is_stored_when_one_run_is_wrong_and_each_wrong_one_is_named(api):
    runs = [
        {"robot": "R2"},
        {"robot": "nobody"},
        {"robot": "R2", "handler": "dance"},
        {"robot": "R2", "handler": "wait", "params": {"seconds": -1, "tempo": 3}},
    ]
    answer = api("POST", "/task/batch", {"runs": runs})
    assert answer.status_code == 422
    assert problems(answer) == [
        "body.runs.1.robot",
        "body.runs.2.handler",
        "body.runs.3.params.seconds",
        "body.runs.3.params.tempo",
    ]
    assert not Task.objects.exists()
    assert not Submission.objects.exists()


def test_a_robot_out_of_service_refuses_the_batch_unless_it_may_wait(api):
    Robot.objects.filter(pk="C3").update(enabled=False)
    runs = [{"robot": robot, **WAIT} for robot in ("R2", "C3", "R2", "C3")]
    answer = api("POST", "/task/batch", {"runs": runs})
    assert_refused(answer, 409)
    assert problems(answer) == ["body.runs.1.robot", "body.runs.3.robot"]
    assert "out of service" in answer.json()["detail"][0]["msg"]
    answer = api("POST", "/task/batch", {"runs": [*runs, {"robot": "nobody"}]})
    assert_refused(answer, 422)
    assert problems(answer) == ["body.runs.1.robot", "body.runs.3.robot", "body.runs.4.robot"]
    assert not Task.objects.exists()
    assert not Task.objects.exists()
    assert api("POST", "/task/batch", {"runs": [{"robot": "C3", "queue_anyway": True, **WAIT}]}).status_code == 200


@pytest.mark.parametrize(
    ("body", "loc"),
    [
        ({}, "body.runs"),
        ({"runs": []}, "body.runs"),
        ({"runs": {}}, "body.runs"),
        ({"runs": None}, "body.runs"),
        ({"runs": [{"robot": "R2"}] * 1001}, "body.runs"),
        ({"runs": [1]}, "body.runs.0"),
        ({"runs": [{}]}, "body.runs.0.robot"),
        ({"runs": [{"robot": "R2", "prio": 1}]}, "body.runs.0.prio"),
        ({"runs": [{"robot": "R2"}], "dry": True}, "body.dry"),
        ([], "body"),
    ],
)
def test_a_wrong_body_says_where(api, body, loc):
    answer = api("POST", "/task/batch", body)
    assert answer.status_code == 422
    assert problems(answer) == [loc]
    assert not Task.objects.exists()


def test_a_thousand_runs_are_taken_and_repeated_with_their_key(api):
    runs = [{"robot": "R2", "handler": "wait", "params": {"seconds": n}} for n in range(1000)]
    first = api("POST", "/task/batch", {"runs": runs}, HTTP_IDEMPOTENCY_KEY="k")
    assert first.status_code == 200
    assert [task["params"]["seconds"] for task in first.json()["tasks"]] == list(range(1000))
    assert api("POST", "/task/batch", {"runs": runs}, HTTP_IDEMPOTENCY_KEY="k").content == first.content
    assert Task.objects.count() == 1000


def test_a_batch_half_stored_when_its_server_died_is_finished_without_doubles(api, monkeypatch):
    tasks, _ = new_tasks([{"robot": "R2", **WAIT} for _ in range(10)], by="somebody")
    submission = submissions._accept("id", "", tasks)
    Task.objects.bulk_create(tasks[:4])
    monkeypatch.setattr(submissions, "REQUEUE_AFTER", submissions.REQUEUE_AFTER * -1)
    assert submissions.requeue_unfinished() == 1
    assert sorted(task.pk for task in Task.objects.all()) == [task.pk for task in tasks]
    assert Submission.objects.get(pk=submission.pk).stored


def test_a_viewer_may_not(api):
    assert_refused(Api("viewer")("POST", "/task/batch", {"runs": [{"robot": "R2"}]}), 403)


def test_a_batch_that_mongodb_could_not_hold_is_refused(api):
    run = {"robot": "R2", "handler": "http", "params": {"body": [1] * 32_000}}
    answer = api("POST", "/task/batch", {"runs": [run] * 60})
    assert answer.status_code == 422
    assert problems(answer) == ["body.runs"]
    assert not Task.objects.exists()
