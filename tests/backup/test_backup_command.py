"""`manage.py backup` and `manage.py restore`: what comes back is what was there, or nothing is touched."""

import datetime as dt
import gzip
import io
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import uuid
from contextlib import contextmanager
from pathlib import Path

import bson
import pytest
from bson.raw_bson import RawBSONDocument
from django.apps import apps
from django.core.management import CommandError, call_command
from django.db import connection
from django.test import Client
from pymongo.monitoring import CommandListener
from uuid_utils.compat import uuid7

from fmv import audit
from fmv.accounts.models import User
from fmv.accounts.sessions import Session
from fmv.audit.models import AuditEntry
from fmv.backup import dump, format, restore
from fmv.devstack import embedded_mongodb, stack
from fmv.mongodb.counting import collection
from fmv.monitoring.models import Counter
from robots import agents, floor_plans
from robots.models import Absence, Robot, RobotSamples
from robots.plan_files import Placement, read_picture
from tasks.models import (
    Bulk,
    EndingsUntil,
    LastOutcomes,
    LogLine,
    SpanTally,
    Submission,
    Tally,
    Task,
    TaskEnding,
    WorkerProcess,
)
from tasks.queue import periodic
from tests.conftest import wait_until
from tests.support.factories import make_process, make_robot, make_task, make_token, make_user
from tests.support.plan_files import png
from tests.support.probes import (
    FUTURE,
    PAST,
    a_lease_later,
    before_nth,
    claim,
    listening,
    make_task_in,
    recorded_bells,
    started,
    statuses,
)

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _clean():
    """The collections of a restore are no model's: nobody else empties them."""
    yield
    for name in format.database().list_collection_names():
        if name == restore.LOCK_COLLECTION or name.startswith(restore.STAGING_PREFIX):
            format.database()[name].drop()


OWN = ("fmv_", "robots_", "tasks_")
MANAGE = (sys.executable, str(stack.ROOT / "manage.py"))
ODD = {
    "int": 1,
    "long": bson.Int64(1),
    "huge": bson.Int64(2**63 - 1),
    "float": 1.0,
    "nan": float("nan"),
    "infinite": float("-inf"),
    "decimal": bson.Decimal128("1.10"),
    "binary": b"\x00\xff",
    "uuid": bson.Binary.from_uuid(uuid.UUID(int=7)),
    "old uuid": bson.Binary(bytes(16), 3),
    "date": dt.datetime(2026, 11, 23, 12, 0, 0, 123000, dt.UTC),
    "id": bson.ObjectId(),
    "regex": bson.Regex("^a", "i"),
    "time": bson.Timestamp(1, 2),
    "code": bson.Code("x", {"y": 1}),
    "min": bson.MinKey(),
    "$date": "no date",
    "text": '\u2028 \x00 Fry & 😀 "quoted"\n',
    "none": None,
    "nested": [[], {}, [{"a": [1, None, True]}]],
}


def run(name, *arguments):
    """Run the command here; return its summary."""
    out = io.StringIO()
    call_command(name, *map(str, arguments), "--json", stdout=out, stderr=io.StringIO())
    return json.loads(out.getvalue())


def refused(name, *arguments, status=1):
    with pytest.raises(CommandError) as error:
        run(name, *arguments)
    assert error.value.returncode == status
    return str(error.value)


def stored():
    """Every document that a backup holds, as BSON, by collection."""
    raw = bson.CodecOptions(document_class=RawBSONDocument)
    database = format.database().with_options(codec_options=raw)
    return {
        model._meta.db_table: sorted(document.raw for document in database[model._meta.db_table].find())
        for model in format.included_models()
    }


def index_names():
    return {
        model._meta.db_table: sorted(format.database()[model._meta.db_table].index_information())
        for model in format.included_models()
    }


def fill():
    """Store something of everything."""
    user = make_user("manager")
    make_token(user)
    robot = make_robot(labels=["lab"])
    for status in ("SCHEDULED", "QUEUED", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"):
        make_task_in(status)
    task = make_task(robot=robot)
    collection(Task).update_one({"_id": task.pk.hex}, {"$set": {"params": ODD}})
    LogLine.objects.create(task=task.pk, attempt=1, text="a line")
    Submission.objects.create(pk="key", fingerprint="f", tasks=[task.as_submitted()], stored=True, created_at=PAST)
    Tally.objects.create(until=PAST, totals=[{"status": "SUCCESS", "handler": "wait", "count": 1}])
    SpanTally.objects.create(id="R2/2026-11-27T08/1", robot="R2", hours=1, begun=PAST, handlers=[{"handler": "wait"}])
    LastOutcomes.objects.create(robot=robot.name, success={"at": PAST, "id": task.pk.hex})
    TaskEnding.objects.create(id=task.pk.hex[::-1], request="-")
    EndingsUntil.objects.create(name="tasks", changed=PAST)
    Counter.objects.create(name="lost_workers", value=2**40)
    agents.open_session(robot.name, agent="fmv-agent", handlers=["drive"])
    RobotSamples.objects.create(id=f"{robot.name}/2026-11-27T08", hour=PAST, minutes={"07": {"charge": 71.5}})
    Absence.objects.create(id="R2/offline/1", robot="R2", kind="offline", begun=PAST)
    floor_plans.store("hall", Placement(0.05, -1.0, 2.0, 0.5), read_picture(png(600, 400)), by="fry")
    audit.record("robot.disable", by="fry", kind="robot", key=robot.name)
    Bulk.objects.create(action="cancel", by="fry", changed_at=PAST)


def empty():
    for model in format.included_models():
        if model._meta.label not in restore.FILLED_BY_MIGRATE:
            collection(model).delete_many({})


@pytest.fixture
def file(tmp_path):
    """A backup of something of everything."""
    fill()
    run("backup", tmp_path / "fmv.gz")
    return tmp_path / "fmv.gz"


def lines(file):
    return gzip.decompress(file.read_bytes()).splitlines(keepends=True)


# --- There and back --------------------------------------------------------------------------------------------------


def test_every_document_comes_back_byte_for_byte_with_its_indexes(file):
    before, indexes = stored(), index_names()
    assert not [name for name, documents in before.items() if name.startswith(OWN) and not documents]
    empty()
    summary = run("restore", file)
    assert AuditEntry.objects.filter(action="database.restore", by="command", key=summary["database"]).count() == 1
    AuditEntry.objects.filter(action="database.restore").delete()
    assert stored() == before
    assert index_names() == indexes
    assert summary["collections"] == {name: len(documents) for name, documents in before.items()}
    assert summary["documents"] == sum(map(len, before.values()))
    assert restore.unfinished() is None
    assert not staged()


def test_what_is_restored_works(file):
    token = make_token("operator")
    collection(Task).update_many({}, {"$set": {"params": {}}})
    run("backup", "--force", file)
    empty()
    run("restore", file)
    answer = Client().get("/api/v1/task/?limit=1000", headers={"Authorization": f"Bearer {token.text}"})
    assert answer.status_code == 200
    assert len(answer.json()["tasks"]) == Task.objects.count() == 8


def test_the_file_tells_what_it_is_and_is_its_owners_alone(file):
    first, *documents, last = map(json.loads, lines(file))
    assert first["fmv_backup"] == 1
    assert first["database"] == connection.settings_dict["NAME"]
    assert first["snapshot"] is False
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", first["consistent_at"])
    assert "tasks.0001_initial" in first["migrations"]
    assert set(first["left_out"]) >= {"fmv.Session", "fmv.ThrottleWindow", "tasks.WorkerProcess"}
    assert list(last["end"]["counts"]) == first["collections"]
    assert [name for name, _ in documents] == sorted((name for name, _ in documents), key=first["collections"].index)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [*file.parent.iterdir()] == [file]


def test_nothing_is_forgotten():
    """A model that somebody adds is in the backup, unless the settings say why not."""
    kept = {model._meta.label for model in format.included_models()}
    left_out = {model._meta.label for model in apps.get_models(include_auto_created=True) if format.is_excluded(model)}
    assert kept | left_out == {model._meta.label for model in apps.get_models(include_auto_created=True)}
    assert kept >= {"fmv.User", "fmv.ApiToken", "fmv.AuditEntry", "fmv.Counter", "robots.Robot", "tasks.Task"}
    assert kept >= {"tasks.LogLine", "tasks.Submission", "tasks.Tally", "tasks.Bulk", "admin.LogEntry"}


def test_what_refers_to_others_is_read_before_them():
    order = [model._meta.label for model in format.included_models()]
    for earlier, later in [
        ("tasks.Bulk", "tasks.Task"),
        ("tasks.Submission", "tasks.Task"),
        ("tasks.Tally", "tasks.Task"),
        ("tasks.SpanTally", "tasks.Task"),
        ("tasks.Tally", "tasks.LastOutcomes"),
        ("tasks.LastOutcomes", "tasks.Task"),
        ("tasks.LogLine", "tasks.Task"),
        ("tasks.EndingsUntil", "tasks.TaskEnding"),
        ("tasks.TaskEnding", "tasks.Task"),
        ("tasks.Task", "robots.Robot"),
        ("fmv.ApiToken", "fmv.User"),
        ("admin.LogEntry", "fmv.User"),
        ("fmv.AuditEntry", "fmv.User"),
    ]:
        assert order.index(earlier) < order.index(later)


def test_dates_beyond_pythons_survive_too():
    """MongoDB's reach further; the embedded server's do not, so this looks at the text alone."""
    document = {"at": bson.DatetimeMS(10**15)}
    out = io.BytesIO()
    header = format.Header(1, "1", "fmv", "", True, ["a"], {}, [])
    with format.Writer(out, header) as writer:
        writer.add("a", format.as_text(bson.encode(document)))
    [(_, text)] = format.Backup(out, lambda n: None).documents()
    assert format.as_document(text) == document


def test_sessions_are_left_alone(file):
    Session.objects.create(session_key="k", session_data="d", expire_date=FUTURE)
    run("restore", "--replace", "--yes", file)
    assert Session.objects.get().session_key == "k"


def test_an_empty_database_is_a_backup_too(tmp_path):
    run("backup", tmp_path / "empty.gz")
    make_robot()
    run("restore", "--replace", "--yes", tmp_path / "empty.gz")
    assert not Robot.objects.exists()


# --- Making one ------------------------------------------------------------------------------------------------------


def test_a_file_is_not_overwritten_unless_told_so(file):
    before = file.read_bytes()
    assert "exists" in refused("backup", file)
    assert file.read_bytes() == before
    make_robot()
    run("backup", "--force", file)
    assert file.read_bytes() != before
    assert [*file.parent.iterdir()] == [file]


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path, monkeypatch):
    make_robot()
    expected = dump.expected_documents
    monkeypatch.setattr(dump, "expected_documents", lambda: (tmp_path / "a.gz").write_text("mine") and expected())
    assert "appeared meanwhile" in refused("backup", tmp_path / "a.gz")
    assert (tmp_path / "a.gz").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["a.gz"]


def test_what_cannot_be_written_is_refused(manage):
    assert manage("backup", "no/such/directory.gz").returncode == 2


def test_it_goes_into_a_pipe_and_comes_out_of_one(tmp_path, manage):
    fill()
    before = stored()
    made = manage("backup", "-", "--json")
    assert made.returncode == 0
    assert json.loads(made.stderr.splitlines()[-2])["documents"] == sum(map(len, before.values()))
    empty()
    back = manage("restore", "-", input=made.stdout)
    assert back.returncode == 0, back.stderr.decode()
    assert b"are restored into" in back.stdout
    AuditEntry.objects.filter(action="database.restore").delete()
    assert stored() == before
    assert b"it/s" not in made.stderr + back.stderr  # no progress bar


def test_a_reader_that_goes_away_ends_it(manage):
    fill()
    for _ in range(300):
        make_robot(description=os.urandom(900).hex())
    read, write = os.pipe()
    os.close(read)
    ended = manage("backup", "-", stdout=write)
    os.close(write)
    assert ended.returncode == 128 + signal.SIGPIPE
    assert b"Traceback" not in ended.stderr


def test_a_full_disk_leaves_no_file_and_is_told(tmp_path, manage):
    fill()
    place = tmp_path / "a.gz"
    ended = manage("backup", str(place), preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500)))
    assert ended.returncode == 1
    assert f"{place}: File too large. No backup was written." in ended.stderr.decode()
    assert [*tmp_path.glob("*a.gz*")] == []


def test_the_standalone_server_is_told(tmp_path):
    err = io.StringIO()
    call_command("backup", str(tmp_path / "a.gz"), stdout=io.StringIO(), stderr=err)
    assert "has no snapshots" in err.getvalue()
    assert "standalone" in refused("backup", "--require-snapshot", tmp_path / "b.gz")
    assert not (tmp_path / "b.gz").exists()


@pytest.fixture
def replica_set(tmp_path):
    """Django's database is on a server that is a replica set, and empty but migrated."""
    port = embedded_mongodb.free_port(None)
    command = [str(Path(sys.executable).with_name("secantusd-py")), "--port", str(port)]
    command += ["--storage-path", str(tmp_path / "mongodb"), "--log-level", "WARNING"]
    with (tmp_path / "mongodb.log").open("wb") as log:
        server = subprocess.Popen(embedded_mongodb.tied(signal.SIGKILL, *command), stdout=log, stderr=log)
    try:
        embedded_mongodb.wait_for_mongodb(server, port, "mongodb.log")
        with on_server(f"mongodb://127.0.0.1:{port}/fmv"):
            call_command("migrate", verbosity=0)
            yield
    finally:
        server.terminate()
        server.wait()


@contextmanager
def on_server(uri):
    before = connection.settings_dict["HOST"]
    connection.close_pool()
    connection.settings_dict["HOST"] = uri
    try:
        yield
    finally:
        connection.close_pool()
        connection.settings_dict["HOST"] = before


class Reads(CommandListener):
    """What was read, and as of when."""

    def __init__(self):
        self.seen = []

    def started(self, event):
        if event.command_name == "find":
            self.seen.append((event.command["find"], event.command.get("readConcern", {})))

    def succeeded(self, event):
        pass

    def failed(self, event):
        pass


def test_a_replica_set_is_read_as_of_one_moment(replica_set, tmp_path):
    """The embedded server takes the moment and reads the present; so this looks at what it is asked."""
    fill()
    reads = Reads()
    options = connection.settings_dict["OPTIONS"]
    connection.close_pool()
    connection.settings_dict["OPTIONS"] = options | {"event_listeners": [reads]}
    try:
        assert run("backup", "--require-snapshot", tmp_path / "a.gz")["snapshot"]
    finally:
        connection.close_pool()
        connection.settings_dict["OPTIONS"] = options
    concerns = dict(reads.seen[-len(format.included_models()) :])
    assert [*concerns] == [model._meta.db_table for model in format.included_models()]
    first, *others = concerns.values()
    assert first == {"level": "snapshot"}
    assert {concern["level"] for concern in others} == {"snapshot"}
    assert len({concern["atClusterTime"] for concern in others}) == 1
    assert json.loads(lines(tmp_path / "a.gz")[0])["snapshot"] is True
    run("restore", "--replace", "--yes", tmp_path / "a.gz")
    assert Task.objects.count() == 8


def test_without_snapshots_what_is_referred_to_is_there(tmp_path):
    """A robot and its task are made while the backup is read: the task is in it only if the robot is."""
    make_task(robot=make_robot(name="Bender"))
    order = []

    def note(_):
        name = f"Robot of {len(order)}"
        order.append(make_task(robot=make_robot(name=name)))

    with (tmp_path / "a.gz").open("wb") as file:
        dump.dump(file, snapshot=False, progress=lambda n: len(order) < 20 and note(n))
    documents = [json.loads(line) for line in lines(tmp_path / "a.gz")[1:-1]]
    robots = {document["_id"] for name, document in documents if name == "robots_robot"}
    assert {document["robot"] for name, document in documents if name == "tasks_task"} <= robots
    assert len(robots) > 1


# --- What is refused -------------------------------------------------------------------------------------------------


def collection_names():
    return set(format.database().list_collection_names()) - {restore.LOCK_COLLECTION}


def untouched(act):
    """Run `act`, which must change nothing."""
    before, names = stored(), collection_names()
    result = act()
    assert stored() == before
    assert collection_names() == names
    assert restore.unfinished() is None
    return result


def changed(file, change):
    (file.parent / "changed.gz").write_bytes(change(file.read_bytes()))
    return file.parent / "changed.gz"


def repacked(file, change):
    """A file with other lines, and a digest that fits nothing."""
    return changed(file, lambda _: gzip.compress(b"".join(change(lines(file)))))


@pytest.mark.parametrize("part", [0.02, 0.3, 0.5, 0.9, 0.999])
def test_a_file_that_was_cut_off_is_refused(file, part):
    cut = changed(file, lambda data: data[: int(len(data) * part)])
    reason = untouched(lambda: refused("restore", "--replace", "--yes", cut))
    assert "damaged" in reason or "not a backup" in reason


@pytest.mark.parametrize("place", [12, 100, 0.2, 0.4, 0.6, 0.8, -20, -6, -2])
def test_a_file_in_which_a_bit_flipped_is_refused(file, place):
    def flip(data):
        at = place if isinstance(place, int) else int(len(data) * place)
        return bytes(byte ^ (number == at % len(data)) << 3 for number, byte in enumerate(data))

    flipped = changed(file, flip)
    untouched(lambda: refused("restore", "--replace", "--yes", flipped))


@pytest.mark.parametrize(
    "change",
    [
        lambda all: all[:-1],
        lambda all: all[:5] + all[6:],
        lambda all: [all[0], all[2], all[1], *all[3:]],
        lambda all: [*all, all[-1]],
        lambda all: [*all[:-1], all[-2], all[-1]],
        lambda all: [all[0], all[1].replace(b'["', b'["x', 1), *all[2:]],
        lambda all: [all[0], *(line.replace(b'"status":"QUEUED"', b'"status":"SUCCESS"') for line in all[1:])],
        lambda all: [all[0], b"\n", *all[1:]],
        lambda all: [all[0]],
    ],
    ids=["no end", "one less", "swapped", "two ends", "one doubled", "other place", "other value", "blank", "header"],
)
def test_a_file_that_was_edited_is_refused(file, change):
    assert "damaged" in untouched(lambda: refused("restore", "--replace", "--yes", repacked(file, change)))


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00" * 100, b"no backup\n", gzip.compress(b'{"a": 1}\n'), gzip.compress(b"")],
    ids=["empty", "zeros", "text", "zipped text", "zipped nothing"],
)
def test_what_is_no_backup_is_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert refused("restore", tmp_path / "x") == "This is not a backup of FMV."


def with_header(**values):
    return lambda all: [json.dumps(json.loads(all[0]) | values).encode() + b"\n", *all[1:]]


def test_another_format_is_refused(file):
    reason = untouched(lambda: refused("restore", "--replace", "--yes", repacked(file, with_header(fmv_backup=2))))
    assert reason.startswith("The backup has format 2")


def signed(file, change):
    """A file with other lines and a digest that fits them."""
    header, *documents, _ = change(lines(file))
    return signed_lines(file.with_name("signed.gz"), header, documents)


def signed_lines(file, header, documents):
    with file.open("wb") as out, format.Writer(out, format.read_header(header)) as writer:
        for line in documents:
            found = format.DOCUMENT.fullmatch(line)
            writer.add(found["name"].decode(), found["text"])
    return file


def test_a_backup_of_another_version_of_the_models_is_refused(file):
    names = json.loads(lines(file)[0])["migrations"]
    newer = signed(file, with_header(migrations=[*names, "tasks.0002_more"]))
    reason = untouched(lambda: refused("restore", "--replace", "--yes", newer))
    assert "lacks: tasks.0002_more" in reason
    older = signed(file, with_header(migrations=[name for name in names if name != "tasks.0001_initial"]))
    assert "the backup lacks: tasks.0001_initial" in untouched(lambda: refused("restore", "--replace", "--yes", older))


def test_a_database_that_is_not_prepared_is_refused(file):
    applied = connection.get_collection("django_migrations")
    before = [*applied.find()]
    applied.delete_many({})
    try:
        reason = refused("restore", file)
    finally:
        applied.insert_many(before)
    assert "python manage.py migrate" in reason


def test_a_database_with_data_is_refused(file):
    reason = untouched(lambda: refused("restore", file))
    assert "holds data" in reason
    assert "robots_robot" in reason


def test_replace_must_be_meant(file):
    assert "use --yes" in untouched(lambda: refused("restore", "--replace", file, status=2))


def test_a_terminal_is_asked(file, monkeypatch):
    make_robot(name="Flexo")
    terminal = io.StringIO("\ny\n")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    assert untouched(lambda: refused("restore", "--replace", file)) == "Nothing has changed."
    run("restore", "--replace", file)
    assert not Robot.objects.filter(name="Flexo").exists()


def test_a_dry_run_checks_all_and_writes_nothing(file):
    summary = untouched(lambda: run("restore", "--dry-run", file))
    assert (summary["dry_run"], summary["documents"]) == (True, sum(map(len, stored().values())))
    empty()
    untouched(lambda: run("restore", "--dry-run", file))
    assert "damaged" in refused("restore", "--dry-run", changed(file, lambda data: data[:-9]))


@pytest.mark.parametrize("arguments", [(), ("-", "--clear"), ("-", "b"), ("-", "--nonsense"), ("none.gz",)])
def test_wrong_arguments_end_with_2(manage, arguments):
    assert manage("restore", *arguments).returncode == 2


def test_help_has_examples(manage):
    for command in ("backup", "restore"):
        text = manage(command, "--help").stdout.decode()
        assert f"python manage.py {command} " in text
        assert "Ends with 0" in text


# --- What is replaced, interrupted, repeated -------------------------------------------------------------------------


def test_replace_leaves_nothing_of_what_was_there(file):
    before = stored()
    make_robot(name="Flexo")
    make_task(robot="Flexo")
    User.objects.all().update(role="viewer")
    run("restore", "--replace", "--yes", file)
    AuditEntry.objects.filter(action="database.restore").delete()
    assert stored() == before


def big(file, number, name="tasks_task"):
    """A backup with so many documents more of a collection."""
    header, *documents, _ = lines(file)
    mine = b'["%s"' % name.encode()
    at = next(n for n, line in enumerate(documents) if line.startswith(mine) and b'/0"' not in line)  # holds no lane
    old = b'"%s"' % json.loads(documents[at])[1]["_id"].encode()
    more = [documents[at].replace(old, b'"%s"' % uuid7().hex.encode()) for _ in range(number)]
    return signed_lines(file.with_name("big.gz"), header, [*documents[:at], *more, *documents[at:]])


def staged(name=""):
    """The collections, of this name or of any, that a restore has not put in their places."""
    found = format.database().list_collection_names()
    return [each for each in found if each.startswith(restore.STAGING_PREFIX) and each.endswith(name)]


def loaded():
    """How many tasks stand in them."""
    return sum(format.database()[each].estimated_document_count() for each in staged("tasks_task"))


@pytest.fixture
def long_restore(file, run_process):
    """Begin to restore a larger backup in a process of its own, which takes 15 s however fast the server is."""

    def begin():
        large = big(file, 3000)
        process = run_process("restore", sys.executable, "-c", SLOW, "restore", "--replace", "--yes", str(large))
        wait_until(lambda: loaded() >= 100, 60)
        return process

    return begin


SLOW = """
import sys, time
import django
from django.core.management import execute_from_command_line
django.setup()
from fmv.backup import restore
restore.INSERT_BATCH, insert = 20, restore.StagedCollection.insert
restore.StagedCollection.insert = lambda *arguments: time.sleep(0.1) or insert(*arguments)
execute_from_command_line(sys.argv)
"""


def test_it_is_refused_while_a_worker_is_alive(file):
    make_process("host/1")
    make_process("host/2", ago=31)
    before = stored()
    message = refused("restore", file, "--replace", "--yes")
    assert message.startswith("Worker processes are alive: host/1. Stop all workers")
    assert stored() == before
    run("restore", file, "--replace", "--yes", "--dry-run")
    WorkerProcess.objects.filter(pk="host/1").update(stopped_at=PAST)
    run("restore", file, "--replace", "--yes")


def test_a_worker_that_starts_during_the_load_stops_it_before_anything_is_replaced(file, monkeypatch):
    make_robot(name="new since")
    before, load = stored(), restore._load

    def load_slowly(*arguments):
        make_process("host/1")
        return load(*arguments)

    monkeypatch.setattr(restore, "_load", load_slowly)
    assert refused("restore", file, "--replace", "--yes").startswith("Worker processes are alive: host/1.")
    assert stored() == before
    assert not [name for name in format.database().list_collection_names() if name.startswith(restore.STAGING_PREFIX)]
    assert restore.unfinished() is None


def test_a_restore_that_was_killed_half_way_changes_nothing_and_is_repeated(file, long_restore):
    make_robot(name="Flexo")
    before = stored()
    process = long_restore()
    assert "under way" in refused("restore", "--replace", "--yes", file)
    assert "under way" in refused("restore", "--clear")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 100 <= loaded() < 3000
    assert stored() == before
    assert "was interrupted. It has not changed FMV's data." in str(restore.unfinished())
    run("restore", "--replace", "--yes", file)
    assert restore.unfinished() is None
    assert not staged()
    assert not Robot.objects.filter(name="Flexo").exists()


def test_a_restore_that_is_interrupted_by_hand_leaves_nothing(long_restore, tmp_path):
    before = stored()
    process = long_restore()
    process.send_signal(signal.SIGINT)
    process.wait()
    assert process.returncode == 130
    assert "FMV's data have not changed" in (tmp_path / "restore.log").read_text()
    assert stored() == before
    assert restore.unfinished() is None
    assert not staged()


def a_restore(**values):
    """A restore that has begun and loaded something, with these values in its mark."""
    lock = restore.RestoreLock("old.gz")
    lock.acquire()
    restore.StagedCollection(Robot, lock.prefix)
    format.database()[restore.LOCK_COLLECTION].update_one({}, {"$set": values})
    return lock


ELSEWHERE = {"host": f"not-{socket.gethostname()}", "pid_space": "of another machine"}
TWIN = {"pid": 2**22 + 1, "pid_space": "of a container with the same host name"}


def test_what_an_interrupted_restore_left_can_be_dropped():
    a_restore(pid=2**22 + 1)
    assert run("restore", "--clear") == {"cleared": True}
    assert restore.unfinished() is None
    assert not staged()
    assert run("restore", "--clear") == {"cleared": False}


@pytest.mark.parametrize(
    "where", [ELSEWHERE, TWIN, {"pid": os.getppid()}], ids=["on another machine", "in another container", "here"]
)
def test_a_restore_counts_as_interrupted_when_it_falls_silent(file, where):
    a_restore(**where)
    assert "under way" in refused("restore", "--replace", "--yes", file)
    assert "under way" in refused("restore", "--clear")
    format.database()[restore.LOCK_COLLECTION].update_one({}, {"$set": {"seen_at": PAST}})
    run("restore", "--replace", "--yes", file)
    assert not staged()


def test_while_indexes_are_built_for_long_it_says_that_it_lives(file, monkeypatch):
    monkeypatch.setattr(restore, "HEARTBEAT_INTERVAL", 0.01)
    seen = set()

    def wait():
        wait_until(lambda: seen.add(restore.unfinished().seen_at) or len(seen) > 2)

    with listening(before_nth(1, "createIndexes", wait)):
        run("restore", "--replace", "--yes", file)
    assert len(seen) > 2


@pytest.mark.parametrize("left", [None, {"pid": 2**22 + 1}], ids=["none before", "after an interrupted one"])
def test_of_two_that_begin_at_once_one_does(file, left):
    """Both looked for a lock before either took it."""
    if left:
        a_restore(**left)
    before, others = stored(), []

    def take_the_lock():
        others.append(restore.RestoreLock("first.gz"))
        others[0].acquire()

    with listening(before_nth(1, f"update {restore.LOCK_COLLECTION}", take_the_lock)):
        assert "Another restore has begun" in refused("restore", "--replace", "--yes", file)
    assert restore.unfinished().owner == others[0].owner
    assert stored() == before


def test_one_that_has_lost_its_turn_puts_nothing_in_place(file):
    """Its machine slept for so long that another took over, which is still at work."""
    before, others = stored(), []

    def take_over():
        format.database()[restore.LOCK_COLLECTION].update_one({}, {"$set": ELSEWHERE | {"seen_at": PAST}})
        others.append(a_restore(**ELSEWHERE))

    with listening(before_nth(1, f"insert {restore.STAGING_PREFIX}", take_over)):
        assert "taken over" in refused("restore", "--replace", "--yes", file)
    assert stored() == before
    assert restore.unfinished().owner == others[0].owner
    assert staged() == [f"{others[0].prefix}robots_robot"]


class Crash(BaseException):
    """The process ends here."""


def crash():
    raise Crash


def test_one_interrupted_while_collections_change_places_is_told_and_repeated(file, tmp_path):
    before = stored()
    make_robot(name="Flexo")
    with pytest.raises(Crash), listening(before_nth(5, "renameCollection", crash)):
        run("restore", "--replace", "--yes", file)
    format.database()[restore.LOCK_COLLECTION].update_one({}, {"$set": {"pid": 2**22 + 1}})
    assert "some are the backup's, some are not" in str(restore.unfinished())
    assert "Restore again" in refused("restore", "--clear")
    assert "Restore again" in refused("backup", tmp_path / "half.gz")
    with pytest.raises(Crash), listening(before_nth(1, f"insert {restore.STAGING_PREFIX}", crash)):
        run("restore", "--replace", "--yes", file)
    assert "some are the backup's, some are not" in str(restore.unfinished())  # the data are as mixed as before
    run("restore", "--replace", "--yes", file)
    AuditEntry.objects.filter(action="database.restore").delete()
    assert stored() == before


# --- What ran meanwhile ----------------------------------------------------------------------------------------------


def test_a_task_that_ran_when_the_backup_was_made_is_recovered_after_it(tmp_path):
    task = started(robot=make_robot(name="Bender"), max_attempts=3)
    run("backup", tmp_path / "a.gz")
    task.succeed(1, "")
    run("restore", "--replace", "--yes", tmp_path / "a.gz")
    back = Task.objects.get(pk=task.pk)
    assert (back.status, back.lane) == ("STARTED", "Bender/0")
    with recorded_bells() as bells, a_lease_later():
        assert periodic.recover_lost() == {"RETRY": 1}
        assert {argument for _, argument, _ in bells()} == {"Bender"}
    assert statuses(task)[-1] == "QUEUED"
    assert claim("Bender").pk == task.pk


def test_a_lane_that_changed_hands_while_it_was_read_does_no_harm(tmp_path):
    """Without a snapshot two tasks may be read as holding one lane; the sweeper takes both for lost."""
    first = started(robot=make_robot(name="Bender"))
    run("backup", tmp_path / "a.gz")
    line = next(line for line in lines(tmp_path / "a.gz") if line.startswith(b'["tasks_task"'))
    other = line.replace(first.pk.hex.encode(), uuid7().hex.encode())
    torn = signed(tmp_path / "a.gz", lambda all: [*all[:-1], other, all[-1]])
    assert run("restore", "--replace", "--yes", torn)["mended"] == 1
    assert Task.objects.started().count() == 2
    assert Task.lanes_taken("Bender") == {"Bender/0"}
    with recorded_bells(), a_lease_later():
        assert periodic.recover_lost() == {"RETRY": 2}


def test_two_of_one_name_are_refused_and_nothing_changes(file):
    line = next(line for line in lines(file) if line.startswith(b'["fmv_user"'))
    pk = json.loads(line)[1]["_id"]
    doubled = signed(file, lambda all: [*all[:-1], line.replace(pk.encode(), uuid7().hex.encode()), all[-1]])
    assert "refuses a document of fmv_user" in untouched(lambda: refused("restore", "--replace", "--yes", doubled))


def test_it_rings_for_robots_that_wait(tmp_path):
    make_task(robot=make_robot(name="Bender"))
    run("backup", tmp_path / "a.gz")
    with recorded_bells() as bells:
        run("restore", "--replace", "--yes", tmp_path / "a.gz")
        assert [(task, robot) for task, robot, _ in bells()] == [("tasks.run_next", "Bender")]


# --- Much of it ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(300)  # a minute on a busy machine
def test_a_hundred_thousand_documents_need_little_memory(file, tmp_path, manage):
    """Log lines are restored, as the embedded server takes minutes to index so many tasks; both are backed up."""
    large = big(file, 100_000, "tasks_logline")
    base = peak_of(manage("check"))
    back = manage("restore", "--replace", "--yes", str(large))
    fill_without_indexes(Task, 100_000)
    made = manage("backup", str(tmp_path / "again.gz"))
    collection(Task).drop()  # or the server would read all of them for the next command, and answer nobody meanwhile
    run("restore", "--replace", "--yes", file)
    assert (back.returncode, made.returncode) == (0, 0), back.stderr + made.stderr
    assert max(peak_of(back), peak_of(made)) < base + 60_000
    with gzip.open(tmp_path / "again.gz") as again:
        assert sum(line.startswith(b'["tasks_task"') for line in again) == 100_000
    with gzip.open(large) as one, gzip.open(tmp_path / "again.gz") as two:
        assert sum(map(hash, log_of(one))) == sum(map(hash, log_of(two)))


def fill_without_indexes(model, number):
    model_of_all = collection(model).find_one({"status": "SUCCESS"})
    collection(model).drop()
    for _ in range(number // 1000):
        collection(model).insert_many([model_of_all | {"_id": uuid7().hex} for _ in range(1000)])


def log_of(file):
    return (line for line in file if line.startswith(b'["tasks_logline"'))


def peak_of(ended):
    """The most memory that the process had, in KiB."""
    return int(ended.stderr.splitlines()[-1].partition(b"peak ")[2])


MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print("peak", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def manage(tmp_path):
    """Run `manage.py` as a process of its own in the test's database; its last line says how much memory it took."""
    from tests.conftest import _test_mongodb_uri

    def run(*arguments, **options):
        environment = os.environ | {"MONGODB_URI": _test_mongodb_uri()}
        options = {"stdout": subprocess.PIPE} | options
        command = [sys.executable, "-c", MEASURED, *MANAGE, *arguments]
        return subprocess.run(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, check=False, **options)

    return run
