"""Import and export of robots as JSON lines or CSV.

CSV is RFC 4180 in UTF-8 with a line of column names. Cells may also be separated by `;` or tabs, as spreadsheets of
many countries have it. An empty cell means that the field is not given. Labels are separated by `;`, or are a JSON
list, which is written if a label itself contains `;`.

A text that a spreadsheet would evaluate is written with a `'` in front, see fmv.export; the import takes it off again.
"""

import csv
import tempfile
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import PurePath
from typing import Any, BinaryIO, NamedTuple

import orjson
from django.core.exceptions import ValidationError as ModelError
from rest_framework.exceptions import ValidationError

from fmv.errors import FmvError, InvalidInput
from fmv.escaping import shortened
from fmv.export import cell, unguarded
from fmv.http.errors import flatten
from fmv.http.json import parse
from fmv.mongodb.streaming import by_key
from robots import services
from robots.models import Robot
from robots.serializers import RobotInputSerializer, RobotOfFileSerializer

FIELDS = tuple(RobotInputSerializer().fields)
IGNORED = frozenset({"tasks", "created_at", "updated_at"})  # fields that the API returns but does not take
MAX_LINE = 1024 * 1024  # bytes
MAX_UNKNOWN = 8  # columns that an error names
WRITE_BATCH = 1000  # robots stored in one write

WORKBOOKS = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")  # how files of spreadsheets begin: .xlsx and .ods, and .xls

#: a line's number, and a robot's fields or the reason why the line is no robot
Record = tuple[int, dict[str, Any] | str]


class WrongFile(FmvError):
    """The file cannot be read as robots."""


class Fault(NamedTuple):
    """A problem with one line of a file."""

    line: int
    field: str
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.field}: {self.message}" if self.field else f"line {self.line}: {self.message}"


# --- Reading ---------------------------------------------------------------------------------------------------------


def read_jsonl(file: BinaryIO) -> Iterator[Record]:
    for number, line in enumerate(_lines(file), start=1):
        if line.strip():
            yield number, _object(line)


def _object(line: str) -> dict[str, Any] | str:
    try:
        value = parse(line, ())
    except InvalidInput as error:
        [problem] = error.problems
        return problem.msg if problem.type == "json_invalid" else f"{'.'.join(map(str, problem.loc))}: {problem.msg}"
    return value if isinstance(value, dict) else "A line must be one JSON object"


def read_csv(file: BinaryIO) -> Iterator[Record]:
    lines = _lines(file)
    first = next(lines, "")
    rows = csv.reader(chain([first], lines), strict=True, delimiter=_separator(first))
    try:
        header = [name.strip() for name in next(rows, [])]
        _check_header(header)
        end = rows.line_num
        for row in rows:
            start, end = end + 1, rows.line_num  # a cell may hold lines
            if row:
                yield start, _robot(header, row)
    except csv.Error as error:
        raise WrongFile(f"Line {rows.line_num} is not CSV: {error}.") from None


def _separator(header: str) -> str:
    """Return what separates the names of the columns: a comma, unless they only make sense with another character."""
    return next((each for each in ",;\t" if "name" in (cell.strip(' "\r\n') for cell in header.split(each))), ",")


def _check_header(header: list[str]) -> None:
    known = {*FIELDS, *IGNORED}
    if "name" not in header:
        raise WrongFile(f"The first line must name the columns, separated by commas: {','.join(FIELDS)}.")
    if unknown := [name for name in header if name not in known]:
        named = ", ".join(repr(shortened(name, 64)) for name in unknown[:MAX_UNKNOWN])
        more = f" and {len(unknown) - MAX_UNKNOWN:,} more" if len(unknown) > MAX_UNKNOWN else ""
        raise WrongFile(f"No robot has {named}{more}; the columns are {','.join(FIELDS)}.")
    if len(set(header)) < len(header):
        raise WrongFile("A column is named twice.")


def _robot(header: list[str], row: list[str]) -> dict[str, Any] | str:
    if len(row) != len(header):
        return f"The line has {len(row)} cells, but there are {len(header)} columns"
    cells = {name: cell for name, cell in zip(header, row, strict=True) if cell.strip()}
    return {name: _read_cell(name, unguarded(cell.strip())) for name, cell in cells.items()}


def _read_cell(name: str, cell: str) -> Any:
    if name == "lanes" and cell.isascii() and cell.isdigit():
        return int(cell[:9])
    if name == "labels":
        return orjson.loads(cell) if _is_json(cell) else [label.strip() for label in cell.split(";")]
    return cell


def _is_json(cell: str) -> bool:
    try:
        return cell.startswith("[") and isinstance(orjson.loads(cell), list)
    except orjson.JSONDecodeError:
        return False


def _lines(file: BinaryIO) -> Iterator[str]:
    """Yield the lines with their line ends. Raises WrongFile if one is too long or not UTF-8."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), start=1):
        if number == 1:
            _check_encoding(line)
        if len(line) > MAX_LINE:
            raise WrongFile(f"Line {number} is longer than 1 MiB.")
        try:
            yield (line.removeprefix(BOM_UTF8) if number == 1 else line).decode()
        except UnicodeDecodeError as error:
            raise WrongFile(f"Line {number} is not UTF-8, at byte {error.start + 1}. Save the file as UTF-8.") from None


def _check_encoding(line: bytes) -> None:
    """Raise WrongFile if the file begins like one of an encoding or with line ends that cannot be read."""
    if line.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) or b"\0" in line[:4]:  # or without a byte order mark
        raise WrongFile("The file is UTF-16. Save it as UTF-8: in Excel as “CSV UTF-8”.")
    if line.startswith(WORKBOOKS):
        raise WrongFile("The file is a workbook. Save its sheet as a text file: in Excel as “CSV UTF-8”.")
    if b"\r" in line.rstrip(b"\r\n"):
        raise WrongFile("The lines end with CR only, as on old Macintoshes. Save the file with line ends LF or CRLF.")


# --- Writing ---------------------------------------------------------------------------------------------------------


def write_jsonl(robots: Iterable[Robot], file: BinaryIO) -> int:
    """Write the robots; return their number."""
    written = 0
    for written, robot in enumerate(robots, start=1):  # noqa: B007 - returned at the end
        file.write(orjson.dumps(_fields(robot), option=orjson.OPT_APPEND_NEWLINE))
    return written


def write_csv(robots: Iterable[Robot], file: BinaryIO) -> int:
    """Write the robots; return their number."""
    written = 0
    text = TextIOWrapper(file, encoding="utf-8", newline="")
    try:
        rows = csv.writer(text)
        rows.writerow(FIELDS)
        for written, robot in enumerate(robots, start=1):  # noqa: B007 - returned at the end
            rows.writerow(cell(value) for value in _fields(robot).values())
    finally:
        text.detach()  # the caller closes the file
    return written


def _fields(robot: Robot) -> dict[str, Any]:
    fields = {name: getattr(robot, name) for name in FIELDS}
    return fields | {"endpoint": fields["endpoint"] or None}


def export() -> Iterator[Robot]:
    """Yield all robots, ordered by name."""
    return by_key(Robot.objects.all())


#: readers and writers by format
READERS: dict[str, Callable[[BinaryIO], Iterator[Record]]] = {"jsonl": read_jsonl, "csv": read_csv}
WRITERS: dict[str, Callable[[Iterable[Robot], BinaryIO], int]] = {"jsonl": write_jsonl, "csv": write_csv}
#: format by the suffix of a file's name
SUFFIXES = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv"}


def format_of(name: str, content: bytes) -> str:
    """Return the format of a file that somebody has chosen: as its name says, else as its first character does."""
    text = content.removeprefix(BOM_UTF8).lstrip()
    return SUFFIXES.get(PurePath(name).suffix.lower(), "jsonl" if text.startswith(b"{") else "csv")


# --- Importing -------------------------------------------------------------------------------------------------------


class Planned(NamedTuple):
    """What an import does to a robot; `differences` are those of one that exists, none if it stays as it is."""

    line: int
    robot: Robot
    is_new: bool
    differences: list[str]


class Import:
    """Robots of a file, which are all read and checked before the first is stored.

    Between the two they are kept in a temporary file, so that exactly the checked robots are stored, and only the names
    are in memory.
    """

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}  # name -> number of its line
        self.taken: set[str] = set()  # the names of robots that exist
        self.outcome: Counter[str] = Counter()  # "added", "changed", "unchanged", "skipped"
        self._serializer = RobotOfFileSerializer()
        self._spool = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it

    def close(self) -> None:
        self._spool.close()

    def read(self, records: Iterable[Record]) -> Iterator[list[Fault]]:
        """Check all robots; yield the faults of each. Raises WrongFile."""
        for line, values in records:
            faults = [Fault(line, "", values)] if isinstance(values, str) else self._take(line, values)
            yield faults
        self.taken = self._find_taken()

    def _take(self, line: int, values: dict[str, Any]) -> list[Fault]:
        robot, faults = self._check(line, values)
        if robot and robot["name"] in self.lines:
            faults = [Fault(line, "name", f"{robot['name']!r} is in line {self.lines[robot['name']]} already")]
        elif robot and not faults:
            self.lines[robot["name"]] = line
            self._spool.write(orjson.dumps(robot, option=orjson.OPT_APPEND_NEWLINE))
        return faults

    def _check(self, line: int, values: dict[str, Any]) -> tuple[dict[str, Any], list[Fault]]:
        """Return the robot's validated fields, and the faults for which the API would refuse it."""
        unknown = [name for name in values if name not in FIELDS and name not in IGNORED]
        faults = [Fault(line, name, "Unknown field") for name in unknown]
        try:
            robot = dict(self._serializer.run_validation(values))
            Robot(**robot).clean()
        except ValidationError as error:
            problems = flatten(error.detail, ())
            return {}, faults + [Fault(line, ".".join(map(str, p.loc)), p.msg) for p in problems]
        except ModelError as error:
            return {}, faults + [Fault(line, name, *texts[:1]) for name, texts in error.message_dict.items()]
        return robot, faults

    def _find_taken(self) -> set[str]:
        """Return the names that robots have already. For many names this reads all names of the registry once."""
        names = Robot.objects.order_by().values_list("name", flat=True)
        if len(self.lines) <= WRITE_BATCH:
            return set(names.filter(pk__in=list(self.lines)))
        return {name for name in names.iterator(WRITE_BATCH) if name in self.lines}

    def faults(self) -> list[Fault]:
        """Return a fault for each line whose robot exists already."""
        lines = sorted((self.lines[name], name) for name in self.taken)
        return [Fault(line, "name", f"A robot named {name!r} exists already") for line, name in lines]

    def plan(self) -> Iterator[Planned]:
        """Yield what `store` with `replace` would do to each robot now, by line."""
        for step in self._steps():
            known = {robot.name: robot for robot in Robot.objects.filter(pk__in=[values["name"] for values in step])}
            for values in step:
                before = known.get(values["name"])
                differences = services.differences(before, Robot(**values), values) if before else []
                yield Planned(self.lines[values["name"]], Robot(**values), before is None, differences)

    def _steps(self) -> Iterator[list[dict[str, Any]]]:
        self._spool.seek(0)
        robots = map(orjson.loads, self._spool)
        while step := list(islice(robots, WRITE_BATCH)):
            yield step

    def store(self, *, by: str, replace: bool) -> Iterator[int]:
        """Store the robots, and with `replace` also those that exist; yield the size of each batch after it is done.

        An interrupted import can be repeated: robots that are stored already count as unchanged.
        """
        for step in self._steps():
            new = [Robot(**values) for values in step if values["name"] not in self.taken]
            added = services.create_all(new, by=by) if new else set()
            self.outcome["added"] += len(added)
            for values in step:
                if values["name"] not in added:
                    self.outcome[self._replace(values, by) if replace else "skipped"] += 1
            yield len(step)

    def _replace(self, values: dict[str, Any], by: str) -> str:
        name, fields = values["name"], {key: value for key, value in values.items() if key != "name"}
        if Robot.objects.filter(pk=name, **fields).exists():
            return "unchanged"
        _, created = services.replace(name, by=by, **fields)
        return "added" if created else "changed"
