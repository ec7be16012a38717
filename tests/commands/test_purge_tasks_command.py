"""`manage.py purge_tasks`: finished tasks leave, by way of an archive if one is asked for."""

import datetime as dt
import fcntl
import gzip
import json
from contextlib import closing

import pytest
from django.utils import timezone

from fmv.audit.models import AuditEntry
from fmv.mongodb.uuid7 import id_at
from tasks.api.serializers import RobotTaskSerializer
from tasks.cli import archive
from tasks.cli.archive import Archive, NotAnArchive
from tasks.models import FINISHED, LogLine, Status, Task
from tasks.queue import services
from tests.support.commands import run
from tests.support.factories import make_task
from tests.support.probes import listening, make_task_in

pytestmark = pytest.mark.django_db(transaction=True)

DAY = dt.timedelta(days=1)


def finished(days=10, status=Status.SUCCESS, lines=0, **fields):
    """Store a task that finished so many days ago, with so many lines of log."""
    moment = timezone.now() - days * DAY
    made = make_task_in(status, id=new_id(moment - dt.timedelta(minutes=1)), finished_at=moment, **fields)
    for number in range(lines):
        LogLine.objects.create(task=made.pk, attempt=1, text=f"line {number}")
    return Task.objects.get(pk=made.pk)


def new_id(moment):
    id = id_at(moment)
    while Task.objects.filter(pk=id).exists():
        id = type(id)(int=id.int + 1)
    return id


def kept():
    return set(Task.objects.values_list("pk", flat=True))


def archived(path):
    """The tasks of an archive, by their ids, each with its log."""
    with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        return {task["task_id"]: task for task in map(json.loads, file)}


# --- What goes -------------------------------------------------------------------------------------------------------


def test_it_deletes_what_finished_long_ago_with_its_log():
    old = [finished(status=status, lines=2) for status in FINISHED]
    young = finished(days=1, lines=1)
    blocking = finished(status=Status.FAILURE, lane="R2/0")  # its robot may run it still
    unfinished = [
        make_task_in(status, id=new_id(timezone.now() - 9 * DAY)) for status in Status if status not in FINISHED
    ]
    outcome = run("purge_tasks", "--older-than", "7d", "--yes")
    assert (outcome.status, outcome.out) == (0, f"{len(old)} deleted.\n")
    assert kept() == {young.pk, blocking.pk, *(task.pk for task in unfinished)}
    assert list(LogLine.objects.values_list("task", flat=True)) == [young.pk]


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        (["--status", "failure"], {"status": Status.FAILURE}),
        (["--robot", "R2"], {"robot": "R2"}),
        (["--handler", "primes"], {"handler": "primes"}),
        (["--status", "REVOKED", "--status", "FAILURE", "--robot", "R2"], {"status": Status.REVOKED, "robot": "R2"}),
    ],
)
def test_it_deletes_no_more_than_what_it_is_told_to(arguments, fields):
    other = finished(robot="other")
    finished(**fields)
    assert run("purge_tasks", "--older-than", "7d", "--yes", *arguments).out == "1 deleted.\n"
    assert kept() == {other.pk}


def test_the_age_is_that_of_retention_unless_told(settings):
    young = finished(days=settings.ENVIRONMENT.retention_days - 1)
    finished(days=settings.ENVIRONMENT.retention_days + 1)
    assert run("purge_tasks", "--yes").out == "1 deleted.\n"
    assert kept() == {young.pk}


def test_where_tasks_are_kept_for_ever_an_age_must_be_told(settings):
    settings.ENVIRONMENT.retention_days = 0
    task = finished(days=1000)
    outcome = run("purge_tasks", "--yes")
    assert outcome.status != 0
    assert "--older-than" in outcome.err
    assert kept() == {task.pk}


def test_more_go_than_one_step_takes(monkeypatch, tmp_path):
    monkeypatch.setattr(archive, "DELETE_STEP", 5)
    monkeypatch.setattr(archive, "TASKS_IN_MEMORY", 2)
    tasks = [finished(lines=number % 3) for number in range(10)]
    assert run("purge_tasks", "--yes", "--older-than", "1d", "--archive", str(tmp_path / "a.jsonl")).status == 0
    assert not kept()
    assert [len(task["log"]) for task in archived(tmp_path / "a.jsonl").values()] == [n % 3 for n in range(10)]
    assert len(archived(tmp_path / "a.jsonl")) == len(tasks)


def test_a_dry_run_counts_and_deletes_nothing(tmp_path):
    finished()
    path = tmp_path / "a.jsonl"
    assert run("purge_tasks", "--older-than", "7d", "--dry-run").out == "1 task would be deleted.\n"
    outcome = run("purge_tasks", "--older-than", "7d", "--dry-run", "--json", "--archive", str(path))
    assert json.loads(outcome.out) == {"dry_run": True, "found": 1, "more": False}
    assert len(kept()) == 1
    assert not path.exists()


def test_it_leaves_an_entry_in_the_audit_list(tmp_path):
    finished()
    run("purge_tasks", "--older-than", "7d", "--yes", "--archive", str(tmp_path / "a.jsonl"))
    run("purge_tasks", "--older-than", "7d", "--yes")  # deletes nothing
    [entry] = AuditEntry.objects.all()
    assert (entry.action, entry.by) == ("task.purge", "command")
    assert entry.text.startswith("1 task deleted. They are in ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--older-than", "7"],
        ["--older-than", "0d"],
        ["--older-than", "7d", "--status", "QUEUED"],
        ["--older-than", "7d", "--archive", "nowhere/a.jsonl"],
        ["--older-than", "7d"],  # nobody says yes
    ],
)
def test_wrong_arguments_are_refused(arguments):
    task = finished()
    assert run("purge_tasks", *arguments).status != 0
    assert kept() == {task.pk}


# --- The archive -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_what_goes_is_in_the_archive_as_the_api_tells_it(tmp_path, name):
    task = finished(lines=2, labels=["é"], result={"a": [1, None]})
    as_told = json.loads(json.dumps(RobotTaskSerializer(task).data))
    path = tmp_path / name
    outcome = run("purge_tasks", "--older-than", "7d", "--yes", "--archive", str(path), "--json")
    assert json.loads(outcome.out) == {"deleted": 1, "archive": str(path)}
    assert not kept()
    [told] = archived(path).values()
    assert [(line["attempt"], line["text"]) for line in told.pop("log")] == [(1, "line 0"), (1, "line 1")]
    assert told == as_told


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_an_archive_is_added_to(tmp_path, name):
    path, ids = tmp_path / name, []
    for _ in range(3):
        ids.append(str(finished(lines=1).pk))
        run("purge_tasks", "--older-than", "7d", "--yes", "--archive", str(path))
    assert list(archived(path)) == ids


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_what_could_not_be_archived_is_not_deleted(tmp_path, monkeypatch, name):
    path = tmp_path / name
    first = finished()
    run("purge_tasks", "--older-than", "7d", "--yes", "--archive", str(path))
    whole = path.read_bytes()
    task = finished(lines=1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr(archive, "_sync_directory", lambda path: None)
    outcome = run("purge_tasks", "--older-than", "7d", "--yes", "--archive", str(path))
    assert outcome.status == 1
    assert "No space left on device" in outcome.err
    assert kept() == {task.pk}
    assert LogLine.objects.count() == 1
    assert path.read_bytes() == whole
    assert list(archived(path)) == [str(first.pk)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_it_is_on_the_disk_before_it_is_deleted(tmp_path, monkeypatch, name):
    task, path = finished(lines=1), tmp_path / name
    seen = []

    def delete_all(ids):
        seen.extend(archived(path))
        services.delete_all(ids)

    monkeypatch.setattr(archive, "delete_all", delete_all)
    run("purge_tasks", "--older-than", "7d", "--yes", "--archive", str(path))
    assert seen == [str(task.pk)]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("left", [1, 5, 60, -1, -9])
def test_half_of_what_a_crash_left_is_cut_off(tmp_path, name, left):
    path = tmp_path / name
    finished(lines=3)
    run("purge_tasks", "--older-than", "7d", "--yes", "--archive", str(path))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:left])
    task = finished()
    assert run("purge_tasks", "--older-than", "7d", "--yes", "--archive", str(path)).status == 0
    assert len(archived(path)) == 2
    assert str(task.pk) in archived(path)
    assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
@pytest.mark.parametrize("content", [b"my notes\n", b"my notes", b"\x00" * 100, b'{"name": "Bender"}\n', b"\n"])
def test_a_file_that_is_no_archive_stays_as_it_is(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    task = finished()
    outcome = run("purge_tasks", "--older-than", "7d", "--yes", "--archive", str(path))
    assert outcome.status == 1
    assert "is not an archive of tasks" in outcome.err
    assert path.read_bytes() == content
    assert kept() == {task.pk}


def test_two_do_not_write_to_one_archive(tmp_path):
    path, task = tmp_path / "a.jsonl", finished()
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        outcome = run("purge_tasks", "--older-than", "7d", "--yes", "--archive", str(path))
    assert outcome.status == 1
    assert "Another process writes to" in outcome.err
    assert kept() == {task.pk}
    Archive(path).close()


def test_an_archive_is_closed_when_it_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("my notes")
    with pytest.raises(NotAnArchive):
        Archive(tmp_path / "a.jsonl")


def test_a_step_is_a_few_queries_however_many_tasks(tmp_path):
    for number in range(20):
        finished(lines=number % 2)
    with closing(Archive(tmp_path / "a.jsonl")) as file, listening() as commands:
        assert list(archive.purge(Task.objects.all(), file)) == [20]
    assert len(commands.sent) < 10


def test_a_purge_of_nothing_asks_nobody_and_deletes_nothing():
    make_task()
    assert run("purge_tasks", "--older-than", "7d").out == "0 deleted.\n"
    assert len(kept()) == 1
