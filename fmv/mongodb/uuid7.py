"""UUID v7: ids that sort by time, so that a time range is a range of ids."""

import datetime as dt
import threading
import uuid

from uuid_utils.compat import uuid7

from fmv.mongodb.server import clock

_lock = threading.Lock()
_latest = uuid.UUID(int=0)


def new_id() -> uuid.UUID:
    """Return a UUID v7 of now, by MongoDB's clock; within a millisecond each is greater than the one before.

    Raises PyMongoError if the server has never answered.
    """
    global _latest  # noqa: PLW0603 - the lock guards it
    now = clock.now()
    new: uuid.UUID = uuid7(nanoseconds=int(now.timestamp()) * 10**9 + now.microsecond * 1000)
    with _lock:
        if new < _latest and new.int >> 80 == _latest.int >> 80:
            new = uuid.UUID(int=_latest.int + 1)
        _latest = new
    return new


def id_at(time: dt.datetime) -> uuid.UUID:
    """Return the least UUID v7 of that millisecond."""
    milliseconds = max(0, int(time.timestamp() * 1000))
    return uuid.UUID(int=(milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | 0b10 << 62)


def time_of(id: uuid.UUID | str) -> dt.datetime:
    """Return the time in a UUID v7, or in its 32 hexadecimal digits: in UTC, to the millisecond."""
    milliseconds = int(id[:12], 16) if isinstance(id, str) else id.int >> 80
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def dashed(id: uuid.UUID | str | None) -> str | None:
    """Return a UUID, or the 32 digits that MongoDB stores for it, in the usual form with dashes."""
    if isinstance(id, uuid.UUID):
        return str(id)
    return id and f"{id[:8]}-{id[8:12]}-{id[12:16]}-{id[16:20]}-{id[20:]}"
