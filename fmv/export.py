"""Rows of a list as CSV or JSON lines, for spreadsheets and programs, in pieces that need little memory.

CSV is RFC 4180 in UTF-8 with a byte order mark, without which Excel takes letters beyond ASCII for others, and begins
with a line of column names. Of several values in a cell, such as labels, see `cell`.

A spreadsheet evaluates a cell that begins with = + - @. Such a text is written with a `'` in front, and so is such a
part of a text behind a `;`, a tab or a line end: where `;` separates cells, as in many countries, Excel makes a cell of
it. https://owasp.org/www-community/attacks/CSV_Injection
"""

import csv
import datetime as dt
import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import islice
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import orjson

PIECE_ROWS = 500
#: where a cell begins, or may, that a spreadsheet evaluates, or one that was guarded against that; = + - @ also in the
#: width of Japanese letters
_BEGINS = r"(?:^|(?<=[;\t\r\n]))%s(?='*[=+\-@\uff1d\uff0b\uff0d\uff20])|^%s(?='*[\t\r\n])"
_EVALUATED, _GUARDED = (re.compile(_BEGINS % (guard, guard)) for guard in ("", "'"))


class Column(NamedTuple):
    name: str
    help: str
    value: Callable[[Any], Any]  # of a row


def attribute(name: str, help: str, of: str = "") -> Column:
    """Return the column of an attribute of objects, which is called `of` if not like the column."""
    return Column(name, help, attrgetter(of or name))


def item(name: str, help: str, of: str = "") -> Column:
    """Return the column of an item of dicts."""
    return Column(name, help, itemgetter(of or name))


@dataclass(frozen=True)
class Export:
    """Rows, which are read while they are written, with their columns; and how many they are about."""

    columns: Sequence[Column]
    rows: Iterable[Any]
    count: int
    is_more: bool = False  # they are more than `count`, where counting stopped


class Piece(NamedTuple):
    content: bytes
    rows: int


def pieces(export: Export, form: str, zone: dt.tzinfo) -> Iterator[Piece]:
    """Yield the file, one of FORMS, with times in this zone. The first piece may have no rows."""
    rows = iter(export.rows)
    write = FORMS[form].write
    names = [column.name for column in export.columns]
    head = BOM_UTF8 + write([names], names) if form == "csv" else b""
    while some := list(islice(rows, PIECE_ROWS)):
        values = [[_plain(column.value(row), zone) for column in export.columns] for row in some]
        yield Piece(head + write(values, names), len(some))
        head = b""
    if head:
        yield Piece(head, 0)


def _plain(value: Any, zone: dt.tzinfo) -> Any:
    """Return the value as text, number, truth, None, or a list or dict of these; a time as ISO 8601 with its offset."""
    if isinstance(value, dt.datetime):
        return value.astimezone(zone).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if value is None or isinstance(value, bool | int | float | list | dict):
        return value
    return str(value)


def cell(value: Any) -> Any:
    """Return what a cell holds: numbers as they are, lists with `;` or, where a value has one, as JSON."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        plain = not any(";" in each for each in value) and not (value and value[0].startswith("["))
        value = ";".join(value) if plain else orjson.dumps(value).decode()
    elif isinstance(value, Mapping):
        value = orjson.dumps(value, default=str).decode()
    return _EVALUATED.sub("'", value) if isinstance(value, str) else value


def unguarded(text: str) -> str:
    """Return the text of which `cell` has made this one."""
    return _GUARDED.sub("", text)


def _csv(rows: Iterable[Sequence[Any]], names: Sequence[str]) -> bytes:
    text = StringIO(newline="")
    csv.writer(text).writerows([cell(value) for value in row] for row in rows)
    return text.getvalue().encode()


def _json_lines(rows: Iterable[Sequence[Any]], names: Sequence[str]) -> bytes:
    return b"".join(
        orjson.dumps(dict(zip(names, row, strict=True)), default=str, option=orjson.OPT_APPEND_NEWLINE) for row in rows
    )


class Form(NamedTuple):
    title: str
    media_type: str
    write: Callable[[Iterable[Sequence[Any]], Sequence[str]], bytes]


FORMS = {
    "csv": Form("CSV", "text/csv; charset=utf-8", _csv),
    "jsonl": Form("JSON lines", "application/x-ndjson", _json_lines),
}
