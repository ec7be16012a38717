"""`manage.py doctor` on several shards, and as a user of MongoDB with few rights."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
from pymongo import MongoClient

from fmv.devstack import embedded_mongodb
from fmv.management.commands import doctor
from fmv.monitoring import diagnostic_checks
from fmv.monitoring.diagnostics import DiagnosticRun
from tasks.models import Task
from tests.support.commands import Process
from tests.support.probes import PAST

pytestmark = pytest.mark.django_db(transaction=True)


def examine(name):
    """Return what the check found now."""
    return [message for message in DiagnosticRun(doctor.CHECKS).messages() if message.obj == name]


def on_shards(monkeypatch, *shards):
    """Let a collection answer as from several shards."""
    monkeypatch.setattr(diagnostic_checks, "collection", lambda model: Mock(aggregate=lambda pipeline: iter(shards)))


def test_a_collection_has_the_size_of_all_its_shards(monkeypatch):
    on_shards(monkeypatch, *[{"storageStats": {"count": 3, "storageSize": 10, "totalIndexSize": 1}}] * 2)
    assert diagnostic_checks._size(Task) == (6, 22)


def test_an_index_that_one_shard_uses_is_used(monkeypatch):
    since = PAST.replace(tzinfo=None)
    shards = [{"name": "a", "accesses": {"ops": ops, "since": since}} for ops in (0, 5, 0)]
    on_shards(monkeypatch, *shards, {"name": "b", "accesses": {"ops": 0, "since": since}})
    [found] = diagnostic_checks.index_use()
    assert "b of tasks_task" in found.msg
    assert "a of tasks_task" not in found.msg


def test_a_right_that_only_the_doctor_needs_is_named(fail_command):
    fail_command("aggregate", errorCode=13, times=1000)  # other checks need it, too, so this one runs alone
    [found] = DiagnosticRun([check for check in doctor.CHECKS if check.name == "index use"]).messages()
    assert found.msg == "Not checked: FMV's user of MongoDB lacks the right indexStats."
    assert not found.is_serious()
    assert "clusterMonitor" in found.hint


@pytest.mark.parametrize(
    ("command", "check"), [("listIndexes", "indexes"), ("aggregate", "mongodb"), ("update", "mongodb")]
)
def test_a_right_that_fmv_itself_needs_is_an_error(fail_command, command, check):
    fail_command(command, errorCode=13, times=1000)
    [found] = examine(check)
    assert found.is_serious()
    assert found.msg.startswith("FMV's user of MongoDB lacks a right: ")
    assert "readWrite" in found.hint


@pytest.mark.parametrize(("command", "verdict"), [("aggregate", "cannot be read"), ("update", "takes no writes")])
def test_a_mongodb_that_fails_is_said_to_fail_at_reading_or_at_writing(fail_command, command, verdict):
    fail_command(command, errorCode=1, times=1000)
    [found] = examine("mongodb")
    assert found.is_serious()
    assert found.msg.startswith(f"It {verdict}: ")


def test_the_plans_are_checked_without_the_right_to_the_servers_status(fail_command):
    fail_command("serverStatus", errorCode=13, times=1000)
    assert [message.msg for message in examine("queries")] == [
        "The embedded server does not explain its plans as MongoDB does."
    ]


@pytest.fixture
def limited(tmp_path):
    """The address of a MongoDB server that checks rights, for a user who has the role readWrite."""
    path, port = tmp_path / "mongodb", embedded_mongodb.free_port(None)
    with embedded_mongodb.embedded_mongodb(path) as server, MongoClient(server) as client:
        client.fmv.command("createUser", "fmv", pwd="secret", roles=[{"role": "readWrite", "db": "fmv"}])
    command = [str(Path(sys.executable).with_name("secantusd-py")), "--standalone", "--auth", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--storage-path", str(path), "--log-level", "WARNING"]
    server = subprocess.Popen(embedded_mongodb.tied(signal.SIGKILL, *command))
    uri = f"mongodb://fmv:secret@127.0.0.1:{port}/fmv"
    try:
        with MongoClient(uri, serverSelectionTimeoutMS=30_000) as client:
            client.fmv.command("ping")
        yield uri
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_a_user_with_the_role_read_write_may_do_all_that_fmv_does(limited, tmp_path):
    file = str(tmp_path / "backup.gz")
    for command in (
        *(("migrate",), ("sample_robots",), ("run_task", "Bender", "wait", "--param", "seconds=1")),
        *(("backup", file), ("restore", file, "--replace", "--yes"), ("stats",)),
        *(("cancel_tasks", "--robot", "Bender", "--yes"), ("purge_tasks", "--older-than", "1d", "--yes")),
    ):
        outcome = Process(*command, uri=limited).ended()
        assert outcome.status == 0, outcome
    found = json.loads(Process("doctor", "--json", uri=limited).ended().out)
    assert [each for each in found if "right" in each["message"] or "failed" in each["message"]] == []
