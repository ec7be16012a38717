"""Moving a robot's queue, or a task, to robots with a label."""

import pytest

from fmv import audit
from robots.models import Robot
from tasks.models import WAITING, Bulk, Status, Task
from tasks.models.bulk import BulkStatus
from tasks.queue import bulk, services
from tasks.queue.errors import CannotMove
from tests.support.agent_requests import Agent
from tests.support.agent_requests import submit as submit_on_robot
from tests.support.factories import make_robot, make_task
from tests.support.probes import FUTURE, fields_of, listening, make_task_in, started, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def queued(*robots: Robot) -> list[int]:
    return [Task.objects.queued().of_robot(robot.name).count() for robot in robots]


def test_each_task_goes_to_the_robot_with_the_shortest_queue(bells):
    busy, runs, idle = (make_robot(name=name, labels=["forklift", "x"]) for name in "ABC")
    make_robot(name="D")
    make_robot(name="E", labels=["forklift"], enabled=False)
    held = make_robot(name="F", labels=["forklift"])
    services.hold_queue(held.name, by="amy")
    for _ in range(3):
        make_task(robot=busy)
    started(robot=runs)
    old = make_robot(name="Old", labels=["forklift"])
    tasks = [make_task(robot=old) for _ in range(5)]
    bells()
    run = services.move_queue(old.name, by="amy", label="forklift")
    assert (run.status, run.done, run.skipped) == (BulkStatus.DONE, 5, 0)
    assert queued(busy, runs, idle, old) == [3, 2, 3, 0]
    for task in tasks:
        stored = fields_of(task)
        assert stored["history"][-1]["note"] == f"moved from Old to {stored['robot']} by amy, bulk run {run.pk}"
    assert {name for task, name, _ in bells() if task == "tasks.run_next"} == {"B", "C"}
    [entry] = audit.of("bulk", run.pk)
    assert entry.text.startswith("move tasks to robots with the label forklift: robot Old")


def test_each_robot_runs_what_it_got_by_priority_then_age():
    old, new = make_robot(), [make_robot(labels=["a"]) for _ in range(3)]
    for number in range(24):
        make_task(robot=old, priority=number % 3)
    services.move_queue(old.name, by="amy", label="a")
    for robot in new:
        found = []
        while task := take(robot):
            found.append((-task.priority, task.pk))
            assert task.succeed(None, "")
        assert found == sorted(found)
        assert len(found) == 8
        assert {priority for priority, _ in found} == {0, -1, -2}


def test_times_expiry_and_attempts_go_along():
    old, new = make_robot(), make_robot(labels=["a"])
    tasks = [make_task_in(status, robot=old.name, run_at=FUTURE, expires_at=FUTURE) for status in WAITING]
    before = [fields_of(task) for task in tasks]
    run = services.move_queue(old.name, by="amy", label="a")
    assert run.done == 3
    for task, was in zip(tasks, before, strict=True):
        now = fields_of(task)
        assert {name for name in now if now[name] != was[name]} == {"robot", "history", "changed_at"}
        assert now["robot"] == new.name


@pytest.mark.parametrize("where", [{"to": "New"}, {"label": "a"}])
def test_a_task_that_cannot_run_there_stays_and_the_run_says_so_by_name(where):
    old, new = make_robot(), make_robot(name="New", labels=["a"])
    Agent.signed_in(new, handlers=("drive",))
    stays, goes, drives = (
        submit_on_robot(old),
        make_task(robot=old),
        make_task(robot=old, handler="drive", runs_on="robot"),
    )
    run = services.move_queue(old.name, by="amy", **where)
    assert (run.done, run.skipped) == (2, 1)
    [failure] = run.failures
    assert failure["task"] == str(stays.pk)
    assert "turn" in failure["text"]
    assert ("New" if "to" in where else "label a") in failure["text"]
    assert [fields_of(task)["robot"] for task in (stays, goes, drives)] == [old.name, "New", "New"]


def test_out_of_service_its_queue_is_spread():
    old, new = make_robot(name="Old", labels=["a"]), make_robot(labels=["a"])
    task = make_task(robot=old)
    robot, run = services.take_out_of_service("Old", by="amy", queue="move", label="a")
    assert (robot.enabled, run.done, fields_of(task)["robot"]) == (False, 1, new.name)
    [entry] = audit.of("robot", "Old")
    assert entry.text == "in service: yes → no; its queue moves to robots with the label a"


def test_without_another_robot_that_starts_tasks_nothing_changes():
    old = make_robot(name="Old", labels=["a"])
    services.hold_queue(make_robot(labels=["a"]).name, by="amy")
    task = make_task(robot=old)
    for act in (
        lambda: services.take_out_of_service("Old", by="amy", queue="move", label="a"),
        lambda: services.move_queue("Old", by="amy", label="a"),
        lambda: services.move(task, by="amy", label="a"),
    ):
        with pytest.raises(CannotMove, match="No other robot with the label a"):
            act()
    assert Robot.objects.get(pk="Old").enabled
    assert not Bulk.objects.exists()
    assert fields_of(task)["robot"] == "Old"


def test_a_step_that_is_carried_out_twice_moves_each_task_once(monkeypatch):
    old, new = make_robot(), [make_robot(labels=["a"]) for _ in range(2)]
    tasks = [make_task(robot=old) for _ in range(6)]
    run = bulk.start("move", by="amy", conditions={"status": ["QUEUED"], "robot": old.name}, label="a")
    assert bulk._plan(run)
    bulk.move(run, run.plan)
    bulk.run(run)
    assert (run.done, run.skipped) == (6, 0)
    assert queued(*new) == [3, 3]
    assert {len(fields_of(task)["history"]) for task in tasks} == {1}


def test_a_thousand_tasks_and_a_hundred_robots_cost_a_bounded_number_of_commands():
    old = make_robot()
    Robot.objects.bulk_create(
        Robot(name=f"R{number}", location="-", description="-", labels=["a"]) for number in range(100)
    )
    like = {"robot": old.name, "handler": "noop", "timeout": 30.0, "requested_by": "test"}
    Task.objects.bulk_create(Task(**like) for _ in range(1000))
    with listening() as commands:
        run = bulk.run(bulk.start("move", by="amy", conditions={"robot": old.name}, label="a"))
    assert (run.done, run.status) == (1000, BulkStatus.DONE)
    steps = 1000 // bulk.STEP_SIZE
    assert len([each for each in commands.sent if each == "update tasks_task"]) == steps * 100
    assert len(commands.sent) < steps * 100 + steps * 20 + 20
    assert {Task.objects.of_robot(f"R{number}").count() for number in range(100)} == {10}


def test_one_task_moves_to_the_shortest_queue(bells):
    old, short, long = make_robot(), make_robot(labels=["a"]), make_robot(labels=["a"])
    make_task(robot=long)
    task = make_task(robot=old)
    bells()
    moved = services.move(task, by="amy", label="a")
    assert (moved.robot, moved.status) == (short.name, Status.QUEUED)
    assert bells() == [("tasks.run_next", short.name, 4)]
