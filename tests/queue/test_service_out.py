"""Taking a robot out of service with its queue kept, cancelled or moved; and putting it back."""

import pytest

from fmv import audit
from fmv.errors import InvalidInput
from robots.errors import UnknownRobot
from robots.models import Robot
from tasks.models import FINISHED, WAITING, Bulk, Status, Task
from tasks.models.bulk import BulkStatus
from tasks.queue import bulk, services
from tasks.queue.errors import RobotOutOfService
from tests.support.factories import make_robot, make_task
from tests.support.probes import at_once, fields_of, listening, make_task_in, started, statuses, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def make_queue(robot):
    return [make_task_in(status, robot=robot.name) for status in WAITING for _ in range(2)]


def take_out(robot, **options):
    return services.take_out_of_service(robot.name, by="amy", **options)


def test_by_itself_it_keeps_its_queue(bells):
    robot = make_robot()
    queue = make_queue(robot)
    before = [fields_of(task) for task in queue]
    changed, run = take_out(robot)
    assert (changed.enabled, Robot.objects.get(pk=robot.pk).enabled, run) == (False, False, None)
    assert [fields_of(task) for task in queue] == before
    [entry] = audit.of("robot", robot.name)
    assert (entry.action, entry.by) == ("robot.disable", "amy")
    assert entry.text == "in service: yes → no; its queue waits"
    assert bells() == []


def test_it_can_cancel_the_waiting_tasks_only():
    robot, other = make_robot(), make_robot()
    runs = started(robot=robot)
    queue, others = make_queue(robot), make_queue(other)
    done = [make_task_in(status, robot=robot.name) for status in FINISHED]
    _, run = take_out(robot, queue="cancel")
    assert {statuses(task)[-1] for task in queue} == {"REVOKED"}
    assert (run.status, run.found, run.done) == (BulkStatus.DONE, 6, 6)
    assert not fields_of(runs)["cancel_requested"]
    assert all(len(statuses(task)) == 2 for task in others + done)
    [entry] = audit.of("robot", robot.name)
    assert entry.text == "in service: yes → no; its queue is cancelled"
    [entry] = audit.of("bulk", run.pk)
    assert entry.text.endswith(
        f"robot {robot.name}, status SCHEDULED or QUEUED or RETRY; {robot.name} is out of service"
    )


def test_it_can_move_the_waiting_tasks_to_another_robot(bells):
    robot, other = make_robot(), make_robot(lanes=2)
    queue = make_queue(robot)
    bells()
    _, run = take_out(robot, queue="move", to=other.name)
    assert {fields_of(task)["robot"] for task in queue} == {other.name}
    assert (run.status, run.done) == (BulkStatus.DONE, 6)
    assert {name for task, name, _ in bells() if task == "tasks.run_next"} == {other.name}
    [entry] = audit.of("robot", robot.name)
    assert entry.text == f"in service: yes → no; its queue moves to {other.name}"


def test_it_moves_nothing_to_itself_to_an_unknown_robot_or_to_one_out_of_service():
    robot, out = make_robot(), make_robot(enabled=False)
    queue = make_queue(robot)
    for to, error in (
        (robot.name, InvalidInput),
        ("Nobody", UnknownRobot),
        ("", UnknownRobot),
        (out.name, RobotOutOfService),
    ):
        with pytest.raises(error):
            take_out(robot, queue="move", to=to)
    assert Robot.objects.get(pk=robot.pk).enabled
    assert {fields_of(task)["robot"] for task in queue} == {robot.name}
    assert not Bulk.objects.exists()


def test_an_unknown_robot_is_none():
    for act in (services.put_in_service, services.take_out_of_service):
        with pytest.raises(UnknownRobot):
            act("Nobody", by="amy")


def test_a_long_queue_takes_no_request_hostage(monkeypatch, bells):
    monkeypatch.setattr(services, "REQUEST_BUDGET", 0)
    monkeypatch.setattr(bulk, "STEP_SIZE", 2)
    robot = make_robot()
    queue = make_queue(robot)
    _, run = take_out(robot, queue="cancel")
    assert (run.status, run.done) == (BulkStatus.RUNNING, 2)
    assert ("tasks.work_on_bulks", "", 4) in [(name, arg, 4) for name, arg, _ in bells()]
    bulk.run(run)
    assert run.done == len(queue)


def test_a_queue_of_thousands_costs_a_request_a_bounded_number_of_round_trips(monkeypatch):
    monkeypatch.setattr(services, "REQUEST_BUDGET", 0)
    robot = make_robot()
    like = {"robot": robot.name, "handler": "noop", "timeout": 30.0, "requested_by": "test"}
    Task.objects.bulk_create(Task(**like) for _ in range(2000))
    with listening() as commands:
        _, run = take_out(robot, queue="cancel")
    assert len(commands.sent) < 25, commands.sent
    assert (run.status, run.done) == (BulkStatus.RUNNING, bulk.STEP_SIZE)


def test_put_back_it_goes_on(bells):
    robot = make_robot(enabled=False, lanes=2)
    make_task(robot=robot)
    assert services.put_in_service(robot.name, by="amy").enabled
    assert bells() == [("tasks.run_next", robot.name, 4)] * 2
    [entry] = audit.of("robot", robot.name)
    assert (entry.action, entry.text) == ("robot.enable", "in service: no → yes")


@pytest.mark.parametrize("queue", ["cancel", "move"])
def test_taking_it_out_against_a_submit(queue):
    other = make_robot()
    for _ in range(12):
        robot = make_robot()

        def submit(robot=robot):
            try:
                return services.submit({"robot": robot.name, "handler": "noop"}, by="test")
            except RobotOutOfService:
                return None

        options = {"to": other.name} if queue == "move" else {}
        task, _ = at_once(submit, lambda robot=robot, options=options: take_out(robot, queue=queue, **options))
        assert take(robot) is None
        if task is not None:  # seen to, or too late for that: then it waits
            stored = Task.objects.get(pk=task.pk)
            seen_to = stored.status == Status.REVOKED if queue == "cancel" else stored.robot == other.name
            assert seen_to or (stored.status, stored.robot) == (Status.QUEUED, robot.name)


def test_taking_it_out_against_a_claim():
    for _ in range(12):
        robot = make_robot()
        task = make_task(robot=robot)
        claimed, _ = at_once(
            lambda robot=robot: take(robot),
            lambda robot=robot: take_out(robot, queue="cancel"),
        )
        assert statuses(task) == (["STARTED"] if claimed else ["REVOKED"])
