"""What management commands share: the arguments they read, how they answer, and how they end."""

import datetime as dt
import io
import json
import os
from argparse import ArgumentTypeError

import pytest
from django.core.management import CommandError
from django.db import DatabaseError
from pymongo.errors import ServerSelectionTimeoutError

from fmv import cli
from fmv.cli import FmvCommand, Table, in_words, new_file
from fmv.errors import FmvError, InvalidInput, Problem
from fmv.http import request_id
from tasks.models import Task
from tests.http.test_escaping import HIDDEN, SHOWN
from tests.support.commands import run
from tests.support.factories import make_robot, make_task

# --- Arguments -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("90s", dt.timedelta(seconds=90)),
        ("30m", dt.timedelta(minutes=30)),
        ("12h", dt.timedelta(hours=12)),
        ("1.5h", dt.timedelta(minutes=90)),
        ("7d", dt.timedelta(days=7)),
        ("4w", dt.timedelta(weeks=4)),
        ("36500d", dt.timedelta(days=36_500)),
    ],
)
def test_an_age_is_a_number_and_a_unit(text, age):
    assert cli.parse_age(text) == age


@pytest.mark.parametrize("text", ["", "0d", "7", "d", "-7d", "7 d", "7y", "36501d", "999999999w", "1e3d", "٣d", "7d\n"])
def test_what_is_no_age_is_refused(text):
    with pytest.raises(ArgumentTypeError, match="is not an age"):
        cli.parse_age(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-01-31T08:00:00Z", dt.datetime(2027, 1, 31, 8, tzinfo=dt.UTC)),
        ("2027-01-31t08:00:00.25z", dt.datetime(2027, 1, 31, 8, 0, 0, 250_000, tzinfo=dt.UTC)),
        ("2027-01-31 08:00:00+02:00", dt.datetime(2027, 1, 31, 6, tzinfo=dt.UTC)),
        ("2027-01-31", dt.datetime(2027, 1, 31, tzinfo=dt.UTC)),
    ],
)
def test_a_moment_is_a_time_or_a_date(text, moment):
    assert cli.parse_time(text) == moment


def test_a_moment_is_so_long_ago_or_so_far_ahead(monkeypatch):
    now = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
    monkeypatch.setattr(cli, "_now", lambda: now)
    assert cli.parse_time("12h") == now - dt.timedelta(hours=12)
    assert cli.parse_future_time("12h") == now + dt.timedelta(hours=12)
    assert cli.parse_future_time("2027-01-31") == dt.datetime(2027, 1, 31, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    "text", ["", "soon", "2027-01-31T08:00:00", "2027-02-30", "2027-13-01T00:00:00Z", "0001-01-01T00:00:00+09:00", "5"]
)
def test_what_is_no_moment_is_refused(text):
    for read in (cli.parse_time, cli.parse_future_time):
        with pytest.raises(ArgumentTypeError, match="neither a time"):
            read(text)


@pytest.mark.parametrize(
    ("read", "text"),
    [
        *[(cli.parse_days, text) for text in ("0", "-1", "nan", "inf", "soon", "", "36501")],
        *[(cli.parse_seconds, text) for text in ("0", "-1", "nan", "inf", "soon", "")],
        *[(cli.parse_positive, text) for text in ("0", "-1", "1.5", "", "x", "9" * 13, "٣")],
    ],
)
def test_what_is_no_such_number_is_refused(read, text):
    with pytest.raises(ArgumentTypeError, match="is not a"):
        read(text)


def test_numbers_are_read():
    assert (cli.parse_days("0.5"), cli.parse_seconds("1e2"), cli.parse_positive("12")) == (0.5, 100, 12)


def test_files_must_be_there_to_be_read_and_their_directory_to_be_written(tmp_path):
    there = tmp_path / "there"
    there.touch()
    assert cli.input_path(str(there)) == cli.output_path(str(there)) == there
    assert cli.input_path("-") == cli.output_path("-") == cli.STANDARD
    assert cli.output_path(str(tmp_path / "new")) == tmp_path / "new"
    for read, path in [
        (cli.input_path, tmp_path / "new"),
        (cli.input_path, tmp_path),
        (cli.output_path, tmp_path),
        (cli.output_path, tmp_path / "nowhere" / "new"),
    ]:
        with pytest.raises(ArgumentTypeError):
            read(str(path))


# --- Files -----------------------------------------------------------------------------------------------------------


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    with new_file(path, force=False) as file:
        file.write(b"half, ")
        assert not path.exists()
        file.write(b"whole")
    assert path.read_bytes() == b"half, whole"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_exists_is_replaced_by_force_only(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(CommandError, match="--force"), new_file(path, force=False):
        pass
    assert path.read_text() == "old"
    with new_file(path, force=True) as file:
        file.write(b"new")
    assert path.read_text() == "new"


def test_what_is_no_file_is_never_replaced(tmp_path):
    os.mkfifo(path := tmp_path / "pipe")  # as /dev/null would be, for root
    with pytest.raises(CommandError, match="is not a file"), new_file(path, force=True):
        pass
    assert path.is_fifo()
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_not_finished_leaves_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def write_half(path):
    with new_file(path, force=True) as file:
        file.write(b"half")
        raise KeyboardInterrupt


# --- Answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_what_a_command_prints_cannot_move_a_cursor():
    make_robot(name="R2")
    task = make_task(robot="R2", status="FAILURE", error={"type": "E", "message": f"one\n{HIDDEN}", "traceback": ""})
    outcome = run("list_tasks", "--id", str(task.pk))
    assert rf"E: one\n{SHOWN}" in outcome.out
    assert json.loads(run("list_tasks", "--json").out)["error"]["message"] == f"one\n{HIDDEN}"


def test_an_error_that_a_command_prints_cannot_move_a_cursor():
    class Refusing(FmvCommand):
        def handle(self, *args, **options):
            self.stderr.write(HIDDEN)
            self.stdout.write(HIDDEN)

    outcome = run(Refusing())
    assert (outcome.out, outcome.err) == (f"{SHOWN}\n", f"{SHOWN}\n")


def test_a_table_pads_its_columns_and_cuts_nothing():
    table = Table(name=6, last_run=0)
    assert table.head() == "NAME    LAST RUN"
    assert table.line({"name": "Bender", "last_run": 1, "more": 2}) == "Bender  1"
    assert table.line({"name": "Crow T. Robot", "last_run": ""}) == "Crow T. Robot"


def test_an_error_is_printed_without_the_part_of_the_request():
    problems = [Problem(("body", "params", "count"), "too much"), Problem(("body",), "too deep")]
    assert in_words(InvalidInput(problems)) == "params.count: too much; input: too deep"
    assert in_words(FmvError("No.")) == "No."


# --- How they end ----------------------------------------------------------------------------------------------------


class Fails(FmvCommand):
    """A command that meets this error."""

    requires_system_checks = []

    def __init__(self, error: BaseException) -> None:
        super().__init__(stdout=io.StringIO(), stderr=io.StringIO())
        self.error = error

    def handle(self, *args, **options):
        self.so_far = "3 of 5 are done."
        raise self.error


def unreachable() -> DatabaseError:
    error = DatabaseError("no servers")
    error.__cause__ = ServerSelectionTimeoutError("no servers")
    return error


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (FmvError("Not possible"), 1, "Not possible"),
        (InvalidInput([Problem(("body", "name"), "too long")]), 1, "name: too long"),
        (PermissionError(13, "Permission denied", "/etc/x"), 1, "/etc/x: Permission denied. 3 of 5 are done."),
        (unreachable(), 1, "MongoDB cannot be reached: no servers. 3 of 5 are done."),
        (ServerSelectionTimeoutError("no servers"), 1, "MongoDB cannot be reached: no servers. 3 of 5 are done."),
        (KeyboardInterrupt(), 130, "3 of 5 are done."),
        (CommandError("No.", returncode=2), 2, "No."),
    ],
)
def test_an_error_is_a_sentence_and_a_status(error, status, text):
    with pytest.raises(CommandError) as raised:
        Fails(error).execute(no_color=True, force_color=False, skip_checks=True)
    assert (raised.value.returncode, str(raised.value)) == (status, text)


def test_an_error_of_ours_is_not_hidden():
    with pytest.raises(DatabaseError, match="disk full"):
        Fails(DatabaseError("disk full")).execute(no_color=True, force_color=False, skip_checks=True)


class Tells(FmvCommand):
    requires_system_checks = []

    def handle(self, *args, **options):
        self.answer(request_id.current.get(), id=request_id.current.get())


def test_each_run_has_an_id_of_its_own():
    texts = []
    for _ in range(2):
        Tells(stdout=(out := io.StringIO())).execute(no_color=True, force_color=False, skip_checks=True)
        texts.append(out.getvalue())
    assert len({*texts, "-\n"}) == 3
    assert request_id.current.get() == "-"


def test_an_answer_is_text_or_one_object():
    Tells(stdout=(out := io.StringIO())).execute(no_color=True, force_color=False, skip_checks=True, json=True)
    assert out.getvalue().startswith('{\n  "id": "')


# --- A person's word -------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("answer", ["y\n", "Yes\n"])
def test_a_person_says_yes(monkeypatch, answer):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    command = FmvCommand(stderr=(err := io.StringIO()))
    command.confirm("3 would be gone. Continue?", yes=False)
    assert err.getvalue() == "3 would be gone. Continue? [y/N] "


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "sure\n"])
def test_a_person_does_not_say_yes(monkeypatch, answer):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    with pytest.raises(CommandError, match=r"Nothing has changed\.") as error:
        FmvCommand(stderr=io.StringIO()).confirm("Continue?", yes=False)
    assert error.value.returncode == 1


def test_without_a_terminal_it_is_refused(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(CommandError, match="use --yes") as error:
        FmvCommand().confirm("Continue?", yes=False)
    assert error.value.returncode == 2
    FmvCommand().confirm("Continue?", yes=True)


# --- Options that were not meant -------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["cancel_tasks", "--statuss=FAILURE", "--yes"], "--statuss=FAILURE. Did you mean --status?"),
        (["cancel_tasks", "--stat", "FAILURE", "--yes"], "Did you mean --status?"),  # no shortened options
        (["cancel_tasks", "--robot", "R2", "--robot=C3", "--yes"], "argument --robot: can be given only once"),
        (["tokens", "list", "--usr", "fry"], "Did you mean --user?"),
        (["tokens", "list", "--user=fry", "--user=leela"], "argument --user: can be given only once"),
    ],
)
def test_an_option_that_is_unknown_or_given_twice_is_refused_and_changes_nothing(arguments, says):
    task = make_task(robot="R2", status="QUEUED")
    ended = run(*arguments)
    assert ended.status != 0
    assert says in ended.err
    assert Task.objects.get() == task
    assert Task.objects.get().status == "QUEUED"


@pytest.mark.django_db
def test_a_list_is_heard_twice():
    tasks = [make_task(robot="R2", status=status) for status in ("QUEUED", "RETRY", "FAILURE")]
    ended = run("list_tasks", "--status", "queued", "--status", "RETRY", "--json")
    assert [str(task.pk) in ended.out for task in tasks] == [True, True, False]
