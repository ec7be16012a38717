"""One action on all tasks that match: each once, none left out, and counted correctly despite crashes."""

import datetime as dt
import random
import uuid
from collections import Counter

import pytest

from fmv import audit
from fmv.http import request_id
from robots.errors import UnknownRobot
from robots.models import Robot
from tasks import jobs
from tasks.models import FINISHED, UNFINISHED, WAITING, Bulk, Status, Task
from tasks.models.bulk import BulkStatus
from tasks.queue import bulk, services, submissions
from tasks.queue.errors import NothingToDo, RobotOutOfService
from tests.support.factories import make_robot, make_task
from tests.support.pipelines import pipeline
from tests.support.probes import PAST, at_once, claim, fields_of, make_task_in, started, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


@pytest.fixture
def small_steps(monkeypatch):
    monkeypatch.setattr(bulk, "STEP_SIZE", 3)


def make_tasks(count, status=Status.QUEUED, **fields):
    robot = fields.pop("robot", None) or make_robot().name
    return [make_task_in(status, robot=robot, **fields) for _ in range(count)]


def begin(action="cancel", conditions=None, **options):
    return bulk.start(action, by="amy", conditions=conditions or {}, **options)


def counts(run):
    run.refresh_from_db()
    return run.found, run.done, run.skipped


def repeats():
    """How often each task was repeated."""
    return Counter(Task.objects.exclude(retry_of=None).values_list("retry_of", flat=True))


def note_of(run):
    return f"cancel asked for by amy, bulk run {run.pk}"


# --- Start -----------------------------------------------------------------------------------------------------------


def test_a_run_says_who_began_what_and_rings_for_its_work(bells):
    token = request_id.current.set("request 7")
    run = begin("cancel", {"status": [Status.QUEUED], "robot": "Wall-E", "label": "night"})
    request_id.current.reset(token)
    stored = Bulk.objects.get(pk=run.pk)
    assert (stored.action, stored.by, stored.request_id) == ("cancel", "amy", "request 7")
    assert (stored.status, stored.expected, stored.found, stored.finished_at) == (BulkStatus.RUNNING, 0, 0, None)
    assert [name for name, _, _ in bells()] == ["tasks.work_on_bulks"]
    [entry] = audit.of("bulk", run.pk)
    assert (entry.by, entry.action, entry.request_id) == ("amy", "bulk.start", "request 7")
    assert entry.text == "cancel tasks: status QUEUED, robot Wall-E, label night"


def test_nothing_is_begun_that_could_not_be_done_to_any_task():
    for action, status in (("cancel", "SUCCESS"), ("retry", "QUEUED"), ("move", "STARTED")):
        with pytest.raises(NothingToDo):
            begin(action, {"status": [status]})
    assert not Bulk.objects.exists()


def test_conditions_are_kept_as_they_were_given():
    moment = dt.datetime(2026, 11, 23, 3, 4, 5, tzinfo=dt.UTC)
    ids = [make_task_in(Status.FAILURE, finished_at=moment).pk]
    given = {"finished_after": moment, "ids": ids, "stuck": False, "handler": "", "label": None}
    run = Bulk.objects.get(pk=begin("retry", given).pk)
    assert run.conditions == {"finished_after": moment.replace(tzinfo=None), "ids": [str(ids[0])]}
    assert bulk.in_words(run) == "retry tasks: finished from 2026-11-23 03:04:05 UTC, 1 chosen one by one"
    assert bulk.filter_in_words({}) == "all"
    assert counts(bulk.run(run))[0] == 1


def test_no_chosen_task_is_no_task():
    make_tasks(2)
    assert bulk.estimate({"ids": []}) == (0, False)
    assert counts(bulk.run(begin("cancel", {"ids": []}))) == (0, 0, 0)


def test_an_estimate_counts_what_the_act_can_be_done_to(monkeypatch):
    for status in Status:
        make_tasks(2, status, lane=None)
    assert bulk.estimate({}) == (14, False)
    assert bulk.estimate({}, "cancel") == (8, False)
    assert bulk.estimate({}, "retry") == (6, False)
    assert bulk.estimate({"status": ["QUEUED", "SUCCESS"]}, "move") == (2, False)
    assert bulk.estimate({"status": ["SUCCESS"]}, "cancel") == (0, False)
    monkeypatch.setattr(bulk, "MAX_ESTIMATE", 5)
    assert bulk.estimate({}) == (5, True)
    assert bulk.estimate({"status": ["QUEUED"]}) == (2, False)


# --- The acts --------------------------------------------------------------------------------------------------------


def test_all_that_match_are_cancelled(small_steps):
    robot = make_robot().name
    mine = [task for status in WAITING for task in make_tasks(3, status, robot=robot)]
    others = make_tasks(2) + make_tasks(2, Status.SUCCESS, robot=robot)
    run = bulk.run(begin("cancel", {"robot": robot}))
    assert (run.status, counts(run)) == (BulkStatus.DONE, (9, 9, 0))
    assert run.finished_at is not None
    for task in mine:
        stored = fields_of(task)
        assert (stored["status"], stored["history"][-1]["note"]) == (Status.REVOKED, note_of(run))
        assert len(stored["history"]) == 3
    assert {fields_of(task)["status"] for task in others} == {"QUEUED", "SUCCESS"}


def test_the_worker_of_a_started_one_is_asked_to_stop():
    task = started()
    run = bulk.run(begin())
    assert (fields_of(task)["status"], fields_of(task)["cancel_requested"]) == ("STARTED", True)
    assert counts(run) == (1, 1, 0)
    again = bulk.run(begin())
    assert counts(again) == (1, 0, 1)
    [failure] = again.failures
    assert failure["task"] == str(task.pk)
    assert "being cancelled already" in failure["text"]
    assert len(statuses(task)) == 2


def test_what_started_meanwhile_is_left_alone_where_the_filter_says_so(small_steps):
    robot = make_robot()
    task = make_task(robot=robot)
    run = begin("cancel", {"status": ["QUEUED"]})
    bulk._plan(run)
    assert claim(robot.name)
    bulk.run(run)
    assert not fields_of(task)["cancel_requested"]
    assert counts(run) == (1, 0, 1)


def test_all_that_match_are_tried_again(small_steps, bells):
    robot = make_robot(lanes=2)
    old = make_tasks(7, Status.FAILURE, robot=robot.name, labels=["x"], priority=8, params={"seconds": 1, "steps": 2})
    make_tasks(2, Status.SUCCESS, robot=robot.name)
    before = [fields_of(task) for task in old]
    token = request_id.current.set("request 8")
    run = begin("retry", {"status": ["FAILURE"]})
    request_id.current.reset(token)
    bulk.run(run)
    assert (run.status, counts(run), run.failures) == (BulkStatus.DONE, (7, 7, 0), [])
    assert repeats() == {task.pk: 1 for task in old}
    for new in Task.objects.exclude(retry_of=None):
        assert (new.robot, new.labels, new.priority, new.params) == (robot.name, ["x"], 8, {"seconds": 1, "steps": 2})
        assert (new.status, new.requested_by, new.request_id) == (Status.QUEUED, "amy", "request 8")
    assert [fields_of(task) for task in old] == before
    assert {name for task, name, _ in bells() if task == "tasks.run_next"} == {robot.name}


def test_odd_parameters_are_repeated_as_they_are():
    value = ["$status", {"$literal": {"a.b": "$$NOW"}}, {}, None, 1.5]
    [old] = make_tasks(1, Status.FAILURE, handler="echo", params={"value": value}, labels=["$robot"])
    assert counts(bulk.run(begin("retry"))) == (1, 1, 0)
    new = Task.objects.get(retry_of=old.pk)
    assert (new.params, new.labels) == ({"value": value}, ["$robot"])


def test_odd_conditions_are_kept_as_they_are():
    run = bulk.run(begin("cancel", {"label": "$labels", "robot": "$robot"}))
    assert Bulk.objects.get(pk=run.pk).conditions == {"label": "$labels", "robot": "$robot"}
    assert counts(run) == (0, 0, 0)


def test_a_task_that_was_retried_is_retried_again_on_request_only():
    robot = make_robot().name
    first, second = make_tasks(2, Status.FAILURE, robot=robot)
    services.retry(first, by="bob")
    run = bulk.run(begin("retry", {"status": ["FAILURE"]}))
    assert counts(run) == (2, 1, 1)
    assert run.failures == [{"task": str(first.pk), "text": "It was retried already"}]
    assert repeats() == {first.pk: 1, second.pk: 1}
    assert counts(bulk.run(begin("retry", {"status": ["FAILURE"]}))) == (2, 0, 2)
    assert counts(bulk.run(begin("retry", {"status": ["FAILURE"]}, again=True))) == (2, 2, 0)


def test_a_task_that_cannot_be_retried_is_reported_and_stops_no_other(small_steps):
    robot = make_robot().name
    good = make_tasks(4, Status.FAILURE, robot=robot)
    gone = make_tasks(2, Status.FAILURE, robot="Gone")
    odd = [make_task_in(Status.FAILURE, robot=robot, handler="unheard of")]
    odd += [make_task_in(Status.FAILURE, robot=robot, params={"seconds": "no number"})]
    run = bulk.run(begin("retry"))
    assert counts(run) == (8, 4, 4)
    texts = {failure["task"]: failure["text"] for failure in run.failures}
    assert set(texts) == {str(task.pk) for task in gone + odd}
    assert texts[str(gone[0].pk)] == "The robot Gone was deleted"
    assert texts[str(odd[0].pk)].startswith("It can no longer run: body.handler: No such handler")
    assert "body.params.seconds" in texts[str(odd[1].pk)]
    assert repeats() == {task.pk: 1 for task in good}


def test_of_many_failures_the_first_few_are_kept(monkeypatch):
    monkeypatch.setattr(bulk, "MAX_FAILURES", 3)
    tasks = make_tasks(5, Status.FAILURE, robot="Gone")
    run = bulk.run(begin("retry"))
    assert counts(run) == (5, 0, 5)
    assert [failure["task"] for failure in run.failures] == [str(task.pk) for task in tasks[:3]]


def test_waiting_tasks_are_moved_to_another_robot(small_steps, bells):
    old, new = make_robot().name, make_robot(lanes=2).name
    runs, own = started(robot=old), make_task_in(Status.QUEUED, robot=new)
    tasks = [task for status in WAITING for task in make_tasks(2, status, robot=old)]
    before = {task.pk: fields_of(task) for task in tasks}
    bells()
    run = bulk.run(begin("move", {"robot": old}, to=new))
    assert counts(run) == (6, 6, 0)
    for task in tasks:
        stored, changed = fields_of(task), {"robot", "history", "changed_at"}
        assert {name for name, value in stored.items() if value != before[task.pk][name]} == changed
        assert stored["robot"] == new
        line = stored["history"][-1]
        assert line["note"] == f"moved from {old} to {new} by amy, bulk run {run.pk}"
        assert (line["status"], line["attempt"]) == (stored["status"], stored["attempt"])
    assert fields_of(runs)["robot"] == old
    assert len(statuses(own)) == 2
    assert {name for task, name, _ in bells() if task == "tasks.run_next"} == {new}


def test_a_move_is_to_a_robot_that_takes_tasks():
    for to, error in (("Nobody", UnknownRobot), (make_robot(enabled=False).name, RobotOutOfService)):
        with pytest.raises(error):
            begin("move", to=to)
    assert not Bulk.objects.exists()


def test_nothing_moves_to_a_robot_that_is_gone_meanwhile():
    [task] = make_tasks(1)
    run = begin("move", to=make_robot(name="Gone").name)
    Robot.objects.filter(pk="Gone").delete()
    bulk.run(run)
    assert counts(run) == (1, 0, 1)
    assert statuses(task) == ["QUEUED", "QUEUED"]


def test_only_what_was_there_when_it_began_is_touched():
    [old] = make_tasks(1)
    run = begin()
    [new] = make_tasks(1)
    bulk.run(run)
    assert (statuses(old)[-1], statuses(new)[-1]) == ("REVOKED", "QUEUED")
    assert counts(run) == (1, 1, 0)


def test_a_retry_does_not_retry_its_own_tasks(small_steps):
    robot = make_robot().name
    make_tasks(4, Status.FAILURE, robot=robot)
    run = begin("retry", {"robot": robot})
    while bulk.step(run):
        Task.objects.unfinished().update(status=Status.FAILURE)  # as if they had failed at once
    assert counts(run) == (4, 4, 0)
    assert Task.objects.count() == 8


def test_a_plan_never_outgrows_a_document(monkeypatch):
    monkeypatch.setattr(bulk, "MAX_PLAN_SIZE", 3000)
    old = make_tasks(6, Status.FAILURE, handler="echo", params={"value": "x" * 1000})
    run = begin("retry")
    steps = 0
    while bulk.step(run):
        steps += 1
    assert steps == 3
    assert repeats() == {task.pk: 1 for task in old}
    assert counts(run) == (6, 6, 0)


# --- Stop ------------------------------------------------------------------------------------------------------------


def test_a_run_can_be_stopped_between_two_steps(small_steps):
    tasks = make_tasks(7)
    run = begin()
    assert bulk.step(run)
    assert bulk.stop(run, by="bob")
    assert (run.status, counts(run)) == (BulkStatus.STOPPED, (3, 3, 0))
    assert run.finished_at is not None
    assert not bulk.step(run)
    assert Counter(statuses(task)[-1] for task in tasks) == {"REVOKED": 3, "QUEUED": 4}
    assert [entry.action for entry in audit.of("bulk", run.pk)] == ["bulk.stop", "bulk.start"]
    assert not bulk.stop(run, by="bob")
    assert audit.of("bulk", run.pk).count() == 2


def test_a_run_that_is_over_cannot_be_stopped():
    run = bulk.run(begin())
    assert not bulk.stop(run, by="bob")
    assert Bulk.objects.get(pk=run.pk).status == BulkStatus.DONE


def test_the_step_under_way_at_a_stop_is_finished_and_counted(small_steps):
    make_tasks(7, Status.FAILURE)
    run = begin("retry")
    assert bulk._plan(run)
    assert bulk.stop(run, by="bob")
    assert counts(run) == (3, 3, 0)
    assert sum(repeats().values()) == 3
    assert not Bulk.objects.with_work().exists()


# --- Crashes and races -----------------------------------------------------------------------------------------------


class Crash(BaseException):
    pass


def crash_now_and_then(monkeypatch, where, what, chance=0.5):
    original = getattr(where, what)
    dice = random.Random(what)

    def crashing(*args, **options):
        if dice.random() < chance:
            raise Crash
        result = original(*args, **options)
        if dice.random() < chance:
            raise Crash
        return result

    monkeypatch.setattr(where, what, crashing)


def run_with_crashes(run):
    for _ in range(400):
        try:
            if not bulk.step(run):
                return
        except Crash:
            pass
    raise AssertionError("it never came to an end")


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (bulk, "_next"),
        (bulk, "_write"),
        (bulk, "_carry_out"),
        (submissions, "store"),
        (bulk, "ring_for"),
        (Task.objects._queryset_class, "bulk_create"),
    ],
)
def test_a_retry_that_dies_anywhere_goes_on_where_it_was(small_steps, monkeypatch, where, what):
    old = make_tasks(10, Status.FAILURE)
    make_tasks(2, Status.FAILURE, robot="Gone")
    run = begin("retry")
    crash_now_and_then(monkeypatch, where, what)
    run_with_crashes(run)
    assert repeats() == {task.pk: 1 for task in old}
    assert counts(run) == (12, 10, 2)
    assert len(run.failures) == 2


@pytest.mark.parametrize("what", ["revoke", "request_cancel", "_without_note", "_write"])
def test_a_cancel_that_dies_anywhere_is_counted_right(small_steps, monkeypatch, what):
    tasks = make_tasks(8)
    runs = started()
    run = begin()
    crash_now_and_then(monkeypatch, bulk if what.startswith("_") else Task.objects._queryset_class, what)
    run_with_crashes(run)
    assert counts(run) == (9, 9, 0)
    assert all(len(statuses(task)) == 3 for task in tasks)
    assert fields_of(runs)["cancel_requested"]


def test_a_move_that_dies_anywhere_is_counted_right(small_steps, monkeypatch):
    tasks, new = make_tasks(8), make_robot().name
    run = begin("move", to=new)
    crash_now_and_then(monkeypatch, Task.objects._queryset_class, "reassign")
    run_with_crashes(run)
    assert counts(run) == (8, 8, 0)
    assert all((fields_of(task)["robot"], len(statuses(task))) == (new, 3) for task in tasks)


@pytest.mark.parametrize("action", ["retry", "cancel", "move"])
def test_several_work_on_one_run(small_steps, action):
    new = make_robot().name
    for _ in range(4):
        Task.objects.all().delete()
        tasks = make_tasks(20, Status.FAILURE if action == "retry" else Status.QUEUED)
        run = begin(action, **({"to": new} if action == "move" else {}))
        at_once(*[lambda run=run: bulk.run(Bulk.objects.get(pk=run.pk))] * 4)
        assert counts(run) == (20, 20, 0)
        assert run.status == BulkStatus.DONE
        if action == "retry":
            assert repeats() == {task.pk: 1 for task in tasks}
        else:
            assert all(len(statuses(task)) == 3 for task in tasks)


def test_stopping_against_stepping(small_steps):
    for _ in range(6):
        Task.objects.all().delete()
        make_tasks(20, Status.FAILURE)
        run = begin("retry")
        at_once(
            lambda run=run: bulk.run(Bulk.objects.get(pk=run.pk)),
            lambda run=run: bulk.stop(Bulk.objects.get(pk=run.pk), by="bob"),
        )
        bulk.run(run)
        found, done, skipped = counts(run)
        assert not run.open
        assert (found, skipped) == (done, 0)
        assert sum(repeats().values()) == done


def test_a_cancel_against_workers_that_claim():
    robot = make_robot(lanes=8)
    tasks = make_tasks(30, robot=robot.name)
    run = begin()
    at_once(lambda: bulk.run(run), *[lambda n=n: claim(robot.name, lane=n) for n in range(8)])
    assert counts(run) == (30, 30, 0)
    assert all(fields_of(task)["cancel_requested"] for task in tasks)


@pytest.mark.parametrize("action", ["cancel", "move"])
def test_a_task_that_no_longer_matches_is_left_alone(monkeypatch, action):
    status = Status.STARTED if action == "cancel" else Status.QUEUED
    stays, leaves = (started() if action == "cancel" else make_tasks(1)[0] for _ in range(2))
    run = begin(action, {"status": [status]}, **({"to": make_robot().name} if action == "move" else {}))

    def leave(tasks):
        """The plan is made; now one task goes to RETRY."""
        plan = step.plan(run, tasks)
        Task.objects.filter(pk=leaves.pk).update(status=Status.RETRY, attempt=1, lane=None, run_at=PAST)
        return plan

    step = bulk.ACTIONS[action]
    monkeypatch.setitem(bulk.ACTIONS, action, step._replace(plan=lambda run, tasks: leave(tasks)))
    bulk.run(run)
    assert counts(run) == (2, 1, 1)
    assert run.failures[0]["task"] == str(leaves.pk)
    assert run.failures[0]["text"].endswith("or no longer matched")
    assert (fields_of(leaves)["status"], fields_of(leaves)["robot"]) == (Status.RETRY, leaves.robot)
    if action == "cancel":
        assert fields_of(stays)["cancel_requested"]
    else:
        assert fields_of(stays)["robot"] == run.options["to"]


# --- The job ---------------------------------------------------------------------------------------------------------


def test_the_job_works_on_all_runs_until_they_are_over(small_steps):
    make_tasks(7)
    make_tasks(7, Status.FAILURE)
    runs = [begin("cancel"), begin("retry", {"status": ["FAILURE"]})]
    while jobs.work_on_bulks():
        pass
    assert [counts(run) for run in runs] == [(7, 7, 0), (7, 7, 0)]
    assert {Bulk.objects.get(pk=run.pk).status for run in runs} == {BulkStatus.DONE}


def test_the_job_leaves_room_for_others():
    begin()
    assert bulk.work_on_bulks(seconds=0) == 0


def test_a_run_whose_steps_fail_keeps_no_other_from_its_turn(monkeypatch):
    make_tasks(3)
    broken, good = begin("cancel"), begin("cancel")
    original = bulk._plan

    def fails(run):
        if run.pk == broken.pk:
            raise ZeroDivisionError
        return original(run)

    monkeypatch.setattr(bulk, "_plan", fails)
    for _ in range(60):
        try:
            bulk.work_on_bulks()
        except ZeroDivisionError:
            continue
    assert Bulk.objects.get(pk=good.pk).status == BulkStatus.DONE


def test_a_run_that_is_forgotten_meanwhile_ends_quietly():
    run = begin()
    Bulk.objects.filter(pk=run.pk).delete()
    assert not bulk.step(run)


# --- What it asks of MongoDB -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "conditions"),
    [
        ("cancel", {}),
        ("cancel", {"robot": "Bender", "status": ["QUEUED"]}),
        ("retry", {"error": "ValueError"}),
        ("retry", {"finished_after": PAST, "finished_before": PAST, "label": "night"}),
        ("move", {"ids": [uuid.UUID(int=1)]}),
    ],
)
def test_a_step_is_one_bounded_range_of_ids(action, conditions):
    if action == "move":
        conditions |= {"robot": make_robot().name}
    run = begin(action, conditions, **({"to": conditions["robot"]} if action == "move" else {}))
    Bulk.objects.filter(pk=run.pk).update(last=uuid.UUID(int=7))
    match, sort, limit = pipeline(bulk._next(Bulk.objects.get(pk=run.pk)))
    assert list(sort["$sort"].items()) == [("_id", 1)]
    assert limit == {"$limit": bulk.STEP_SIZE}
    assert run.pk.hex in str(match)
    assert {status for status in ({*UNFINISHED, *FINISHED}) if f"'{status}'" in str(match)} <= set(bulk.APPLIES[action])
