import pytest

from tasks.models import FINISHED, WAITING, Status, Task
from tasks.queue import services
from tasks.queue.errors import AlreadyFinished
from tests.support.factories import make_robot, make_task
from tests.support.probes import fields_of, make_task_in, started, statuses, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.mark.parametrize("status", WAITING)
def test_a_waiting_task_is_revoked(status):
    task = services.cancel(make_task_in(status), by="fry")
    assert (task.status, task.cancel_requested, task.run_at) == (Status.REVOKED, True, None)
    assert task.finished_at is not None
    assert task.history[-1]["note"] == "cancel asked for by fry"


def test_a_running_task_is_asked_to_stop():
    task = services.cancel(make_task_in(Status.STARTED), by="fry")
    assert (task.status, task.cancel_requested, task.finished_at) == (Status.STARTED, True, None)
    assert task.history[-1]["note"] == "cancel asked for by fry"


def test_asking_again_changes_nothing():
    task = services.cancel(make_task_in(Status.STARTED), by="fry")
    before = fields_of(task)
    services.cancel(task, by="leela")
    assert fields_of(task) == before


@pytest.mark.parametrize("status", FINISHED)
def test_a_finished_task_stays_as_it_is(status):
    task = make_task_in(status)
    before = fields_of(task)
    with pytest.raises(AlreadyFinished):
        services.cancel(task, by="fry")
    assert fields_of(task) == before


def test_it_looks_again_when_the_task_has_moved_on_meanwhile():
    robot = make_robot()
    seen = make_task(robot=robot)
    assert take(robot)
    task = services.cancel(seen, by="fry")
    assert (task.status, task.cancel_requested) == (Status.STARTED, True)


def test_it_says_when_the_task_has_ended_meanwhile():
    task = started()
    assert Task.objects.get(pk=task.pk).succeed(None, "")
    with pytest.raises(AlreadyFinished):
        services.cancel(task, by="fry")
    assert statuses(task)[-1] == Status.SUCCESS


def test_a_revoked_task_is_never_started():
    robot = make_robot()
    services.cancel(make_task(robot=robot), by="fry")
    assert take(robot) is None
