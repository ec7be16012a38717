"""The common part of management commands: arguments, output, progress, exit status.

Exit status: 0 done, 1 refused or failed, 2 wrong arguments, 130 interrupted, 141 if the reader of a pipe has closed it.
"""

import argparse
import datetime as dt
import os
import re
import signal
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import orjson
from django.core.management.base import BaseCommand, CommandError, CommandParser, DjangoHelpFormatter, OutputWrapper
from django.db import DatabaseError
from django.utils import timezone
from pymongo.errors import PyMongoError
from tqdm import tqdm
from uuid_utils.compat import uuid7

from fmv.errors import FmvError, InvalidInput, did_you_mean
from fmv.escaping import visible, visible_lines
from fmv.http import request_id
from fmv.http.fields import RFC_3339
from fmv.http.json import check_json
from fmv.mongodb.migration_state import migration_state
from fmv.mongodb.server import stored_now, trouble
from fmv.monitoring.servers import reason

BY = "command"  # the user that commands record
STANDARD = Path("-")  # standard input or output
MAX_FAULTS_IN_JSON = 100

# --- Arguments -------------------------------------------------------------------------------------------------------

MAX_AGE = dt.timedelta(days=36_500)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
TIME_HELP = "A time is 2027-01-31T08:00:00Z, 2027-01-31 (UTC), or an age: 90s, 30m, 12h, 7d, 4w ago."


def parse_age(text: str) -> dt.timedelta:
    """Parse `90s`, `30m`, `12h`, `7d` or `4w`: more than 0, at most 100 years."""
    found = re.fullmatch(r"([0-9]{1,10}(?:\.[0-9]{1,9})?)([smhdw])", text)
    try:
        value = dt.timedelta(**{UNITS[found[2]]: float(found[1])}) if found else dt.timedelta()
    except OverflowError:
        value = dt.timedelta.max
    if not dt.timedelta() < value <= MAX_AGE:
        raise ArgumentTypeError(f"{text!r} is not an age like 30m, 12h or 7d")
    return value


def _now() -> dt.datetime:
    """Return MongoDB's clock; ours without MongoDB, because then the command ends at its first query and says why."""
    try:
        return stored_now()
    except (PyMongoError, DatabaseError):
        return timezone.now()


def parse_time(text: str) -> dt.datetime:
    """Parse a time in RFC 3339, a date (its beginning in UTC), or an age, which is counted back from now."""
    try:
        if re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            return dt.datetime.fromisoformat(text).replace(tzinfo=dt.UTC)
        if RFC_3339.fullmatch(text):
            return dt.datetime.fromisoformat(text.upper()).astimezone(dt.UTC)
        return _now() - parse_age(text)
    except (ValueError, OverflowError, ArgumentTypeError):
        raise ArgumentTypeError(f"{text!r} is neither a time like 2027-01-31T08:00:00Z nor an age like 12h") from None


def parse_future_time(text: str) -> dt.datetime:
    """Parse like `parse_time`, but count an age forward from now: `30m` is in half an hour."""
    try:
        return _now() + parse_age(text)
    except ArgumentTypeError:
        return parse_time(text)


def parse_days(text: str) -> float:
    """Parse a number of days: more than 0, at most 100 years."""
    return _number(text, MAX_AGE.days, "a number of days")


def parse_seconds(text: str) -> float:
    """Parse a number of seconds: more than 0, at most 100 years."""
    return _number(text, MAX_AGE.total_seconds(), "a number of seconds")


def _number(text: str, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= most:
        raise ArgumentTypeError(f"{text!r} is not {what} from 0 to {most:,.0f}")
    return value


def parse_positive(text: str) -> int:
    """Parse a whole number from 1."""
    if not re.fullmatch("[0-9]{1,12}", text) or not int(text):
        raise ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def input_path(text: str) -> Path:
    """Parse the path of a file that can be read, or `-` for standard input."""
    path = Path(text)
    if path != STANDARD and not os.access(path, os.R_OK):
        raise ArgumentTypeError(f"There is no readable file {text!r}")
    if path.is_dir():
        raise ArgumentTypeError(f"{text!r} is a directory")
    return path


def output_path(text: str) -> Path:
    """Parse the path of a file to write, in an existing directory, or `-` for standard output."""
    path = Path(text)
    if path != STANDARD and (path.is_dir() or not os.access(path.parent, os.W_OK)):
        raise ArgumentTypeError(f"Cannot write a file {text!r}")
    return path


# --- Files -----------------------------------------------------------------------------------------------------------


@contextmanager
def new_file(path: Path, *, force: bool, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Yield a temporary file in the same directory, and rename it to `path` once it is complete and on the disk.

    Raises CommandError if `path` is a file, unless `force`, or anything else that exists. Raises OSError, and leaves no
    file, if the disk is full.
    """
    if path.exists() and not path.is_file():  # such as a device, which a rename would replace by a file
        raise CommandError(f"{path} is not a file; use - for standard output.")
    if path.exists() and not force:
        raise CommandError(f"{path} exists; use --force to replace it.")
    unfinished = path.with_name(f".{path.name}.{uuid7().hex}")  # process ids are not unique: containers share them
    opened = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(opened, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not force and path.exists():
            raise CommandError(f"{path} has appeared meanwhile; use --force to replace it.")
        unfinished.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # the error of a write names no file
        raise
    finally:
        unfinished.unlink(missing_ok=True)


# --- Output ----------------------------------------------------------------------------------------------------------


def as_json(data: Any) -> str:
    return orjson.dumps(data).decode()


def format_time(value: dt.datetime | None) -> str:
    """Return a time for people to read, in UTC to the second; "-" for None."""
    return f"{value.astimezone(dt.UTC):%Y-%m-%d %H:%M:%S}" if value else "-"


class Table:
    """Lines of columns with fixed widths, so that rows can be printed one by one."""

    def __init__(self, **widths: int) -> None:
        self.widths = widths

    def head(self) -> str:
        return self.line({name: name.replace("_", " ").upper() for name in self.widths})

    def line(self, row: Mapping[str, Any]) -> str:
        cells = (f"{visible(str(row[name])):{width}}" for name, width in self.widths.items())
        return "  ".join(cells).rstrip()


def in_words(error: FmvError) -> str:
    """Return the error's message; for invalid input, with the field but without the part of a request it was in."""
    if not isinstance(error, InvalidInput):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, p.loc[1:])) or 'input'}: {p.msg}" for p in error.problems)


# --- Commands --------------------------------------------------------------------------------------------------------


class Interrupted(CommandError):
    """The user has pressed Ctrl-C; the message says what has been done so far."""

    def __init__(self, so_far: str) -> None:
        super().__init__(so_far, returncode=128 + signal.SIGINT)


class Parser(CommandParser):
    """Suggests the option that was meant, accepts no shortened one, and refuses one given twice unless it is a list.

    Otherwise `--status` might be read as another option tomorrow, and of two robots the first would be forgotten.
    """

    def error(self, message: str) -> Any:
        words = message.removeprefix("unrecognized arguments: ").split()
        if words and len(words) < len(message.split()):
            hints = (did_you_mean(word.partition("=")[0], self._known) for word in words)
            message += next((f".{hint}" for hint in hints if hint), "")
        return super().error(message)

    @property
    def _known(self) -> list[str]:
        parsers = [self, *(each for action in self._actions for each in _subparsers(action))]
        return [name for parser in parsers for name in parser._option_string_actions if name.startswith("--")]


class Once(argparse._StoreAction):
    """The action of an option that may be given once."""

    given = False

    def __call__(self, parser: argparse.ArgumentParser, *args: Any) -> None:
        if self.given:
            raise argparse.ArgumentError(self, "can be given only once")
        self.given = True
        super().__call__(parser, *args)


def _subparsers(action: argparse.Action) -> Iterable[argparse.ArgumentParser]:
    return action.choices.values() if isinstance(action, argparse._SubParsersAction) else ()


def _make_strict(parser: argparse.ArgumentParser) -> None:
    """Change the parser's class and those of its options: Django and argparse choose them, and offer no other way."""
    parser.__class__, parser.allow_abbrev = Parser, False
    for action in parser._actions:
        if type(action) is argparse._StoreAction and action.option_strings:
            action.__class__ = Once
        for each in _subparsers(action):
            _make_strict(each)


class Help(DjangoHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Does not reflow the examples."""


class Output(OutputWrapper):
    """Standard output or error of a command; hidden characters in what it prints are escaped."""

    def write(  # type: ignore[override]
        self, msg: str = "", style_func: Any = None, ending: str | None = None
    ) -> None:
        super().write(visible_lines(str(msg)), style_func, ending)


class FmvCommand(BaseCommand):
    """A command that prints an error as a sentence, and that users may interrupt, pipe and repeat."""

    #: Django's options, which work but would fill half of --help
    suppressed_base_arguments = {
        "--version", "--verbosity", "--settings", "--pythonpath", "--traceback", "--no-color", "--force-color",
        "--skip-checks",
    }  # fmt: skip
    #: lines at the end of --help
    examples = ""
    #: printed after Ctrl-C: what has been done, and how to continue
    so_far = "Nothing has changed."
    #: whether to print JSON
    json = False
    #: whether to refuse while migrations are not applied
    needs_migrations = True

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        out, err = cast(Any, self.stdout), cast(Any, self.stderr)
        self.stdout, self.stderr = Output(out._out), Output(err._out)
        self.stderr.style_func = err.style_func

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        lines = [f"  python manage.py {line.strip()}" for line in self.examples.strip().splitlines()]
        epilog = "\n".join(["examples:", *lines]) if lines else None
        parser = super().create_parser(prog_name, subcommand, formatter_class=Help, epilog=epilog, **kwargs)
        _make_strict(parser)
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        self.json = bool(options.get("json"))
        for name in ("stdout", "stderr"):
            if stream := options.pop(name, None):
                setattr(self, name, Output(stream))
        run = request_id.current.set(str(uuid7()))  # the request id of everything this command does
        try:
            for name, value in options.items():
                if isinstance(value, str | list):  # bytes of a shell that are no UTF-8 come as lone surrogates
                    check_json(value, ("command line", name))
            if self.needs_migrations and (problem := migration_state().problem):
                raise CommandError(problem)
            answer = super().execute(*args, **options)
            self.stdout.flush()
        except KeyboardInterrupt:
            raise Interrupted(self.so_far) from None
        except BrokenPipeError:  # as by `| head`, which closes the pipe
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(128 + signal.SIGPIPE) from None
        except FmvError as error:
            raise CommandError(in_words(error)) from error
        except OSError as error:
            raise CommandError(f"{error.filename or 'A file'}: {error.strerror}. {self.so_far}") from error
        except (DatabaseError, PyMongoError) as error:
            if sentence := trouble(error):
                raise CommandError(
                    f"MongoDB{sentence.removeprefix('The database').rstrip('.')}: {reason(error)}. {self.so_far}"
                ) from error
            raise
        finally:
            request_id.current.reset(run)
        return answer

    def answer(self, text: str, **data: Any) -> None:
        """Print the text or, with --json, the object."""
        self.stdout.write(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode() if self.json else text)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Return if --yes was given or the user at the terminal agrees. Raises CommandError otherwise."""
        if yes:
            return
        if not sys.stdin.isatty():
            raise CommandError(f"{question} There is no terminal to ask: use --yes.", returncode=2)
        self.stderr.write(f"{question} [y/N] ", ending="")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError("Nothing has changed.")

    def progress(self, rows: Iterable[Any] | None = None, total: int | None = None, unit: str = "") -> "tqdm[Any]":
        """Return the rows with a progress bar on standard error, which only a terminal shows."""
        return tqdm(rows, total=total, unit=f" {unit}", file=sys.stderr, disable=None, leave=False, dynamic_ncols=True)


def add_json(parser: argparse.ArgumentParser, what: str = "print one JSON object") -> None:
    parser.add_argument("--json", action="store_true", help=what)


def add_dry_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="print what would be done, and do nothing")


def add_yes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yes", action="store_true", help="do not ask; required without a terminal")
