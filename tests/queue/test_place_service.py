"""The place of a task in the queue of its robot, changed by hand."""

import random

import pytest

from fmv import audit
from tasks.models import FINISHED, WAITING, Status, Task
from tasks.models.status import MAX_PRIORITY
from tasks.queue import place, services
from tasks.queue.errors import NotQueued, NotWaiting
from tests.support.factories import make_robot, make_task
from tests.support.probes import at_once, claim, fields_of, make_task_in, statuses, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def order(robot) -> list[Task]:
    """Run the robot's queue; return the tasks in the order in which they started."""
    found = []
    while task := take(robot):
        found.append(task)
        assert task.succeed(None, "")
    return found


@pytest.mark.parametrize("status", WAITING)
def test_a_waiting_task_gets_another_priority_and_its_history_says_so(status):
    task = make_task_in(status, priority=4)
    before = fields_of(task)
    assert place.prioritize(task, 9, by="amy").priority == 9
    after = fields_of(task)
    assert {name for name in after if after[name] != before[name]} == {"priority", "history", "changed_at"}
    line = after["history"][-1]
    assert (line["status"], line["attempt"], line["note"]) == (status, before["attempt"], "priority 4 → 9 by amy")
    [entry] = audit.of("task", task.pk)
    assert (entry.action, entry.by, entry.text) == ("task.priority", "amy", "4 → 9")


def test_the_same_priority_again_changes_nothing():
    task = make_task(robot=make_robot(), priority=4)
    before = fields_of(task)
    place.prioritize(task, 4, by="amy")
    assert fields_of(task) == before
    assert not audit.of("task", task.pk)


@pytest.mark.parametrize("status", [Status.STARTED, *FINISHED])
def test_what_runs_or_is_over_keeps_its_priority(status):
    task = make_task_in(status)
    before = fields_of(task)
    with pytest.raises(NotWaiting):
        place.prioritize(task, 9, by="amy")
    assert fields_of(task) == before


@pytest.mark.parametrize("status", [status for status in Status if status != Status.QUEUED])
def test_only_a_queued_task_is_put_in_front(status):
    task = make_task_in(status)
    before = fields_of(task)
    with pytest.raises(NotQueued):
        place.put_first(task, by="amy")
    assert fields_of(task) == before


def test_put_in_front_it_is_the_next_whatever_the_others_have():
    for _ in range(20):
        robot = make_robot()
        tasks = [make_task(robot=robot, priority=random.choice([0, 4, 8, 9])) for _ in range(8)]
        chosen = random.sample(tasks, 3)
        for task in chosen:
            place.put_first(task, by="amy")
            assert place.before(Task.objects.get(pk=task.pk)) == 0
        shown = list(Task.objects.queued().of_robot(robot.name).next_first().values_list("pk", flat=True))
        assert [task.pk for task in order(robot)] == shown
        assert shown[:3] == [task.pk for task in reversed(chosen)]
        rest = sorted((task for task in tasks if task not in chosen), key=lambda task: (-task.priority, task.pk))
        assert shown[3:] == [task.pk for task in rest]


def test_put_in_front_it_gets_the_least_priority_that_is_enough():
    robot = make_robot()
    old, first, last = (make_task(robot=robot, priority=priority) for priority in (2, 4, 4))
    assert place.put_first(first, by="amy").priority == 4  # it is the first
    assert not audit.of("task", first.pk)
    assert place.put_first(last, by="amy").priority == 5
    assert place.put_first(old, by="amy").priority == 5  # it is older than the first, which has that
    assert fields_of(last)["history"][-1]["note"] == "put in front by amy, priority 4 → 5"


def test_in_front_of_the_most_urgent_it_exceeds_the_greatest_priority_and_its_retry_does_not(bells):
    robot = make_robot()
    make_task(robot=robot, priority=MAX_PRIORITY)
    task = place.put_first(make_task(robot=robot, handler="noop", params={}), by="amy")
    assert task.priority == MAX_PRIORITY + 1
    assert bells() == [("tasks.run_next", robot.name, 4)]
    services.cancel(task, by="amy")
    again = services.retry(Task.objects.get(pk=task.pk), by="amy")
    assert again.priority == MAX_PRIORITY


def test_a_task_that_can_run_comes_before_one_that_cannot_and_is_rung_for(bells):
    robot = make_robot()
    make_task(robot=robot, handler="carry", runs_on="robot")
    task = make_task(robot=robot, handler="noop", params={})
    assert take(robot) is None
    place.put_first(task, by="amy")
    assert bells() == [("tasks.run_next", robot.name, 4)]
    claimed = take(robot)
    assert claimed is not None
    assert claimed.pk == task.pk


def test_times_and_idempotency_keys_stay_as_they_are():
    robot, other = make_robot(), make_robot()
    run = {"robot": robot.name, "handler": "noop"}
    task = services.submit(run, by="test", key="k")
    place.prioritize(task, 9, by="amy")
    services.move(Task.objects.get(pk=task.pk), to=other.name, by="amy")
    again = services.submit(run, by="test", key="k")
    assert again.pk == task.pk
    assert Task.objects.count() == 1
    assert (fields_of(task)["robot"], fields_of(task)["priority"]) == (other.name, 9)


def test_how_many_come_before_it():
    robot = make_robot()
    tasks = [make_task(robot=robot, priority=priority) for priority in (4, 4, 9, 0)]
    make_task(robot=make_robot(), priority=9)
    assert [place.before(task) for task in tasks] == [1, 2, 0, 3]
    assert place.before(make_task_in(Status.STARTED, robot=robot.name)) is None


def test_a_change_against_a_claim():
    for _ in range(10):
        robot = make_robot()
        task = make_task(robot=robot)

        def change(task=task):
            try:
                place.prioritize(task, 9, by="amy")
            except NotWaiting:
                return False
            return True

        claimed, changed = at_once(lambda robot=robot: claim(robot.name), change)
        seen = statuses(task)
        assert seen in ([["STARTED"], ["QUEUED"], ["QUEUED", "STARTED"]])
        assert (("QUEUED" in seen), "STARTED" in seen) == (changed, bool(claimed))


def test_two_put_one_task_in_front_and_two_tasks():
    for _ in range(6):
        robot = make_robot()
        make_task(robot=robot, priority=4)
        one, other = make_task(robot=robot), make_task(robot=robot)
        at_once(*[lambda task=task, by=by: place.put_first(task, by=by) for task in (one, other) for by in ("a", "b")])
        first = [task.pk for task in order(robot)][:2]
        assert set(first) == {one.pk, other.pk}
