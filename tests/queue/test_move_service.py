"""Moving a waiting task to another robot."""

import pytest

from fmv import audit
from robots.errors import UnknownRobot
from tasks.models import FINISHED, WAITING, Status, Task
from tasks.queue import services
from tasks.queue.errors import NotWaiting, RobotOutOfService
from tests.support.factories import make_robot, make_task
from tests.support.probes import at_once, claim, fields_of, make_task_in, started, statuses, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.mark.parametrize("status", WAITING)
def test_a_waiting_task_is_moved_and_its_history_says_so(status, bells):
    old, new = make_robot().name, make_robot().name
    task = make_task_in(status, robot=old)
    before = fields_of(task)
    moved = services.move(task, to=new, by="amy")
    after = fields_of(task)
    assert moved.robot == after["robot"] == new
    assert {name for name in after if after[name] != before[name]} == {"robot", "history", "changed_at"}
    line = after["history"][-1]
    assert (line["status"], line["attempt"]) == (status, before["attempt"])
    assert line["note"] == f"moved from {old} to {new} by amy"
    assert bells() == ([("tasks.run_next", new, 4)] if status == Status.QUEUED else [])
    [entry] = audit.of("task", task.pk)
    assert (entry.action, entry.by, entry.text) == ("task.move", "amy", f"from {old} to {new}")


@pytest.mark.parametrize("name", ['{} $robot "', "$status", "a\\b 🤖"])
def test_odd_names_are_kept_as_they_are(name):
    task = make_task_in(Status.QUEUED, robot=name)
    services.move(task, to=make_robot(name=f"{name} 2").name, by="amy")
    assert fields_of(task)["history"][-1]["note"] == f"moved from {name} to {name} 2 by amy"


@pytest.mark.parametrize("status", [Status.STARTED, *FINISHED])
def test_a_running_or_finished_task_is_not_moved(status):
    task = make_task_in(status)
    before = fields_of(task)
    with pytest.raises(NotWaiting):
        services.move(task, to=make_robot().name, by="amy")
    assert fields_of(task) == before
    assert not audit.of("task", task.pk)


def test_a_move_to_where_it_is_changes_nothing():
    task = make_task(robot=make_robot())
    before = fields_of(task)
    assert services.move(task, to=task.robot, by="amy").robot == task.robot
    assert fields_of(task) == before


def test_a_task_that_has_started_meanwhile_stays():
    task = make_task(robot=make_robot())
    assert claim(task.robot)
    with pytest.raises(NotWaiting):
        services.move(task, to=make_robot().name, by="amy")


def test_a_task_that_was_moved_meanwhile_is_moved_from_where_it_is():
    first, second, third = (make_robot().name for _ in range(3))
    seen = make_task(robot=first)
    services.move(Task.objects.get(pk=seen.pk), to=second, by="bob")
    services.move(seen, to=third, by="amy")
    notes = [line["note"] for line in fields_of(seen)["history"]]
    assert notes == [f"moved from {first} to {second} by bob", f"moved from {second} to {third} by amy"]


def test_it_moves_to_no_robot_that_would_keep_it_waiting():
    task = make_task(robot=make_robot())
    with pytest.raises(UnknownRobot, match="no robot Nobody"):
        services.move(task, to="Nobody", by="amy")
    with pytest.raises(RobotOutOfService, match="is out of service: put it in service first"):
        services.move(task, to=make_robot(enabled=False).name, by="amy")
    assert statuses(task) == []


def test_a_moved_task_is_run_by_its_new_robot_in_its_order():
    old, new = make_robot(), make_robot()
    waits = make_task(robot=new, priority=4, handler="noop", params={})
    urgent = make_task(robot=old, priority=9, handler="noop", params={})
    services.move(urgent, to=new.name, by="amy")
    assert claim(old.name) is None
    assert claim(new.name).pk == urgent.pk
    assert statuses(waits) == []


def test_move_against_claim():
    outcomes = set()
    for number in range(15):
        old, new = make_robot(), make_robot()
        task = make_task(robot=old)

        def move(task=task, new=new):
            try:
                return services.move(task, to=new.name, by="amy")
            except NotWaiting:
                return None

        claimed, moved = at_once(lambda old=old: take(old), move)
        stored = Task.objects.get(pk=task.pk)
        assert bool(claimed) is not bool(moved), number
        if claimed:
            assert (stored.robot, stored.status, stored.lane) == (old.name, Status.STARTED, f"{old.name}/0")
            assert statuses(task) == ["STARTED"]
        else:
            assert (stored.robot, stored.status, stored.lane) == (new.name, Status.QUEUED, None)
            assert statuses(task) == ["QUEUED"]
        outcomes.add(bool(claimed))
    assert outcomes


def test_two_move_one_task():
    for _ in range(8):
        old, one, other = make_robot(), make_robot(), make_robot()
        task = make_task(robot=old)
        at_once(*[lambda task=task, to=to: services.move(task, to=to.name, by="amy") for to in (one, other)])
        notes = [line["note"] for line in fields_of(task)["history"]]
        last = fields_of(task)["robot"]
        first = one.name if last == other.name else other.name
        assert notes == [f"moved from {old.name} to {first} by amy", f"moved from {first} to {last} by amy"]


def test_move_against_cancel():
    for _ in range(8):
        task, new = make_task(robot=make_robot()), make_robot()
        started(robot=new)

        def move(task=task, new=new):
            try:
                services.move(task, to=new.name, by="amy")
            except NotWaiting:
                return False
            return True

        moved, _ = at_once(move, lambda task=task: services.cancel(task, by="bob"))
        assert statuses(task) == (["QUEUED", "REVOKED"] if moved else ["REVOKED"])
