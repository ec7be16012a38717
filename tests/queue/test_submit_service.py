import datetime as dt

import pytest
from pydantic import Field, SecretStr, computed_field

from fmv.errors import InvalidInput
from fmv.http import request_id
from fmv.mongodb.server import server_now
from tasks import registry
from tasks.models import Status, Task
from tasks.queue import services
from tasks.queue.errors import RobotOutOfService
from tasks.registry import Params
from tests.support.factories import make_robot
from tests.support.probes import FUTURE, PAST, fields_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def test_it_stores_the_task_and_rings(bells):
    robot = make_robot()
    token = request_id.current.set("request 1")
    task = services.submit(
        {"robot": robot.name, "handler": "echo", "params": {"value": 1}, "priority": 7, "labels": ["a", "b"]},
        by="leela",
    )
    request_id.current.reset(token)
    stored = fields_of(task)
    assert stored["status"] == Status.QUEUED
    assert (stored["robot"], stored["handler"], stored["params"]) == (robot.name, "echo", {"value": 1})
    assert (stored["priority"], stored["labels"]) == (7, ["a", "b"])
    assert (stored["requested_by"], stored["request_id"]) == ("leela", "request 1")
    assert (stored["attempt"], stored["lane"], stored["finished_at"], stored["run_at"]) == (0, None, None, None)
    assert [(e["status"], e["attempt"], e["note"]) for e in stored["history"]] == [("QUEUED", 0, "by leela")]
    assert abs(stored["history"][0]["at"] - server_now()) < dt.timedelta(seconds=5)
    assert bells() == [("tasks.run_next", robot.name, 7)]


def test_the_policy_of_the_handler_is_the_default():
    robot, handler = make_robot(), registry.get("mark")
    params = {"file": "f"}
    task = services.submit({"robot": robot.name, "handler": "mark", "params": params}, by="test")
    assert (task.timeout, task.max_attempts) == (handler.timeout, handler.retry.max_attempts)
    task = services.submit(
        {"robot": robot.name, "handler": "mark", "params": params, "timeout": 1.5, "max_attempts": 2}, by="test"
    )
    assert (task.timeout, task.max_attempts) == (1.5, 2)


class Kept(Params):
    size: int = Field(1, alias="the size")
    strict_day: dt.date = Field(dt.date(2027, 1, 31), strict=True)

    @computed_field
    def double(self) -> int:
        return 2 * self.size


class Lost(Params):
    password: SecretStr
    note: str = "x"


def test_a_worker_can_read_again_what_was_stored_of_aliases_and_strict_types():
    handler = registry.Handler("kept", lambda ctx: None, Kept, 30.0, registry.RetryPolicy())
    stored = handler.complete_params({"the size": 3, "strict_day": "2027-02-01"})
    assert stored == {"the size": 3, "strict_day": "2027-02-01"}
    assert handler.read_params(stored) == Kept(**{"the size": 3, "strict_day": dt.date(2027, 2, 1)})


def test_a_parameter_that_json_does_not_keep_is_refused_by_its_name():
    handler = registry.Handler("lost", lambda ctx: None, Lost, 30.0, registry.RetryPolicy())
    with pytest.raises(InvalidInput, match=r"^body\.params\.password: Is not the same when it is stored"):
        handler.complete_params({"password": "open sesame"})


def test_the_default_handler_counts_primes():
    task = services.submit({"robot": make_robot().name}, by="test")
    assert task.handler == "primes"
    assert 3_000_000 <= task.params["count"] <= 3_500_000


def test_a_task_for_later_waits_without_a_doorbell(bells):
    task = services.submit({"robot": make_robot().name, "handler": "noop", "run_at": FUTURE}, by="test")
    assert (fields_of(task)["status"], fields_of(task)["run_at"]) == (Status.SCHEDULED, FUTURE)
    assert bells() == []


def test_a_time_that_has_passed_means_now(bells):
    task = services.submit({"robot": make_robot().name, "handler": "noop", "run_at": PAST}, by="test")
    assert (fields_of(task)["status"], fields_of(task)["run_at"]) == (Status.QUEUED, None)
    assert len(bells()) == 1


@pytest.mark.parametrize(
    "times", [{"expires_at": PAST}, {"run_at": FUTURE, "expires_at": FUTURE - dt.timedelta(days=1)}]
)
def test_it_must_not_expire_before_it_could_start(times):
    with pytest.raises(InvalidInput, match="expires_at"):
        services.submit({"robot": make_robot().name, "handler": "noop", **times}, by="test")
    assert not Task.objects.exists()


def test_a_robot_out_of_service_takes_a_task_only_if_queued_anyway(bells):
    robot = make_robot(enabled=False)
    with pytest.raises(RobotOutOfService):
        services.submit({"robot": robot.name, "handler": "noop"}, by="test")
    assert not Task.objects.exists()
    task = services.submit({"robot": robot.name, "handler": "noop", "queue_anyway": True}, by="test")
    assert fields_of(task)["status"] == Status.QUEUED
    assert bells() == []


@pytest.mark.parametrize(
    ("handler", "params", "named"),
    [
        ("no-such", {}, "body.handler"),
        ("wait", {}, "body.params.seconds"),
        ("wait", {"seconds": "long"}, "body.params.seconds"),
        ("wait", {"seconds": -1}, "body.params.seconds"),
        ("noop", {"surplus": 1}, "body.params.surplus"),
        ("echo", {"value": "x" * 70_000}, "body.params"),
        ("echo", {"value": 2**70}, "body.params"),
        ("echo", {"value": {"a\0": 1}}, "body.params"),
        ("echo", {"value": "\udce9"}, "body.params"),
    ],
)
def test_params_are_checked_before_anything_is_stored(handler, params, named, bells):
    with pytest.raises(InvalidInput, match=named):
        services.submit({"robot": make_robot().name, "handler": handler, "params": params}, by="test")
    assert not Task.objects.exists()
    assert bells() == []


@pytest.mark.parametrize("value", ["$robot", {"$add": [1, 1]}, {"a.b": 1}, {"": None}, [[[]]], 2**62])
def test_params_are_stored_as_they_are(value):
    task = services.submit({"robot": make_robot().name, "handler": "echo", "params": {"value": value}}, by="test")
    assert fields_of(task)["params"] == {"value": value}


def test_params_are_stored_with_their_defaults():
    task = services.submit({"robot": make_robot().name, "handler": "wait", "params": {"seconds": 1}}, by="test")
    assert fields_of(task)["params"] == {"seconds": 1, "steps": 10}
