"""UUID v7: ids that sort by time, so that a time range is a range of ids."""

import datetime as dt
import uuid


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
