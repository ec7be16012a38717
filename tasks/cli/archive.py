"""Finished tasks on their way out of MongoDB, by way of a file if that is wanted."""

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
from fmv.mongodb.streaming import by_key
from tasks.api.serializers import LogLineSerializer, TaskSerializer
from tasks.models import LogLine, Task
from tasks.models.querysets import TaskQuerySet
from tasks.queue.services import PURGE_STEP, delete_all

CHUNK = 20  # tasks in memory at a time: each may hold a MiB
BLOCK = 64 * 1024  # bytes of a file looked at in one go
BEGINNING = b'{"task_id":"'  # of each line
GZIP = b"\x1f\x8b"


class NoArchive(FmvError):
    """The file is not an archive of tasks."""


def purge(tasks: TaskQuerySet, archive: "Archive | None" = None) -> Iterator[int]:
    """Delete those of these tasks that are over, with their logs, oldest first; yield after each step how many went.

    What goes is in the archive before, and on the disk. Stopped in between, a task may stand in it and still be there,
    and stands in it twice after the next time; it is never gone without standing in it.
    """
    for ids in _leaving(tasks.finished(), archive):
        delete_all(ids)
        yield len(ids)


def _leaving(tasks: TaskQuerySet, archive: "Archive | None") -> Iterator[list[UUID]]:
    """Yield the ids of the next tasks to delete, once these are in the archive."""
    if archive:
        whole = by_key(tasks)
        while ids := archive.add(islice(whole, PURGE_STEP)):
            yield ids
    else:
        keys = by_key(tasks.values_list("pk"), key=itemgetter(0))
        while ids := [id for (id,) in islice(keys, PURGE_STEP)]:
            yield ids


class Archive:
    """A file of JSON lines, each a task as the API tells it and its `log`; gzipped when its name ends in `.gz`.

    It is only ever added to. Half a line, or half a gzip member, that a crash has left at its end is cut off first.
    Raises NoArchive for a file that is none, or that another process writes to.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._zipped = path, path.suffix == ".gz"
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o640), "r+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file.seek(self._sound_end(path))
        except BlockingIOError:
            self.close()
            raise NoArchive(f"Another process writes to {path}.") from None
        except NoArchive:
            self.close()
            raise
        self._file.truncate()
        _sync_directory(path.parent)

    def close(self) -> None:
        self._file.close()

    def add(self, tasks: Iterator[Task]) -> list[UUID]:
        """Write these tasks and return their ids: they are on the disk then. When it raises, none is."""
        start, ids = self._file.tell(), []
        try:
            with gzip.GzipFile(fileobj=self._file, mode="wb") if self._zipped else nullcontext(self._file) as out:
                while some := list(islice(tasks, CHUNK)):
                    ids += [task.pk for task in some]
                    for piece in _pieces(some):
                        out.write(piece)
            self._file.flush()
            os.fsync(self._file.fileno())
        except BaseException as error:  # Ctrl-C too: whoever reads it finds whole lines
            self._file.seek(start)
            self._file.truncate()
            if isinstance(error, OSError):
                error.filename = error.filename or str(self._path)  # a write does not say where to
            raise
        return ids

    def _sound_end(self, path: Path) -> int:
        """Return where what was written whole ends. Raises NoArchive."""
        self._file.seek(0)
        beginning = self._file.read(len(BEGINNING))
        self._file.seek(0)
        end, start = (_end_of_members(self._file), GZIP) if self._zipped else (_end_of_lines(self._file), BEGINNING)
        self._file.seek(end)
        rest = self._file.read(len(start))
        if not (beginning.startswith(start[: len(beginning)]) and rest == start[: len(rest)]):
            raise NoArchive(f"{path} exists and is not an archive of tasks.")
        return end


def _end_of_lines(file: IO[bytes]) -> int:
    """Return where the last whole line ends."""
    position = file.seek(0, os.SEEK_END)
    while position:
        start = max(0, position - BLOCK)
        file.seek(start)
        if (found := file.read(position - start).rfind(b"\n")) >= 0:
            return start + found + 1
        position = start
    return 0


def _end_of_members(file: IO[bytes]) -> int:
    """Return where the last whole member of a gzip file ends: by reading all of it."""
    end, member = 0, zlib.decompressobj(wbits=31)
    while block := file.read(BLOCK):
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
    """See to it that the directory knows its new file after a power cut."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _pieces(tasks: Sequence[Task]) -> Iterator[bytes]:
    """Yield the lines of these tasks, ordered by their ids, in pieces: a log may be long."""
    as_task, as_line = TaskSerializer().to_representation, LogLineSerializer().to_representation
    found = LogLine.objects.filter(task__in=[task.pk for task in tasks]).order_by("task", "id")
    logs = groupby(found.iterator(), key=attrgetter("task"))
    of, lines = next(logs, (None, ()))
    for task in tasks:
        yield orjson.dumps(as_task(task)).removesuffix(b"}") + b',"log":['
        if of == task.pk:
            for number, line in enumerate(lines):
                yield (b"," if number else b"") + orjson.dumps(as_line(line))
            of, lines = next(logs, (None, ()))
        yield b"]}\n"
