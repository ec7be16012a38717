"""Deleting finished tasks, after appending them to an archive file if one is given."""

import fcntl
import gzip
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import IO
from uuid import UUID

import orjson

from fmv.errors import FmvError
from fmv.mongodb.documents import columns_of
from fmv.mongodb.streaming import by_key
from tasks.api.rendering import render_line, render_object
from tasks.models import LogLine, Task
from tasks.models.querysets import TaskQuerySet
from tasks.queue.services import DELETE_STEP, delete_all

TASKS_IN_MEMORY = 20  # each may hold a MiB
READ_BLOCK = 64 * 1024  # bytes of a file
LINE_START = b'{"task_id":"'  # of each line
GZIP = b"\x1f\x8b"


class NotAnArchive(FmvError):
    """The file is not an archive of tasks."""


def purge(tasks: TaskQuerySet, archive: "Archive | None" = None) -> Iterator[int]:
    """Delete the finished ones of these tasks with their logs, oldest first; yield the number deleted in each step.

    A task is deleted only when the archive on the disk has it. After an interruption in between, the next run appends
    it again, so that the archive has it twice.
    """
    for ids in _archived(tasks.finished(), archive):
        delete_all(ids)
        yield len(ids)


def _archived(tasks: TaskQuerySet, archive: "Archive | None") -> Iterator[list[UUID]]:
    """Yield the ids of the next tasks to delete, once they are in the archive."""
    if archive:
        whole = by_key(tasks)
        while ids := archive.add(islice(whole, DELETE_STEP)):
            yield ids
    else:
        keys = by_key(tasks.values_list("pk"), key=itemgetter(0))
        while ids := [id for (id,) in islice(keys, DELETE_STEP)]:
            yield ids


class Archive:
    """A file of JSON lines, each a task as in the API with its `log`; gzipped if its name ends in `.gz`.

    Tasks are only appended. An incomplete line or gzip member that a crash has left at the end is cut off first.
    Raises NotAnArchive if the file is something else, or if another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._zipped = path, path.suffix == ".gz"
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o640), "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.seek(self._complete_end(path))
        except BlockingIOError:
            self.close()
            raise NotAnArchive(f"Another process writes to {path}.") from None
        except NotAnArchive:
            self.close()
            raise
        self._file.truncate()
        _sync_directory(path.parent)

    def close(self) -> None:
        self._file.close()

    def add(self, tasks: Iterator[Task]) -> list[UUID]:
        """Append these tasks to the file on the disk and return their ids. An exception leaves the file as it was."""
        start, ids = self._file.tell(), []
        try:
            with gzip.GzipFile(fileobj=self._file, mode="wb") if self._zipped else nullcontext(self._file) as out:
                while some := list(islice(tasks, TASKS_IN_MEMORY)):
                    ids += [task.pk for task in some]
                    for piece in _pieces(some):
                        out.write(piece)
            self._file.flush()
            os.fsync(self._file.fileno())
        except BaseException as error:  # Ctrl-C too, so that the file has complete lines only
            self._file.seek(start)
            self._file.truncate()
            if isinstance(error, OSError):
                error.filename = error.filename or str(self._path)  # the error of a write names no file
            raise
        return ids

    def _complete_end(self, path: Path) -> int:
        """Return the position after the last complete line or gzip member. Raises NotAnArchive."""
        self._file.seek(0)
        beginning = self._file.read(len(LINE_START))
        self._file.seek(0)
        end, start = (_end_of_members(self._file), GZIP) if self._zipped else (_end_of_lines(self._file), LINE_START)
        self._file.seek(end)
        rest = self._file.read(len(start))
        if not (beginning.startswith(start[: len(beginning)]) and rest == start[: len(rest)]):
            raise NotAnArchive(f"{path} exists and is not an archive of tasks.")
        return end


def _end_of_lines(file: IO[bytes]) -> int:
    """Return the position after the last complete line."""
    position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - READ_BLOCK)
        file.seek(start)
        if (found := file.read(position - start).rfind(b"\n")) >= 0:
            return start + found + 1
        position = start
    return 0


def _end_of_members(file: IO[bytes]) -> int:
    """Return the position after the last complete member of a gzip file, by reading all of it."""
    end, member = 0, zlib.decompressobj(wbits=31)
    while block := file.read(READ_BLOCK):
        while block:
            try:
                member.decompress(block)
            except zlib.error:
                return end
            if not member.eof:
                break
            block = member.unused_data
            end = file.tell() - len(block)
            member = zlib.decompressobj(wbits=31)
    return end


def _sync_directory(path: Path) -> None:
    """Make sure that the directory still has its new file after a power failure."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _pieces(tasks: Sequence[Task]) -> Iterator[bytes]:
    """Yield the lines of these tasks, ordered by id, in pieces, because a log may be long."""
    found = LogLine.objects.filter(task__in=[task.pk for task in tasks]).order_by("task", "id")
    logs = groupby(found.iterator(), key=attrgetter("task"))
    of, lines = next(logs, (None, ()))
    for task in tasks:
        yield orjson.dumps(render_object(task)).removesuffix(b"}") + b',"log":['
        if of == task.pk:
            for number, line in enumerate(lines):
                yield (b"," if number else b"") + orjson.dumps(render_line(columns_of(line)))
            of, lines = next(logs, (None, ()))
        yield b"]}\n"
