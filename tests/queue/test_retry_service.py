import pytest

from robots.errors import UnknownRobot
from tasks.models import FINISHED, UNFINISHED, Status, Task
from tasks.queue import services
from tasks.queue.errors import NotFinished
from tests.support.factories import make_robot
from tests.support.probes import fields_of, make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.mark.parametrize("status", FINISHED)
def test_a_finished_task_is_submitted_again_as_a_new_one(status, bells):
    robot = make_robot()
    like = {"handler": "echo", "params": {"value": [1]}, "priority": 8, "labels": ["x"], "timeout": 7.0}
    old = make_task_in(status, robot=robot.name, max_attempts=5, **like)
    before = fields_of(old)
    new = services.retry(old, by="amy")
    assert new.pk != old.pk
    stored = fields_of(new)
    assert {name: stored[name] for name in like} == like
    assert (stored["robot"], stored["retry_of"], stored["max_attempts"]) == (robot.name, old.pk, 5)
    assert (stored["status"], stored["attempt"], stored["requested_by"]) == (Status.QUEUED, 0, "amy")
    assert (stored["result"], stored["error"], len(stored["history"])) == (None, None, 1)
    assert fields_of(old) == before
    assert bells() == [("tasks.run_next", robot.name, 8)]


@pytest.mark.parametrize("status", UNFINISHED)
def test_an_unfinished_task_is_not_repeated(status):
    task = make_task_in(status, robot=make_robot().name)
    with pytest.raises(NotFinished):
        services.retry(task, by="amy")
    assert Task.objects.count() == 1


def test_the_task_of_a_robot_that_is_gone_is_not_repeated():
    task = make_task_in(Status.FAILURE, robot="Gone")
    with pytest.raises(UnknownRobot):
        services.retry(task, by="amy")
    assert Task.objects.count() == 1


def test_a_robot_out_of_service_queues_it(bells):
    task = make_task_in(Status.FAILURE, robot=make_robot(enabled=False).name, params={"seconds": 0})
    assert services.retry(task, by="amy").status == Status.QUEUED
    assert bells() == []
