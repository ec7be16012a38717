"""Commands on 100,000 tasks and 20,000 robots: real processes, their memory, Ctrl-C, and a reader that leaves.

The database is one of its own, without indexes but those of the keys: the embedded server takes minutes otherwise.
"""

import datetime as dt
import json
import os
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import connection
from pymongo import MongoClient
from pymongo.database import Database

from fmv.mongodb.uuid7 import id_at
from robots.models import Robot
from tasks.models import Status, Task
from tests.conftest import with_database
from tests.support.commands import Process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

COUNT = 100_000
OLD = 4_000  # more tasks, that finished long ago
FLEET = 20_000
MORE = 60  # MB that so many rows may take more than 1,000
MADE = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
LINE = {"location": "Lab", "is_great": False, "enabled": True, "lanes": 1, "labels": ["é", "night"], "endpoint": None}


@pytest.fixture(scope="module")
def uri(worker_id: str) -> Iterator[str]:
    """A migrated database for this module, whose indexes are dropped again.

    Without indexes one query takes the embedded server many seconds, in which it answers no heartbeat. PyMongo would
    then take it for dead and cancel the query.
    """
    name = f"fmv_test_large_{worker_id}"
    uri = with_database(os.environ["MONGODB_URI"], name, heartbeatFrequencyMS=600_000)
    with MongoClient[dict[str, Any]](os.environ["MONGODB_URI"]) as client:
        client.drop_database(name)
        migrated = Process("migrate", uri=uri).ended()
        assert migrated.status == 0, migrated.err
        for collection in client[name].list_collection_names():
            client[name][collection].drop_indexes()
        yield uri
        client.drop_database(name)


@pytest.fixture(scope="module")
def database(uri: str) -> Iterator[Database]:
    with MongoClient[dict[str, Any]](uri) as client:
        yield client.get_default_database()


@pytest.fixture(scope="module")
def tasks(database: Database) -> Any:
    """The collection of 100,000 tasks, which finished just now."""
    now = dt.datetime.now(dt.UTC)
    found = database[Task._meta.db_table]
    for start in range(0, COUNT, 5000):
        found.insert_many([document(number, now) for number in range(start, start + 5000)], ordered=False)
    return found


@pytest.fixture
def old(tasks: Any) -> Iterator[list[str]]:
    """The keys of OLD tasks beside them that finished long ago."""
    documents = [document(number, MADE) for number in range(-OLD, 0)]
    tasks.insert_many(documents, ordered=False)
    keys = [each["_id"] for each in documents]
    yield keys
    tasks.delete_many({"_id": {"$lt": document(0, MADE)["_id"]}})


def document(number: int, finished: dt.datetime) -> dict[str, Any]:
    """A task that succeeded, as it is stored."""
    made = MADE + dt.timedelta(milliseconds=number)
    task = Task(id=id_at(made), robot=f"R{number % 50}", handler="wait", timeout=30, requested_by="test")
    task.status, task.attempt, task.result = Status.SUCCESS, 1, {"waited": number}
    task.started_at, task.finished_at = made, finished
    task.stored_at = task.changed_at = task.finished_at
    task.history = [{"at": made, "status": "QUEUED", "attempt": 0, "note": "by test"}]
    return {
        field.column: field.get_db_prep_save(getattr(task, field.attname), connection)
        for field in Task._meta.concrete_fields
    }


@pytest.fixture(scope="module")
def memory(uri: str, tasks: Any) -> float:
    """MB that a command takes for 1,000 tasks."""
    outcome = Process("list_tasks", "--json", "--limit", "1000", uri=uri).ended()
    assert (outcome.status, len(outcome.out.splitlines())) == (0, 1000), outcome.err
    assert outcome.memory > 20
    return outcome.memory


def test_all_tasks_are_listed_in_small_memory_and_a_reader_may_leave(uri, memory):
    outcome = Process("list_tasks", "--json", uri=uri).ended()
    assert (outcome.status, outcome.err) == (0, "")
    ids = [json.loads(line)["task_id"] for line in outcome.out.splitlines()]
    assert len(ids) == COUNT
    assert ids == sorted(set(ids), reverse=True)
    assert outcome.memory < memory + MORE

    process = Process("list_tasks", uri=uri, stdout=subprocess.PIPE)
    assert process.first_line().startswith("ID ")
    process.leave()
    outcome = process.ended()
    assert (outcome.status, outcome.err) == (141, "")


def test_a_purge_can_be_interrupted_and_repeated_and_all_that_went_is_in_the_archive(uri, tasks, old, memory, tmp_path):
    path = tmp_path / "tasks.jsonl"
    arguments = ["purge_tasks", "--older-than", "30d", "--archive", str(path), "--yes"]
    process = Process(*arguments, uri=uri)
    process.wait_until(lambda: path.exists() and path.stat().st_size)
    process.interrupt()
    interrupted = process.ended()
    assert interrupted.status == 130
    assert "Run the same command again for the rest." in interrupted.err or "Nothing has changed." in interrupted.err
    went = archived(path)
    gone = set(old) - {each["_id"] for each in tasks.find({}, {"_id": 1})}
    assert gone <= set(went)
    assert len(gone) < OLD
    repeated = Process(*arguments, uri=uri).ended()
    assert (repeated.status, repeated.err) == (0, "")
    # What the server was asked to delete as the command ended may have gone after we looked.
    rest = int(repeated.out.partition(" ")[0].replace(",", ""))
    assert repeated.out == f"{rest:,} deleted. They are in {path}.\n"
    assert 0 < rest <= OLD - len(gone)
    assert set(archived(path)) == set(old)
    assert tasks.estimated_document_count() == COUNT
    assert repeated.memory < memory + MORE


def archived(path) -> list[str]:
    """The keys of the tasks in the archive, all of whose lines are whole."""
    return [json.loads(line)["task_id"].replace("-", "") for line in path.read_bytes().splitlines()]


def test_robots_go_in_and_out_in_small_memory_and_an_import_can_be_interrupted_and_repeated(uri, database, tmp_path):
    fleet, few = tmp_path / "fleet.jsonl", tmp_path / "few.jsonl"
    with fleet.open("w") as file:
        for number in range(FLEET):
            robot = {"name": f"R {number:06}", **LINE, "description": f"Robot\n{number}"}
            file.write(json.dumps(robot) + "\n")
    few.write_text("".join(fleet.read_text().splitlines(keepends=True)[:1000]))
    robots = database[Robot._meta.db_table]
    robots.delete_many({})
    memory = Process("import_robots", str(few), "--dry-run", uri=uri).ended().memory
    process = Process("import_robots", str(fleet), uri=uri)
    process.wait_until(robots.estimated_document_count)
    process.interrupt()
    interrupted = process.ended()
    assert interrupted.status == 130
    repeated = Process("import_robots", str(fleet), "--existing", "skip", uri=uri).ended()
    assert (repeated.status, repeated.err) == (0, "")
    # What the server was asked to add as the command ended is counted only now.
    added, skipped = (int(count.replace(",", "")) for count in re.findall(r"[\d,]+\d|\d", repeated.out))
    assert repeated.out == f"{added:,} added, {skipped:,} skipped.\n"
    assert 0 < skipped < FLEET
    assert added + skipped == FLEET
    assert repeated.memory < memory + MORE
    exported = Process("export_robots", uri=uri).ended()
    assert (exported.status, exported.err) == (0, "")
    assert exported.memory < memory + MORE
    with fleet.open() as file:
        assert all(json.loads(ours) == json.loads(line) for ours, line in zip(exported.lines(), file, strict=True))
