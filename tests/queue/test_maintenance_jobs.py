"""The periodic steps, each called as a service; and beat, which calls them in a real worker."""

import datetime as dt
import os
import time
from collections.abc import Callable
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
from celery.app.trace import build_tracer
from django.conf import settings as project
from django.db import connection
from django.utils import timezone
from django_celery_results.models import TaskResult

from fmv.accounts.sessions import Session
from fmv.audit.models import AuditEntry
from fmv.celery import app
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import new_id
from fmv.monitoring import counters
from fmv.publisher import publisher
from robots.models import Robot
from tasks import jobs
from tasks.models import FINISHED, UNFINISHED, LogLine, Status, Task
from tasks.queue import periodic as steps
from tasks.queue import services
from tasks.queue.doorbell import ring
from tasks.worker.claim import run_next
from tasks.worker.lease import LEASE_GRACE
from tests.conftest import wait_until
from tests.support.factories import make_robot, make_task
from tests.support.probes import FUTURE, LEASE, PAST, a_lease_later, claim, fields_of, make_task_in, started, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def rung(bells) -> list[str]:
    return sorted(robot for task, robot, _ in bells() if task == "tasks.run_next")


# --- promote_due -----------------------------------------------------------------------------------------------------


def test_due_tasks_are_queued_and_rung_for(bells):
    due = [make_task_in(status, priority=number) for number, status in enumerate((Status.SCHEDULED, Status.RETRY), 3)]
    early = [make_task_in(status, run_at=FUTURE) for status in (Status.SCHEDULED, Status.RETRY)]
    assert steps.promote_due() == 2
    assert [statuses(task)[-1] for task in due] == ["QUEUED", "QUEUED"]
    assert [statuses(task)[-1] for task in early] == ["SCHEDULED", "RETRY"]
    assert sorted(bells()) == sorted(("tasks.run_next", task.robot, task.priority) for task in due)
    assert steps.promote_due() == 0
    assert bells() == []


def test_more_are_due_than_one_step_takes(monkeypatch):
    monkeypatch.setattr(steps, "STEP_SIZE", 3)
    for _ in range(10):
        make_task_in(Status.SCHEDULED)
    assert steps.promote_due() == 10


# --- recover_lost ----------------------------------------------------------------------------------------------------


def test_a_lost_task_is_tried_again_at_once(bells):
    task = started(max_attempts=2)
    with a_lease_later():
        assert steps.recover_lost() == {"RETRY": 1}
    assert statuses(task) == ["STARTED", "RETRY", "QUEUED"]
    stored = fields_of(task)
    assert (stored["error"]["type"], stored["lane"]) == ("WorkerLost", None)
    assert "host/1" in stored["error"]["message"]
    assert set(rung(bells)) == {task.robot}


def test_a_lost_task_without_attempts_left_has_failed(bells):
    task = started(max_attempts=1)
    with a_lease_later():
        assert steps.recover_lost() == {"FAILURE": 1}
    stored = fields_of(task)
    assert (stored["status"], stored["error"]["type"], stored["lane"]) == (Status.FAILURE, "WorkerLost", None)
    assert rung(bells) == [task.robot]  # for the next: its lane is free


def test_a_lost_task_that_cannot_be_recovered_does_not_hold_up_the_others(caplog):
    broken, sound = started(), started(max_attempts=2)
    tasks = connection.database[Task._meta.db_table]
    assert tasks.update_one({"_id": broken.pk.hex}, {"$set": {"max_attempts": None}}).modified_count
    with a_lease_later():
        assert steps.recover_lost() == {"RETRY": 1}
    assert statuses(sound) == ["STARTED", "RETRY", "QUEUED"]
    assert f"Task {broken.pk} cannot be recovered" in caplog.text


def test_a_lost_task_that_was_being_cancelled_is_revoked():
    task = started(max_attempts=3)
    task.request_cancel("asked")
    with a_lease_later():
        assert steps.recover_lost() == {"REVOKED": 1}
    assert statuses(task)[-1] == "REVOKED"


def test_a_task_whose_process_died_after_its_timeout_has_timed_out():
    task = started(max_attempts=3, timeout=5)
    with a_lease_later(6):
        assert steps.recover_from("host/1", "message") == {"FAILURE": 1}
    assert fields_of(task)["error"]["type"] == "TimedOut"


def test_a_task_whose_process_died_before_its_timeout_is_tried_again_whatever_the_clocks_say():
    started(max_attempts=3, timeout=5)
    Task.objects.update(started_at=PAST)
    with a_lease_later(4):
        assert steps.recover_from("host/1", "message") == {"RETRY": 1}


@pytest.mark.parametrize("lease_expires_at", [PAST, FUTURE])
def test_only_the_sweepers_own_clock_decides_that_a_lease_is_lost(lease_expires_at):
    started()
    Task.objects.update(lease_expires_at=lease_expires_at, started_at=lease_expires_at)
    with a_lease_later(LEASE - 1):
        assert steps.recover_lost() == {}
    with a_lease_later():
        assert steps.recover_lost() == {"RETRY": 1}


def test_a_lease_that_is_renewed_is_left_alone_whenever_the_sweeper_looks():
    task = started()
    for _ in range(3):
        with a_lease_later():
            assert task.renew(lease=LEASE, grace=LEASE_GRACE)
            assert steps.recover_lost() == {}
    assert fields_of(task)["status"] == Status.STARTED


def test_the_next_attempt_of_a_lost_task_has_a_lease_of_its_own():
    task = started(max_attempts=3)
    with a_lease_later():
        assert steps.recover_lost() == {"RETRY": 1}
        assert claim(task.robot)
        Task.objects.update(lease_expires_at=PAST)
        assert steps.recover_lost() == {}


def test_the_task_of_a_dead_process_is_recovered_before_its_lease_ends():
    mine, another = started(max_attempts=3), started(max_attempts=3)
    Task.objects.filter(pk=another.pk).update(message_id="another")
    assert steps.recover_from("host/1", "message") == {"RETRY": 1}
    assert steps.recover_lost() == {}
    assert [fields_of(task)["status"] for task in (mine, another)] == [Status.QUEUED, Status.STARTED]
    assert steps.recover_from("host/1", "unknown") == {}


# --- expire ----------------------------------------------------------------------------------------------------------


def test_a_task_that_did_not_start_in_time_is_revoked():
    late = [make_task_in(status, expires_at=PAST) for status in (Status.SCHEDULED, Status.QUEUED)]
    make_task_in(Status.QUEUED, expires_at=FUTURE)
    make_task_in(Status.QUEUED, robot="Other")
    assert steps.expire() == 2
    assert [statuses(task)[-1] for task in late] == ["REVOKED", "REVOKED"]
    assert steps.expire() == 0


# --- ring_waiting ----------------------------------------------------------------------------------------------------


def test_a_lost_doorbell_is_rung_again(bells):
    robot = make_robot()
    make_task(robot=robot)
    make_robot(name="Idle")
    assert steps.ring_waiting() == 1
    assert rung(bells) == [robot.name]


def test_it_rings_once_for_each_free_lane(bells):
    robot = make_robot(lanes=3)
    started(robot=robot)
    for times in (1, 2, 2):  # and no more often than it has tasks
        make_task(robot=robot)
        assert steps.ring_waiting() == 1
        assert rung(bells) == [robot.name] * times


def test_the_broker_judges_the_age_of_a_message_and_no_receivers_wall_clock():
    ring("R2", expires=60)
    assert publisher.flush()
    with app.connection_for_read() as broker:
        message = broker.default_channel.basic_get("work", no_ack=True)
    assert (message.headers["expires"], message.properties["expiration"]) == (None, "60000")
    for entry in project.CELERY_BEAT_SCHEDULE.values():
        assert entry["options"].keys() == {"queue", "expiration"}


@pytest.mark.parametrize("state", ["busy", "out of service", "scheduled", "over-full"])
def test_it_does_not_ring_in_vain(state, bells):
    robot = make_robot(lanes=2 if state == "over-full" else 1, enabled=state != "out of service")
    if state in ("busy", "over-full"):
        started(robot=robot)
    if state == "over-full":
        make_task_in(Status.STARTED, robot=robot.name, lane=f"{robot.name}/1")
        Robot.objects.filter(pk=robot.name).update(lanes=1)
    make_task(robot=robot, status="SCHEDULED" if state == "scheduled" else "QUEUED", run_at=FUTURE)
    assert steps.ring_waiting() == 0
    assert bells() == []


def test_it_rings_for_robots_that_are_gone_so_that_their_tasks_end(bells):
    task = make_task(robot="Gone")
    assert steps.ring_waiting() == 1
    assert rung(bells) == ["Gone"]
    run_next("Gone", "message")
    assert fields_of(task)["error"]["type"] == "RobotGone"


def test_of_very_many_it_takes_some_at_a_time(bells, monkeypatch):
    monkeypatch.setattr(steps, "MAX_ROBOTS_RUNG", 3)
    for _ in range(9):
        make_task()
    heard = set()
    for _ in range(40):
        assert steps.ring_waiting() == 3
        heard.update(rung(bells))
    assert len(heard) == 9


def sweeps(monkeypatch, *, seconds: float, then=()) -> list[float]:
    """The times at which the job rings, in so many seconds of its clock. After the nth run the nth of `then` occurs."""
    moment, rung, events = 1000.0, [], iter(then)
    monkeypatch.setattr(steps, "_waits", {})
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=lambda: moment))
    while moment < 1000.0 + seconds:
        if jobs.ring_waiting():
            rung.append(moment - 1000.0)
        next(events, bool)()
        moment += 5.0
    return rung


def test_the_job_rings_at_its_second_look_and_then_ever_more_rarely(bells, monkeypatch):
    make_task(robot=make_robot())
    assert sweeps(monkeypatch, seconds=100) == [5, 15, 35, 55, 75, 95]
    assert len(bells()) == 6


def test_the_job_begins_anew_with_a_robot_whose_queue_was_empty(bells, monkeypatch):
    robot = make_robot()
    make_task(robot=robot)
    then = [bool, bool, bool, Task.objects.all().delete, lambda: make_task(robot=robot)]
    assert sweeps(monkeypatch, seconds=40, then=then) == [5, 15, 30]


def test_the_job_begins_anew_with_a_robot_that_it_has_seen_at_work(bells, monkeypatch):
    robot = make_robot()
    running = started(robot=robot)
    make_task(robot=robot)
    then = [bool, bool, lambda: running.succeed(None, "")]
    assert sweeps(monkeypatch, seconds=25, then=then) == [15]


# --- purge -----------------------------------------------------------------------------------------------------------


def test_old_finished_tasks_go_with_their_logs(monkeypatch):
    monkeypatch.setattr(services, "DELETE_STEP", 2)
    old = [make_task_in(status) for status in FINISHED for _ in range(2)]
    young = make_task_in(Status.SUCCESS, finished_at=server_now() - dt.timedelta(days=6))
    unfinished = [make_task_in(status) for status in UNFINISHED]
    blocking = make_task_in(Status.REVOKED, lane="R2/0")
    for task in (*old, young, blocking, *unfinished):
        LogLine.objects.create(task=task.pk, attempt=1, text="line")
    assert steps.purge(7) == len(old)
    kept = {young.pk, blocking.pk, *(task.pk for task in unfinished)}
    assert set(Task.objects.values_list("pk", flat=True)) == kept
    assert set(LogLine.objects.values_list("task", flat=True)) == kept


def test_nothing_goes_when_tasks_are_kept_for_ever():
    make_task_in(Status.SUCCESS)
    assert steps.purge(0) == 0
    assert Task.objects.exists()


def test_a_purge_ends_when_its_time_is_over_and_the_next_goes_on(monkeypatch):
    monkeypatch.setattr(services, "DELETE_STEP", 2)
    for _ in range(5):
        make_task_in(Status.SUCCESS)
    assert [steps.purge(7, until=time.monotonic()) for _ in range(4)] == [2, 2, 1, 0]


def test_the_purge_leaves_most_of_the_time_to_the_other_steps():
    purge = project.CELERY_BEAT_SCHEDULE["purge"]
    assert purge["schedule"].seconds > 3 * steps.PURGE_BUDGET


def test_what_is_old_is_deleted_while_mongodbs_clock_runs_evenly(trusted_clock, settings):
    settings.ENVIRONMENT.retention_days = 7
    make_task_in(Status.SUCCESS)
    assert steps.delete_old() == 1


@pytest.mark.clocks
@pytest.mark.parametrize("hours", [25, -25])
def test_nothing_is_deleted_by_age_after_mongodbs_clock_has_jumped(trusted_clock, settings, mongodb_clock, hours):
    settings.ENVIRONMENT.retention_days = settings.ENVIRONMENT.audit_days = 1
    run = {"robot": make_robot().name, "handler": "noop"}
    first = services.submit(run, by="amy", key="key")
    AuditEntry.objects.create(id=new_id(), by="amy", action="a.b", kind="robot", key="kept")
    make_task_in(Status.SUCCESS, finished_at=server_now())
    mongodb_clock.shift(hours=hours)
    assert steps.delete_old() == 0
    steps.forget_runs()
    assert Task.objects.finished().count() == 1
    assert AuditEntry.objects.filter(key="kept").exists()
    assert services.submit(run, by="amy", key="key").pk == first.pk
    steps.recover_lost()
    assert counters.read()["clock_jumps"] == 1


def test_sessions_that_are_over_are_deleted_and_others_kept(trusted_clock):
    for key, moment in (("a", PAST), ("b", FUTURE)):
        Session.objects.create(session_key=key, session_data="", expire_date=moment)
    steps.forget_runs()
    assert [session.pk for session in Session.objects.all()] == ["b"]


# --- Runs ------------------------------------------------------------------------------------------------------------


def test_old_runs_are_forgotten():
    for task_id, age in (("old", 2 * project.CELERY_RESULT_EXPIRES), ("young", 60)):
        run = TaskResult.objects.create(task_id=task_id, task_name="tasks.expire", status="SUCCESS")
        TaskResult.objects.filter(pk=run.pk).update(date_done=timezone.now() - dt.timedelta(seconds=age))
    steps.forget_runs()
    assert list(TaskResult.objects.values_list("task_id", flat=True)) == ["young"]


@pytest.fixture
def run_as_a_worker(monkeypatch) -> Callable[[], None]:
    """Run `promote_due` as a worker does, which stores the result. This process has not run it before."""
    monkeypatch.setattr(jobs.promote_due, "_stored_at", float("-inf"))
    trace = build_tracer(jobs.promote_due.name, jobs.promote_due, app=app)

    def run() -> None:
        id = str(new_id())
        trace(id, (), {}, {"id": id, "task": jobs.promote_due.name, "is_eager": False})

    return run


def stored_runs() -> list[str]:
    return list(TaskResult.objects.order_by("date_done").values_list("result", flat=True))


def test_of_the_runs_that_find_nothing_one_a_minute_is_stored(run_as_a_worker, monkeypatch):
    for _ in range(3):
        run_as_a_worker()
    assert stored_runs() == ["0"]
    monkeypatch.setattr(jobs, "EMPTY_RUN_INTERVAL", 0.0)
    run_as_a_worker()
    assert stored_runs() == ["0", "0"]


def test_runs_that_do_something_or_fail_are_all_stored(run_as_a_worker, monkeypatch):
    for _ in range(2):
        make_task_in(Status.SCHEDULED)
        run_as_a_worker()
    assert stored_runs() == ["1", "1"]
    monkeypatch.setattr(steps, "promote_due", Mock(side_effect=ValueError))
    for _ in range(2):
        run_as_a_worker()
    assert TaskResult.objects.filter(status="FAILURE").count() == 2


@pytest.mark.slow
def test_beat_runs_the_steps_and_their_runs_are_visible(maintenance):
    due = make_task_in(Status.SCHEDULED)
    maintenance(os.environ["FMV_BROKER_URL"])
    often = {"tasks.promote_due", "tasks.recover_lost", "tasks.ring_waiting", "tasks.expire"}
    wait_until(lambda: often <= set(TaskResult.objects.values_list("task_name", flat=True)))
    wait_until(lambda: TaskResult.objects.filter(task_name="tasks.promote_due", result="1").exists())
    assert set(TaskResult.objects.values_list("status", flat=True)) == {"SUCCESS"}
    assert statuses(due)[-1] == "QUEUED"
