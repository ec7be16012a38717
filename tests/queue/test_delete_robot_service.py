import pytest

from robots.models import Robot
from tasks.models import FINISHED, UNFINISHED, LogLine, Status, Task
from tasks.queue import services
from tasks.queue.errors import RobotHasWork
from tests.support.factories import make_robot
from tests.support.probes import make_task_in

pytestmark = pytest.mark.django_db(transaction=True)


def test_it_goes_with_its_finished_tasks_and_their_logs():
    robot, other = make_robot(), make_robot()
    for status in FINISHED:
        for name in (robot.name, other.name):
            task = make_task_in(status, robot=name)
            LogLine.objects.create(task=task.pk, attempt=1, text="line")
    services.delete_robot(robot, by="amy")
    assert list(Robot.objects.all()) == [other]
    assert set(Task.objects.values_list("robot", flat=True)) == {other.name}
    assert set(LogLine.objects.values_list("task", flat=True)) == set(Task.objects.values_list("pk", flat=True))


def test_it_goes_with_more_tasks_than_one_step_takes(monkeypatch):
    monkeypatch.setattr(services, "DELETE_STEP", 3)
    robot = make_robot()
    for _ in range(7):
        make_task_in(Status.SUCCESS, robot=robot.name)
    services.delete_robot(robot, by="amy")
    assert not Task.objects.exists()
    assert not Robot.objects.exists()


@pytest.mark.parametrize("status", UNFINISHED)
def test_a_robot_with_work_stays_with_all_its_tasks(status):
    robot = make_robot()
    make_task_in(status, robot=robot.name)
    make_task_in(Status.SUCCESS, robot=robot.name)
    with pytest.raises(RobotHasWork):
        services.delete_robot(robot, by="amy")
    assert Robot.objects.exists()
    assert Task.objects.count() == 2
