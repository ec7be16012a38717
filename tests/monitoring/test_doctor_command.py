"""`manage.py doctor`: each check finds its problem, and none hides another."""

import datetime as dt
import io
import json
import os
import re
import socket
import sys
import threading
import time
from contextlib import contextmanager
from unittest.mock import Mock, patch

import kombu
import pytest
from amqp.exceptions import NotFound
from django.conf import settings
from django.core import checks
from django.core.checks import CheckMessage, Info
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from django_celery_results.models import TaskResult
from pymongo import MongoClient

from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken
from fmv.backup import restore
from fmv.management.commands import doctor
from fmv.mongodb.counting import collection
from fmv.mongodb.server import database, server_now
from fmv.mongodb.uuid7 import id_at
from fmv.monitoring import diagnostic_checks, servers
from fmv.monitoring.diagnostics import Check, DiagnosticRun
from robots.models import Robot
from tasks.models import Submission, Task
from tasks.models.worker_process import WorkerProcess
from tasks.reports.diagnostics import expensive, hot_queries
from tests.conftest import rabbitmq_alone
from tests.support.environment import override_environment
from tests.support.factories import make_robot, make_task, make_token
from tests.support.probes import PAST, STARTED, using_broker

pytestmark = pytest.mark.django_db(transaction=True)

NOBODY = "127.0.0.1:1"
HOUR = dt.timedelta(hours=1)
CHECKS = [
    "mongodb", "broker", "settings", "clock", "migrations", "indexes", "index use", "storage", "restore", "tokens",
    "queues", "workers", "handlers", "agents", "beat", "tasks", "submits", "queries", "names", "retention",
]  # fmt: skip


def run(*arguments):
    """Return the exit status and what was printed."""
    out = io.StringIO()
    status = 0
    try:
        call_command("doctor", *arguments, stdout=out)
    except SystemExit as end:
        status = end.code
    return int(status), out.getvalue()


def examine(name):
    """Return what the check found now."""
    found = [doctor.as_dict(message) for message in DiagnosticRun(doctor.CHECKS).messages() if message.obj == name]
    assert found
    return found


def severities(name):
    return {finding["severity"] for finding in examine(name)}


def only(name):
    [found] = [finding for finding in examine(name) if not finding["ok"]]
    return found


def worker_process(name="host/1", queues=("work", "maintenance"), seen_at=None, **fields):
    seen_at = seen_at or server_now()
    fields = {"node": "work@host", "started_at": seen_at} | fields
    return WorkerProcess.objects.create(name=name, queues=list(queues), seen_at=seen_at, **fields)


def maintenance_run(age=0):
    result = TaskResult.objects.create(task_id=f"run {age}", task_name="tasks.expire", status="SUCCESS")
    done = server_now() - dt.timedelta(seconds=age)
    collection(TaskResult).update_one({"task_id": result.task_id}, {"$set": {"date_done": done}})


@pytest.fixture
def well():
    """A healthy fleet in production, apart from the servers of the tests."""
    worker_process()
    maintenance_run()


# --- All of it -------------------------------------------------------------------------------------------------------


def test_results_are_printed_line_by_line(well):
    status, text = run()
    lines = text.splitlines()
    assert "ok       workers     work: processes that are alive: 1; of them busy: 0." in lines
    assert "ok       indexes     All" in text
    assert re.fullmatch(r"0 errors, \d+ warnings?[.]", lines[-1]), text  # of a standalone server without HTTPS
    assert status == 1


def test_tokens_of_robots_that_expire_soon_are_named(well):
    assert [finding["ok"] for finding in examine("tokens")] == [True]
    make_token(days=1)  # a user's
    make_token(robot="C3", days=1), make_token(robot="C3", days=15)  # it has a successor
    api_tokens.revoke(make_token(robot="BB8", days=1), by="test")
    assert [finding["message"] for finding in examine("tokens")] == [
        "Robots with a token: 1; each is valid for 14 days or more."
    ]
    make_token(robot="R2", days=20), make_token(robot="K9", days=13)
    ApiToken.objects.filter(robot="R2").update(expires_at=server_now() + dt.timedelta(days=13.9))
    found = only("tokens")
    assert found["severity"] == "warning"
    assert "'K9' on 20" in found["message"]
    assert "'R2' on 20" in found["message"]
    assert "C3" not in found["message"]


def test_json_is_a_list_of_findings(well):
    status, text = run("--json")
    found = json.loads(text)
    assert status == 1, text
    assert {tuple(finding) for finding in found} == {("check", "ok", "severity", "message", "hint")}
    assert [*dict.fromkeys(finding["check"] for finding in found)] == CHECKS
    assert {finding["severity"] for finding in found} == {"info", "warning"}
    assert all(finding["ok"] is (finding["severity"] == "info") for finding in found)
    assert all(finding["hint"] for finding in found if not finding["ok"] and finding["check"] != "settings")


def test_quiet_prints_only_warnings_and_errors(well):
    status, text = run("--quiet", "--json")
    assert status == 1, text
    assert {finding["severity"] for finding in json.loads(text)} == {"warning"}


@pytest.mark.parametrize(("level", "status"), [(checks.INFO, 0), (checks.WARNING, 1), (checks.ERROR, 2)])
def test_the_exit_status_is_the_worst_severity(level, status):
    found = [Info("well"), CheckMessage(level, "so", "hint"), Info("well")]
    with patch.object(doctor, "CHECKS", [Check("one", lambda: found)]):
        assert run()[0] == status


def test_a_check_that_fails_or_hangs_hides_no_other():
    silence = threading.Event()

    def broken():
        raise ZeroDivisionError("a fault")

    given = [Check("broken", broken), Check("silent", silence.wait), Check("well", lambda: [Info("fine")])]
    given += [Check("after", lambda: [Info("never")], needs="silent")]
    try:
        found = {each.obj: each for each in DiagnosticRun(given, timeout=0.2).messages()}
    finally:
        silence.set()
    assert found["broken"].level == checks.ERROR
    assert "a fault" in found["broken"].msg
    assert found["silent"].msg == "No answer within 0.2 s."
    assert found["well"].msg == "fine"
    assert found["after"].msg == "Skipped: first solve the problem that silent reports."


def test_wrong_arguments_end_with_2(doctor_process):
    assert doctor_process("--nonsense").wait() == 2


# --- What is down ----------------------------------------------------------------------------------------------------


@pytest.fixture
def doctor_process(run_process, tmp_path):
    from fmv.devstack import stack

    def start(*arguments, **environment):
        return run_process("doctor", sys.executable, str(stack.ROOT / "manage.py"), "doctor", *arguments, **environment)

    return start


@contextmanager
def silent():
    """Yield the address of a server that accepts connections and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["nobody", "silent"])
def test_everything_is_down(doctor_process, tmp_path, kind):
    with silent() as address:
        where = NOBODY if kind == "nobody" else address
        begun = time.monotonic()
        process = doctor_process(MONGODB_URI=f"mongodb://{where}/fmv", FMV_BROKER_URL=f"amqp://{where}//")
        assert process.wait(timeout=60) == 2
    text = (tmp_path / "doctor.log").read_text()
    assert "Traceback" not in text
    assert "ERROR    mongodb     " in text
    assert "ERROR    broker      " in text
    assert "WARNING  tasks       Skipped: first solve the problem that mongodb reports." in text
    assert "WARNING  queues      Skipped: first solve the problem that broker reports." in text
    print(f"took {time.monotonic() - begun:.1f} s")


def test_only_the_broker_is_down(well):
    with using_broker(f"amqp://{NOBODY}//"):
        found = {message.obj: message for message in DiagnosticRun(doctor.CHECKS).messages()}
    assert found["broker"].level == checks.ERROR
    assert found["broker"].msg.startswith("It cannot be reached: ")
    assert found["queues"].level == checks.WARNING
    assert found["workers"].level == checks.INFO


def test_a_database_that_is_not_prepared(doctor_process, tmp_path):
    from tests.conftest import with_database

    uri = with_database(os.environ["MONGODB_URI"], "fmv_test_doctor")
    try:
        assert doctor_process("--json", MONGODB_URI=uri).wait(timeout=60) == 2
    finally:
        with MongoClient(uri) as client:
            client.drop_database("fmv_test_doctor")
    [text] = [line for line in (tmp_path / "doctor.log").read_text().splitlines() if line.startswith("[")]
    found = {finding["check"]: finding for finding in json.loads(text) if finding["severity"] == "error"}
    assert "tasks.0001_initial" in found["migrations"]["message"]
    assert found["migrations"]["hint"] == "Run `python manage.py migrate`."
    assert found["agents"]["message"] == "An index that it needs is missing."
    assert [each for each in json.loads(text) if "The check failed" in each["message"]] == []


# --- MongoDB ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hello", "severity", "text"),
    [
        ({}, "WARNING", "a standalone server"),
        ({"setName": "rs0", "hosts": ["a", "b", "c"]}, "INFO", "the replica set rs0 of 3"),
        ({"setName": "rs0", "hosts": ["a"], "arbiters": ["b"]}, "WARNING", "the replica set rs0 of 2"),
        ({"msg": "isdbgrid"}, "INFO", "a sharded cluster"),
    ],
)
def test_the_topology_is_reported(hello, severity, text):
    with patch.object(diagnostic_checks, "ask_mongodb", lambda: servers.MongoDB(BUILD, hello)):
        [found] = diagnostic_checks.mongodb()
    assert found.level == getattr(checks, severity)
    assert found.msg.partition(", ")[2].partition(":")[0].rstrip(".") == text


BUILD = {"version": "8.0.4", "versionArray": [8, 0, 4, 0]}


def test_a_server_that_is_too_old_is_an_error():
    build = {"version": "5.0.9", "versionArray": [5, 0, 9, 0]}
    with patch.object(diagnostic_checks, "ask_mongodb", lambda: servers.MongoDB(build, {"msg": "isdbgrid"})):
        found, _ = diagnostic_checks.mongodb()
    assert (found.level, found.msg) == (checks.ERROR, "MongoDB 5.0.9 is too old.")


@pytest.mark.parametrize(
    ("seconds", "severity"), [(0, "INFO"), (0.5, "INFO"), (2, "WARNING"), (-2, "WARNING"), (7, "ERROR"), (-7, "ERROR")]
)
def test_a_wrong_clock_is_reported(seconds, severity):
    with patch.object(servers, "server_now", lambda: server_now() + dt.timedelta(seconds=seconds)):
        [found] = diagnostic_checks.clock()
    assert found.level == getattr(checks, severity)
    if severity != "INFO":
        assert f"{abs(seconds)}.0 s {'behind' if seconds > 0 else 'ahead of'} MongoDB's" in found.msg


def test_a_missing_index_is_an_error_that_says_how_to_build_it():
    tasks = collection(Task)
    before = tasks.index_information()["task_next"]
    tasks.drop_index("task_next")
    try:
        found = only("indexes")
    finally:
        tasks.create_index(before["key"], name="task_next")
    assert (found["severity"], found["message"]) == ("error", "task_next of tasks_task is missing.")
    assert "manage.py migrate" in found["hint"]
    assert (
        'db.getCollection("tasks_task").createIndex({"status": 1, "robot": 1, "priority": -1, "_id": 1}, '
        '{"name": "task_next"})'
    ) in found["hint"]
    assert severities("indexes") == {"info"}


def test_an_index_with_another_definition_is_an_error():
    tasks = collection(Task)
    before = tasks.index_information()["task_changed"]
    tasks.drop_index("task_changed")
    tasks.create_index("started_at", name="task_changed")
    try:
        found = only("indexes")
    finally:
        tasks.drop_index("task_changed")
        tasks.create_index(before["key"], name="task_changed")
    assert found["message"] == "task_changed of tasks_task has another definition."
    assert 'dropIndex("task_changed")' in found["hint"]


def test_an_index_that_is_not_fmvs_is_reported():
    collection(Robot).create_index("description", name="by_hand")
    try:
        found = examine("indexes")
    finally:
        collection(Robot).drop_index("by_hand")
    assert {finding["severity"] for finding in found} == {"info"}
    assert found[-1]["message"] == "Not FMV's: by_hand of robots_robot."


@pytest.mark.parametrize(
    ("hours", "ops", "unique", "reported"),
    [(25, 0, False, True), (23, 0, False, False), (25, 1, False, False), (25, 0, True, False)],
)
def test_an_unused_index_is_reported(hours, ops, unique, reported):
    since = server_now() - hours * HOUR
    index = {"name": "x", "accesses": {"ops": ops, "since": since}, "spec": {"unique": unique}}
    assert diagnostic_checks._is_idle(index, since) is reported


def test_a_server_that_does_not_count_the_use_of_indexes_says_so():
    assert [finding["message"] for finding in examine("index use")] == [
        "This server does not count the use of indexes."
    ]


def test_a_migration_that_is_missing_is_an_error():
    applied = connection.get_collection("django_migrations")
    before = applied.find_one_and_delete({"app": "tasks"}, sort=[("name", -1)])
    applied.insert_one({"app": "tasks", "name": "0009_later", "applied": PAST})
    try:
        found = {finding["severity"]: finding for finding in examine("migrations")}
    finally:
        applied.delete_one({"name": "0009_later"})
        applied.insert_one(before)
    assert found["error"]["message"] == f"Not applied: tasks.{before['name']}."
    assert found["warning"]["message"] == "Applied, but unknown here: tasks.0009_later."
    assert severities("migrations") == {"info"}


def test_the_largest_collections_are_reported():
    make_task()
    assert any("tasks_task: 1 documents" in finding["message"] for finding in examine("storage"))


@pytest.mark.parametrize(("used", "severity"), [(50, "INFO"), (90, "WARNING"), (97, "ERROR")])
def test_a_full_disk_is_reported(used, severity):
    server = Mock(command=lambda _: {"fsUsedSize": used, "fsTotalSize": 100})
    with patch.multiple(diagnostic_checks, _size=lambda _: (0, 0), database=lambda: server):
        _, found = diagnostic_checks.storage()
    assert (found.level, found.msg) == (getattr(checks, severity), f"MongoDB's disk is {used}% full.")


@pytest.mark.parametrize(
    ("values", "severity", "hint"),
    [
        ({"pid": 2**22 + 1}, "warning", "restore --clear"),
        ({"pid": 2**22 + 1, "switching": True}, "error", "Restore again."),
        ({"pid": os.getppid()}, "warning", "Wait for it to end."),
    ],
)
def test_an_interrupted_restore_is_reported(values, severity, hint):
    restore.RestoreLock("old.gz").acquire()
    database()[restore.LOCK_COLLECTION].update_one({}, {"$set": values})
    try:
        found = only("restore")
    finally:
        database()[restore.LOCK_COLLECTION].drop()
    assert found["severity"] == severity
    assert hint in found["hint"]
    assert severities("restore") == {"info"}


# --- Settings --------------------------------------------------------------------------------------------------------


def test_what_is_not_fit_for_production_is_reported():
    with override_environment(anonymous="manager"):
        found = {finding["message"].partition(":")[0]: finding for finding in examine("settings")}
    assert found["fmv.E001"]["severity"] == "error"
    assert "none" in found["fmv.E001"]["hint"]
    assert found["security.W008"]["severity"] == "warning"  # the tests speak plain HTTP


@pytest.mark.parametrize(
    ("url", "fit"), [("redis+socket:///x/valkey.sock", False), ("amqp://fmv:x@h:5672//", True), ("amqps://h", True)]
)
def test_only_rabbitmq_is_fit_for_production(url, fit):
    with override_environment(broker_url=url):
        found = {finding["message"].partition(":")[0]: finding for finding in examine("settings")}
    assert ("fmv.W002" not in found) == fit


def test_a_healthy_development_stack_ends_with_0(well, doctor_process, tmp_path):
    assert doctor_process(FMV_DEBUG="1").wait(timeout=60) == 0
    assert "ok       settings    FMV_DEBUG is on, which is for development" in (tmp_path / "doctor.log").read_text()


def test_what_is_kept_for_ever_is_reported():
    with override_environment(retention_days=0):
        assert [finding["message"] for finding in examine("retention")] == ["Finished tasks are kept for ever."]


# --- The queue -------------------------------------------------------------------------------------------------------


def test_a_queue_without_workers_is_an_error():
    worker_process("host/1", queues=["work"])
    found = only("workers")
    assert found["severity"] == "error"
    assert found["message"].startswith("No maintenance worker is running: ")
    assert found["hint"] == "Start a worker: celery -A fmv worker -Q maintenance"


def test_handlers_that_no_worker_knows_are_reported():
    worker_process("host/1", handlers=["wait@1", "primes@1"])
    worker_process("host/2", queues=["maintenance"], handlers=["new@1"])
    worker_process("host/3", seen_at=server_now() - HOUR, handlers=["new@1"])
    make_task(handler="wait", params_version="1")
    make_task(handler="new", params_version="1", status="SUCCESS")
    assert [finding["ok"] for finding in examine("handlers")] == [True]
    for _ in range(2):
        make_task(handler="new", params_version="1")
    found = only("handlers")
    assert (found["severity"], found["message"]) == ("error", "new: No worker knows this handler: 2 tasks wait.")
    assert "cancel these tasks" in found["hint"]


def test_parameters_that_no_worker_knows_are_a_warning():
    worker_process("host/1", handlers=["wait@1"])
    make_task(handler="wait", params_version="2")
    make_task(handler="wait")  # stored by an earlier FMV
    found = only("handlers")
    assert found["severity"] == "warning"
    text = "wait: No worker knows the parameters with which queued tasks of this handler were submitted."
    assert found["message"] == text


def test_lost_workers_are_reported(well):
    worker_process("host/2", seen_at=server_now() - HOUR)
    worker_process("host/3", seen_at=server_now() - HOUR, stopped_at=server_now() - HOUR)
    found = only("workers")
    assert found["severity"] == "warning"
    assert found["message"].startswith("host/2: Nothing is heard from it, and its tasks were recovered, since 20")


@pytest.mark.parametrize(("age", "severity"), [(60, "info"), (120, "warning"), (600, "error"), (None, "error")])
def test_a_beat_that_has_stopped_is_reported(age, severity):
    if age is not None:
        maintenance_run(age + 1000)
        maintenance_run(age)
    assert severities("beat") == {severity}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (STARTED | {"status": "STARTED", "lease_expires_at": PAST}, "Its worker has not renewed its lease"),
        ({"status": "SCHEDULED", "run_at": PAST}, "Its time has come, and it was not queued"),
        ({"status": "RETRY", "run_at": PAST}, "Its time has come, and it was not queued"),
    ],
)
def test_stuck_tasks_are_an_error(fields, why):
    task = make_task(**fields)
    found = only("tasks")
    about = f"wait …{str(task.pk)[-8:]} for {task.robot}"
    assert (found["severity"], found["message"]) == ("error", f"{about}: {why}, since 2020-01-01 00:00:00 UTC.")


def test_of_many_lines_of_a_kind_the_first_are_printed_with_one_hint():
    for _ in range(7):
        make_task(status="RETRY", run_at=PAST)
    found = [finding for finding in examine("tasks") if not finding["ok"]]
    assert len(found) == 6
    assert found[-1]["message"] == "Tasks that are stuck: and 2 more."
    _, printed = run("--quiet")
    assert printed.count("The maintenance worker moves them") == 1


def test_a_task_that_waits_for_long_is_reported():
    worker_process(handlers=["wait@1"])
    make_task(robot=make_robot(name="Flexo", enabled=False), id=id_at(server_now() - 9 * HOUR))
    assert severities("tasks") == {"info"}
    task = make_task(robot=make_robot(name="Bender"), id=id_at(server_now() - 2 * HOUR))
    found = only("tasks")
    assert found["severity"] == "warning"
    about = f"wait …{str(task.pk)[-8:]} for Bender"
    assert found["message"].startswith(f"{about}: It waits. A worker is free, and has not taken it")
    [longest] = [finding for finding in examine("tasks") if finding["ok"]]
    assert longest["message"].startswith(f"Bender's task {task.pk} has waited longest: 2:00:0")


def test_robots_whose_names_look_the_same_are_reported():
    for name in ("Twin", "Other", "a", "A\u0308"):
        make_robot(name=name)
    assert severities("names") == {"info"}
    for name in ("twin", "Other\u200b", "Ä"):
        make_robot(name=name)
    found = only("names")
    assert found["severity"] == "warning"
    for pair in ("'Twin' and 'twin'", r"'Other' and 'Other\u200b'", r"'A\u0308' and '\xc4'"):
        assert pair in found["message"]


def test_submits_left_behind_are_an_error():
    Submission.objects.create(pk="a", created_at=timezone.now() - HOUR)
    Submission.objects.create(pk="b", created_at=timezone.now())
    assert only("submits")["message"] == "1 accepted submissions are not in the queue."


def test_a_bulk_run_that_stands_still_is_an_error():
    from tasks.models import Bulk

    Bulk.objects.create(action="cancel", by="fry", changed_at=timezone.now() - HOUR)
    Bulk.objects.create(action="cancel", by="fry", changed_at=timezone.now())
    assert only("submits")["message"].startswith("1 bulk runs make no progress: cancel ")


def test_plans_that_read_or_sort_a_whole_collection_are_found():
    scan = {"stages": [{"$cursor": {"queryPlanner": {"winningPlan": {"stage": "SORT", "inputStage": COLLSCAN}}}}]}
    by_index = {"stage": "LIMIT", "inputStage": {"stage": "FETCH", "inputStage": {"stage": "IXSCAN"}}}
    assert expensive(scan) == {"SORT", "COLLSCAN"}
    assert expensive({"queryPlanner": {"winningPlan": by_index, "rejectedPlans": [COLLSCAN]}}) == set()
    assert expensive({"command": {"stage": 1}, "shards": [{"queryPlan": COLLSCAN}]}) == {"COLLSCAN"}


COLLSCAN = {"stage": "COLLSCAN", "direction": "forward"}


def test_each_hot_query_can_be_explained():
    for query in hot_queries().values():
        assert "winningPlan" in query.explain()
    assert [finding["message"] for finding in examine("queries")] == [
        "The embedded server does not explain its plans as MongoDB does."
    ]


def test_the_messages_on_valkey_are_for_development():
    assert only("broker")["message"] == "Valkey carries the messages, which is for development."
    assert severities("queues") == {"info"}


# --- RabbitMQ --------------------------------------------------------------------------------------------------------


@pytest.fixture
def rabbitmq():
    with rabbitmq_alone() as url, using_broker(url), kombu.Connection(url) as broker:
        yield broker.default_channel


def declare(channel, **arguments):
    for queue in settings.CELERY_TASK_QUEUES:
        channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=queue.queue_arguments | arguments)


@pytest.mark.rabbitmq
def test_rabbitmq_is_reported_with_its_version(rabbitmq):
    [found] = examine("broker")
    assert found["ok"]
    assert found["message"].startswith("RabbitMQ ")


@pytest.mark.rabbitmq
def test_queues_that_are_not_there_are_an_error(rabbitmq):
    assert [finding["message"] for finding in examine("queues")] == [
        "The queue work does not exist.",
        "The queue maintenance does not exist.",
    ]
    with pytest.raises(NotFound, match="NOT_FOUND"):
        rabbitmq.queue_declare("work", passive=True)  # the doctor has not made it


@pytest.mark.rabbitmq
def test_queues_of_another_type_are_an_error(rabbitmq):
    declare(rabbitmq, **{"x-queue-type": "classic"})
    for found in examine("queues"):
        assert found["severity"] == "error"
        assert "is not of the type quorum" in found["message"]
        assert "rabbitmqctl delete_queue" in found["hint"]


@pytest.mark.rabbitmq
def test_queues_are_reported_with_their_messages_and_workers(rabbitmq):
    declare(rabbitmq)
    assert {finding["severity"] for finding in examine("queues")} == {"error"}
    for queue in settings.CELERY_TASK_QUEUES:
        rabbitmq.basic_consume(queue.name)
    assert [finding["message"] for finding in examine("queues")] == [
        "work: 0 messages, 1 worker.",
        "maintenance: 0 messages, 1 worker.",
    ]
