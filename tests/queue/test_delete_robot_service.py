import pytest

from robots.errors import Changed, UnknownRobot
from robots.models import Robot
from tasks.models import FINISHED, UNFINISHED, LogLine, Status, Task
from tasks.queue import services
from tasks.queue.errors import RobotHasWork
from tests.support.factories import make_robot
from tests.support.probes import listening, make_task_in

pytestmark = pytest.mark.django_db(transaction=True)


def test_it_goes_with_its_finished_tasks_and_their_logs():
    robot, other = make_robot(), make_robot()
    for status in FINISHED:
        for name in (robot.name, other.name):
            task = make_task_in(status, robot=name)
            LogLine.objects.create(task=task.pk, attempt=1, text="line")
    services.delete_robot(robot.name, by="amy")
    assert list(Robot.objects.all()) == [other]
    assert set(Task.objects.values_list("robot", flat=True)) == {other.name}
    assert set(LogLine.objects.values_list("task", flat=True)) == set(Task.objects.values_list("pk", flat=True))


def test_it_goes_with_more_tasks_than_one_step_takes(monkeypatch):
    monkeypatch.setattr(services, "DELETE_STEP", 3)
    robot = make_robot()
    for _ in range(7):
        make_task_in(Status.SUCCESS, robot=robot.name)
    services.delete_robot(robot.name, by="amy")
    assert not Task.objects.exists()
    assert not Robot.objects.exists()


@pytest.mark.parametrize("status", UNFINISHED)
def test_a_robot_with_work_stays_with_all_its_tasks(status):
    robot = make_robot()
    make_task_in(status, robot=robot.name)
    make_task_in(Status.SUCCESS, robot=robot.name)
    with pytest.raises(RobotHasWork):
        services.delete_robot(robot.name, by="amy")
    assert Robot.objects.exists()
    assert Task.objects.count() == 2


@pytest.mark.parametrize("status", [Status.REVOKED, Status.FAILURE])
def test_a_robot_that_may_still_run_a_task_which_is_over_stays(status):
    robot = make_robot()
    task = make_task_in(status, robot=robot.name, lane=f"{robot.name}/0")
    with pytest.raises(RobotHasWork):
        services.delete_robot(robot.name, by="amy")
    assert Robot.objects.exists()
    assert task.free_lane("the robot stands still")
    services.delete_robot(robot.name, by="amy")
    assert not Task.objects.exists()


def test_a_delete_that_was_cut_off_is_completed_by_the_same_one(monkeypatch):
    robot = make_robot()
    make_task_in(Status.SUCCESS, robot=robot.name)
    with monkeypatch.context() as broken:
        broken.setattr(services, "delete_every", lambda tasks: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            services.delete_robot(robot.name, by="amy", revisions={robot.revision})
    services.delete_robot(robot.name, by="amy", revisions={robot.revision})
    assert not Task.objects.exists()
    with pytest.raises(UnknownRobot):
        services.delete_robot(robot.name, by="amy", revisions={robot.revision})


def test_a_refused_conditional_delete_changes_nothing():
    robot = make_robot()
    make_task_in(Status.SUCCESS, robot=robot.name)
    with pytest.raises(Changed):
        services.delete_robot(robot.name, by="amy", revisions={robot.revision + 1})
    assert Robot.objects.values().get() == Robot.objects.filter(enabled=True, revision=robot.revision).values().get()
    assert Task.objects.count() == 1


def test_a_conditional_delete_is_one_write_and_never_takes_the_robot_out_of_service():
    robot = make_robot()
    with listening() as commands:
        services.delete_robot(robot.name, by="amy", revisions={robot.revision})
    written = [
        body for sent, body in zip(commands.sent, commands.bodies, strict=True) if sent.endswith(" robots_robot")
    ]
    conditions = {"_id": robot.name, "revision": robot.revision}
    assert [body["deletes"][0]["q"] for body in written] == [conditions]
