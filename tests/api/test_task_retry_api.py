import pytest

from fmv import audit
from tasks.models import FINISHED, UNFINISHED, Task
from tests.support.api import Api, assert_refused, problems
from tests.support.factories import make_robot, make_task, make_user

pytestmark = pytest.mark.django_db


@pytest.fixture
def api():
    return Api(make_user("operator", username="Leela", password=None))


@pytest.mark.parametrize("status", FINISHED)
def test_a_finished_task_is_submitted_again_as_a_new_one(api, status):
    fields = {"params": {"seconds": 2, "steps": 3}, "priority": 7, "labels": ["a"], "timeout": 9.0, "max_attempts": 5}
    task = make_task(status=status, attempt=3, requested_by="Fry", **fields)
    answer = api("POST", f"/task/{task.pk}/retry")
    assert answer.status_code == 200
    new = answer.json()
    assert new["task_id"] != str(task.pk)
    assert (new["status"], new["retry_of"], new["attempt"]) == ("CREATED", str(task.pk), 0)
    assert (new["robot"], new["handler"], new["requested_by"]) == (task.robot, "wait", "Leela")
    assert {name: new[name] for name in fields} == fields
    assert api("GET", f"/task/{new['task_id']}").json() == new | {"status": "QUEUED"}


def test_the_old_one_stays_as_it_is(api):
    task = make_task(status="FAILURE")
    before = api("GET", f"/task/{task.pk}").content
    api("POST", f"/task/{task.pk}/retry/")
    assert api("GET", f"/task/{task.pk}").content == before


@pytest.mark.parametrize("status", UNFINISHED)
def test_an_unfinished_one_is_409(api, status):
    task = make_task(status=status)
    answer = api("POST", f"/task/{task.pk}/retry")
    assert (answer.status_code, answer.content) == (409, b'{"detail":"The task is not over yet."}')
    assert Task.objects.count() == 1


def test_it_waits_for_a_robot_out_of_service(api):
    task = make_task(robot=make_robot(enabled=False), status="FAILURE")
    assert api("POST", f"/task/{task.pk}/retry").status_code == 200


def test_a_task_whose_robot_is_gone_is_not_found(api):
    task = make_task(robot="Nobody", status="FAILURE")
    assert api("POST", f"/task/{task.pk}/retry").status_code == 404


def test_one_whose_handler_is_gone_or_changed_is_refused(api):
    make_robot(name="R2")
    for fields, problem in (
        ({"handler": "gone"}, "body.handler"),
        ({"handler": "wait", "params": {"seconds": -1}}, "body.params.seconds"),
    ):
        task = make_task(robot="R2", status="FAILURE", **fields)
        answer = api("POST", f"/task/{task.pk}/retry")
        assert_refused(answer, 422)
        assert problems(answer) == [problem]
    assert Task.objects.count() == 2


def test_with_the_same_key_it_is_repeated_once(api):
    task, other = make_task(status="FAILURE"), make_task(status="FAILURE")
    key = {"HTTP_IDEMPOTENCY_KEY": "once more"}
    first = api("POST", f"/task/{task.pk}/retry", **key)
    Task.objects.filter(retry_of=task.pk).update(status="SUCCESS")
    again = api("POST", f"/task/{task.pk}/retry", **key)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.content == first.content
    assert Task.objects.filter(retry_of=task.pk).count() == 1
    assert audit.of("task", task.pk).count() == 1
    assert problems(api("POST", f"/task/{other.pk}/retry", **key)) == ["header.Idempotency-Key"]
    assert not Task.objects.filter(retry_of=other.pk).exists()


def test_every_post_that_starts_tasks_takes_a_key(api):
    operations = api("GET", "/openapi.json").json()["paths"]
    takes = {
        path
        for path, item in operations.items()
        if any(each["name"] == "Idempotency-Key" for each in item.get("post", {}).get("parameters", []))
    }
    starts = {path for path, item in operations.items() if "200" in item.get("post", {}).get("responses", {})}
    others = {path for path in starts - takes if not path.startswith("/agent/")}  # which can be repeated by design
    of_a_task = {f"/task/{{task_id}}/{verb}" for verb in ("cancel", "end", "free", "move", "priority")}
    of_a_robot = {f"/robot/{{name}}/{verb}" for verb in ("hold", "release")}
    assert others == {"/auth/login", "/auth/logout"} | of_a_task | of_a_robot
