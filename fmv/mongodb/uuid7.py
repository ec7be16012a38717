"""UUID v7: ids that sort by time, so a time range is an id range."""

import datetime as dt
import uuid


def id_at(moment: dt.datetime) -> uuid.UUID:
    """Return the least UUID v7 of `moment`'s millisecond."""
    milliseconds = max(0, int(moment.timestamp() * 1000))
    return uuid.UUID(int=(milliseconds & (1 << 48) - 1) << 80 | 0x7 << 76 | 0b10 << 62)


def time_of(id: uuid.UUID | str) -> dt.datetime:
    """Return the moment a UUID v7 was made, to the millisecond, in UTC; of the id or its 32 digits."""
    milliseconds = int(id[:12], 16) if isinstance(id, str) else id.int >> 80
    return dt.datetime.fromtimestamp(milliseconds / 1000, dt.UTC)


def dashed(id: uuid.UUID | str | None) -> str | None:
    """Return a UUID, or the 32 digits that MongoDB has of it, as everybody writes it."""
    if isinstance(id, uuid.UUID):
        return str(id)
    return id and f"{id[:8]}-{id[8:12]}-{id[12:16]}-{id[16:20]}-{id[20:]}"
