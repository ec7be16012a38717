"""`migrate` on databases that are not as expected, and what web servers, workers and commands do before it has run."""

import os
import re
import signal
import subprocess
import sys

import pytest
import requests
from django.apps import apps
from django.core.management import call_command
from django.db import connection

from fmv.devstack import stack
from fmv.mongodb.migration_state import LOCK_COLLECTION
from fmv.monitoring.diagnostic_checks import indexes, migrations
from tests.conftest import wait_until, with_database
from tests.support import kept_database, migration_hashes
from tests.support.commands import Process, run

#: calls `migrate` in a process that kills itself when it sends its n-th command that changes the database
KILLED = """
import os, signal, sys
import django, pymongo.monitoring
class Killer(pymongo.monitoring.CommandListener):
    left = int(sys.argv[1])
    def started(self, event):
        if event.command_name in ("create", "createIndexes", "insert", "update"):
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
    def succeeded(self, event): pass
    failed = succeeded
pymongo.monitoring.register(Killer())
django.setup()
from django.core.management import call_command
from fmv.mongodb import migration_state
migration_state.LOCK_SECONDS = 0.5  # or the next one would wait so long for the lock of this one
call_command("migrate", verbosity=0)
"""


@pytest.fixture
def empty(transactional_db):
    """The connection, to an empty database of its own, and the address of that."""
    before, name = connection.settings_dict["NAME"], f"fmv_empty_{os.getpid()}"

    def switch(to):
        connection.close_pool()
        connection.settings_dict["NAME"] = to

    switch(name)
    connection.connect()
    connection.database.client.drop_database(name)
    yield with_database(os.environ["MONGODB_URI"], name)
    connection.database.client.drop_database(name)
    switch(before)


def shape():
    """Return the collections with their indexes, and what `migrate` records and fills."""
    database = connection.database
    names = sorted(set(database.list_collection_names()) - {LOCK_COLLECTION})
    keys = {"unique", "partialFilterExpression", "key"}
    found = {
        name: {each["name"]: {key: each[key] for key in keys & each.keys()} for each in database[name].list_indexes()}
        for name in names
    }
    rows = [(row["app"], row["name"]) for row in database["django_migrations"].find()]
    kinds = [(row["app_label"], row["model"]) for row in database["django_content_type"].find()]
    rights = [row["codename"] for row in database["auth_permission"].find()]
    return found, sorted(rows), sorted(kinds), sorted(rights)


def assert_ready():
    assert [message.msg for message in indexes() if message.level > 20] == []
    assert [message.msg for message in migrations() if message.level > 20] == []


def test_what_came_too_early_does_not_make_migrate_fail(empty):
    connection.database["robots_robot"].insert_one({"_id": "Bender", "name": "Bender"})
    for model in apps.get_models():
        connection.database[model._meta.db_table].find_one_and_update({"_id": 0}, {"$set": {"x": 1}}, upsert=True)
        connection.database[model._meta.db_table].delete_one({"_id": 0})
    call_command("migrate", verbosity=0)
    assert_ready()
    assert connection.database["robots_robot"].count_documents({}) == 1


@pytest.mark.slow
def test_migrate_can_be_repeated_wherever_it_was_killed(empty):
    for commands in (3, 4, 9, 28, 30):
        command = [sys.executable, "-c", KILLED, str(commands)]
        ended = subprocess.run(command, env=os.environ | {"MONGODB_URI": empty}, cwd=stack.ROOT, check=False)
        assert ended.returncode == -signal.SIGKILL
    call_command("migrate", verbosity=0)
    assert_ready()
    after_kills = shape()
    connection.database.client.drop_database(connection.settings_dict["NAME"])
    call_command("migrate", verbosity=0)
    assert after_kills == shape()


def test_two_at_once_do_what_one_does(empty):
    both = [Process("migrate", uri=empty) for _ in range(2)]
    outcomes = [process.ended() for process in both]
    assert [outcome.status for outcome in outcomes] == [0, 0], outcomes
    together = shape()
    assert len(set(together[1])) == len(together[1])
    connection.database.client.drop_database(connection.settings_dict["NAME"])
    call_command("migrate", verbosity=0)
    assert together == shape()


def test_a_migrate_that_mongodb_refuses_says_why_and_can_be_repeated(empty):
    connection.database["tasks_task"].create_index("robot", name="task_by_status")
    refused = run("migrate")
    assert refused.status == 1
    assert re.search(
        "CommandError: MongoDB refuses: .*task_by_status.*What is done stays; run it again[.]", refused.err
    )
    connection.database["tasks_task"].drop_index("task_by_status")
    assert run("migrate").status == 0
    assert_ready()


@pytest.mark.slow
def test_a_migrate_without_mongodb_says_so():
    outcome = Process("migrate", uri="mongodb://127.0.0.1:1/fmv").ended()
    assert outcome.status == 1
    assert outcome.err.startswith("CommandError: MongoDB cannot be reached: ")


@pytest.mark.slow
def test_web_server_and_workers_wait_for_migrate_and_store_nothing_before(empty, web, worker, maintenance, tmp_path):
    broker = os.environ["FMV_BROKER_URL"]
    url = web(broker, FMV_ANONYMOUS="manager")
    worker(broker)
    maintenance(broker)
    ready = requests.get(f"{url}/readyz", timeout=10)
    assert ready.status_code == 503
    assert "migrations: The database lacks migrations: " in ready.text
    assert "Run `python manage.py migrate`." in ready.text
    submit = {"url": f"{url}/api/v1/robot/Bender/run", "json": {"handler": "wait", "params": {"seconds": 0}}}
    refused = requests.post(**submit, timeout=10)
    assert refused.status_code == 503
    assert refused.json()["detail"].startswith("The database lacks migrations: ")
    assert requests.get(f"{url}/admin/", timeout=10).text == refused.json()["detail"]
    for name in ("worker", "maintenance"):
        wait_until(lambda name=name: "Waiting: The database lacks" in (tmp_path / f"{name}.log").read_text())
    assert connection.database.list_collection_names() == []
    assert Process("migrate", uri=empty).ended().status == 0
    assert_ready()
    assert Process("sample_robots", uri=empty).ended().status == 0
    wait_until(lambda: requests.get(f"{url}/readyz", timeout=10).status_code == 200)
    accepted = []
    wait_until(lambda: accepted.append(requests.post(**submit, timeout=10)) or accepted[-1].status_code == 200)
    task = f"{url}/api/v1/task/{accepted[-1].json()['task_id']}"
    wait_until(lambda: requests.get(task, timeout=10).json()["status"] == "SUCCESS")


def test_commands_refuse_before_migrate_and_name_it(empty):
    for command in (("list_tasks",), ("sample_robots",), ("tokens", "list"), ("ring_waiting",)):
        outcome = run(*command)
        assert outcome.status == 1
        assert outcome.err.startswith("CommandError: The database lacks migrations: ")
    assert connection.database.list_collection_names() == []


def test_a_start_says_that_it_does_not_know_a_migration(transactional_db, web, worker, tmp_path):
    connection.database["django_migrations"].insert_one({"app": "tasks", "name": "0999_from_the_future"})
    try:
        url = web(os.environ["FMV_BROKER_URL"], FMV_ANONYMOUS="viewer")
        worker(os.environ["FMV_BROKER_URL"])
        sentence = "The database has migrations that this code does not know: tasks.0999_from_the_future."
        wait_until(lambda: sentence in (tmp_path / f"web-{url.rpartition(':')[2]}.log").read_text())
        ready = requests.get(f"{url}/readyz", timeout=10)
        assert (ready.status_code, f"migrations: {sentence}" in ready.text) == (200, True)
        assert requests.get(f"{url}/api/v1/robot/", timeout=10).status_code == 200
        wait_until(lambda: sentence in (tmp_path / "worker.log").read_text())
    finally:
        connection.database["django_migrations"].delete_one({"name": "0999_from_the_future"})


@pytest.mark.parametrize("file", sorted(kept_database.KEPT.iterdir()), ids=lambda file: file.name.partition(".json")[0])
def test_the_database_of_each_release_can_be_upgraded(empty, file):
    kept = kept_database.load(file, connection.database)
    call_command("migrate", verbosity=0)
    assert_ready()
    stored = {model._meta.db_table: model for model in apps.get_models(include_auto_created=True)}
    counts = {name: len(stored[name].objects.all()) for name in kept if name in stored}
    assert counts["tasks_task"] == kept["tasks_task"] > 0
    filled = ("django_content_type", "auth_permission")
    assert {name: count for name, count in counts.items() if name not in filled} == {
        name: count for name, count in kept.items() if name in stored and name not in filled
    }


def test_a_changed_a_removed_and_a_new_migration_are_told_apart(tmp_path):
    folder = tmp_path / "tasks" / "migrations"
    folder.mkdir(parents=True)
    for name in ("0001_initial", "0002_more", "0003_most"):
        (folder / f"{name}.py").write_text(f"# {name}")
    record = migration_hashes.hashes(tmp_path)
    assert sorted(record) == [f"tasks/migrations/{name}.py" for name in ("0001_initial", "0002_more", "0003_most")]
    (folder / "0001_initial.py").write_text("# edited")
    (folder / "0002_more.py").unlink()
    (folder / "0004_new.py").write_text("# new")
    found = migration_hashes.hashes(tmp_path)
    assert migration_hashes.changed(record, found) == [
        "tasks/migrations/0001_initial.py",
        "tasks/migrations/0002_more.py",
    ]


def test_the_migrations_of_this_checkout_are_as_they_were_added():
    assert (
        migration_hashes.changed(migration_hashes.read(migration_hashes.RECORD), migration_hashes.hashes(stack.ROOT))
        == []
    )
