"""Workers with other code than the process that submitted a task: they leave it to one that can run it."""

import os

import pytest

from fmv.mongodb.server import server_now
from tasks import registry
from tasks.models import Status, Task, WorkerProcess
from tasks.queue import periodic, services
from tasks.reports.fleet import unknown_handlers
from tasks.worker import claim
from tasks.worker.claim import MAX_PASSED_ON, run_next
from tests.conftest import wait_until
from tests.support.factories import make_process, make_robot, make_task
from tests.support.probes import fields_of, using_broker

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def robot():
    return make_robot(name="R2", lanes=2)


def status(task: Task) -> str:
    return str(fields_of(task)["status"])


def test_a_handler_that_this_worker_does_not_know_is_left_with_the_tasks_behind_it(robot, bells, monkeypatch):
    monkeypatch.setattr(claim, "TIME_SLICE", 60)
    unknown, behind, urgent = (
        make_task(robot=robot, handler="new"),
        make_task(robot=robot),
        make_task(robot=robot, priority=9),
    )
    elsewhere = make_task()
    before = fields_of(unknown)
    for name in (robot.name, elsewhere.robot):
        run_next(name, "message")
    assert fields_of(unknown) == before
    assert [status(task) for task in (urgent, unknown, behind, elsewhere)] == ["SUCCESS", "QUEUED", "QUEUED", "SUCCESS"]
    assert bells() == []  # nobody could run it: the periodic step rings again


def test_parameters_of_another_version_are_left_unless_this_worker_takes_them(robot, bells):
    taken = make_task(robot=robot, params={"seconds": 0}, params_version="other")
    left = make_task(robot=robot, params={"minutes": 1}, params_version="other")
    run_next(robot.name, "message")
    assert (status(taken), status(left)) == ("SUCCESS", "QUEUED")
    assert fields_of(left)["attempt"] == 0


def test_parameters_of_this_workers_version_that_are_no_longer_valid_fail(robot, bells):
    mine = registry.get("wait").params_version
    task = make_task(robot=robot, params={"minutes": 1}, params_version=mine)
    run_next(robot.name, "message")
    assert (status(task), fields_of(task)["error"]["type"]) == ("FAILURE", "CannotRun")


def test_the_message_is_passed_on_while_a_living_worker_knows_the_handler_but_not_for_ever(robot, bells):
    make_process("host/1", handlers=["new@1"])
    task = make_task(robot=robot, handler="new", priority=7)
    run_next(robot.name, "message")
    assert bells() == [("tasks.run_next", robot.name, 7)]
    run_next(robot.name, "message", MAX_PASSED_ON)
    assert bells() == []
    WorkerProcess.objects.update(stopped_at=server_now())
    run_next(robot.name, "message")
    assert bells() == []
    assert status(task) == Status.QUEUED


def test_a_submit_notes_which_parameters_it_knew(robot, bells):
    task = services.submit({"robot": robot.name, "handler": "wait", "params": {"seconds": 0}}, by="test")
    assert fields_of(task)["params_version"] == registry.get("wait").params_version
    assert Task.submitted(task.as_submitted()).params_version == task.params_version
    earlier = {name: value for name, value in task.as_submitted().items() if name != "params_version"}
    assert Task.submitted(earlier).params_version is None


def test_equal_parameters_have_equal_versions_and_others_do_not():
    class Params(registry.Params):
        value: int

    def version(params: type[registry.Params]) -> str:
        return registry.Handler("x", lambda ctx: None, params, 1.0, registry.RetryPolicy()).params_version

    first = Params

    class Params(registry.Params):
        value: int

    class Other(registry.Params):
        value: str

    assert version(first) == version(Params) != version(Other)


@pytest.mark.timeout(90)
def test_an_old_worker_leaves_a_new_handler_to_a_new_worker(broker_url, worker, tmp_path, robot):
    with using_broker(broker_url):
        worker(broker_url, name="old", FMV_APPS="")
        wait_until(lambda: WorkerProcess.objects.known_handlers(server_now()))
        task = services.submit({"robot": robot.name, "handler": "echo", "params": {"value": 7}}, by="test")
        wait_until(lambda: "is left: this worker does not know" in (tmp_path / "old.log").read_text())
        assert status(task) == Status.QUEUED
        assert unknown_handlers() == {"echo": 1}
        worker(broker_url, name="new", FMV_APPS=os.environ["FMV_APPS"])
        wait_until(lambda: not unknown_handlers())

        def has_succeeded() -> bool:
            periodic.ring_waiting()
            return status(task) == Status.SUCCESS

        wait_until(has_succeeded)
        assert fields_of(task)["attempt"] == 1
