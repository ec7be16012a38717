"""Time zones: in which one a page shows times, and which time a text says that somebody typed.

All is stored in UTC, and the API speaks UTC. Only the admin has a zone: Django's current one, which the middleware
`fmv.accounts.preferences.TimeZones` sets for each request.
"""

import datetime as dt
from functools import cache
from zoneinfo import ZoneInfo, available_timezones

from django.utils import timezone

from fmv.environment_types import NO_PLACES
from fmv.errors import did_you_mean

MAX_NAME = 64  # characters
MAX_HINTS = 3


class WrongTime(ValueError):
    """A text says no time, or not which of two. `twice`: it is the second, and an offset would help."""

    def __init__(self, sentence: str, *, twice: bool = False) -> None:
        super().__init__(sentence)
        self.twice = twice


# --- Zones -----------------------------------------------------------------------------------------------------------


@cache
def _names() -> dict[str, str]:
    return {name.casefold(): name for name in sorted(available_timezones() - NO_PLACES)}


def names() -> list[str]:
    """Return the names of all time zones, in order."""
    return list(_names().values())


def find(name: str) -> ZoneInfo | None:
    """Return the zone with this name, in any case; None if there is none."""
    known = _names().get(name.strip().casefold())
    return ZoneInfo(known) if known else None


def hint(name: str) -> str:
    """Return a sentence with the zones that this text may mean, with a blank before it; "" if none is like it."""
    sought = name.strip().casefold().replace(" ", "_")
    within = [known for folded, known in _names().items() if sought and sought in folded]
    return f" Did you mean {' or '.join(within[:MAX_HINTS])}?" if within else did_you_mean(name, names())


def current_name() -> str:
    """Return the name of the current zone, such as Europe/Berlin."""
    zone = timezone.get_current_timezone()
    return getattr(zone, "key", None) or str(zone)


# --- Texts -----------------------------------------------------------------------------------------------------------


def read(text: str, zone: dt.tzinfo | None = None) -> dt.datetime:
    """Return, in UTC, the time that an ISO 8601 text says: in the zone (None: the current one) if it has no offset.

    Raises WrongTime.
    """
    zone = zone or timezone.get_current_timezone()
    try:
        moment = dt.datetime.fromisoformat(text.strip())
        certain = moment if moment.tzinfo else _certain(moment, zone)
        return certain.astimezone(dt.UTC)
    except WrongTime:
        raise
    except (ValueError, OverflowError):
        example = f"Write a time as in 2027-01-31 08:00 ({zone}), or with an offset as in 2027-01-31T08:00Z."
        raise WrongTime(example) from None


def lacks_offset(text: str) -> bool:
    """Return whether `read` takes the text for a time of the current zone."""
    try:
        return dt.datetime.fromisoformat(text.strip()).tzinfo is None
    except ValueError:
        return False


def _certain(naive: dt.datetime, zone: dt.tzinfo) -> dt.datetime:
    """Return the time in the zone. Raises WrongTime if it does not exist there or comes twice."""
    first, second = naive.replace(tzinfo=zone), naive.replace(tzinfo=zone, fold=1)
    if first.utcoffset() == second.utcoffset():
        return first
    text = _short(naive, " ")
    if first.astimezone(dt.UTC).astimezone(zone).replace(tzinfo=None) != naive:
        raise WrongTime(f"{text} does not exist in {zone}: the clocks are put forward then.")
    raise WrongTime(
        f"{text} comes twice in {zone}: the clocks are put back then. "
        f"Write {text}{_offset(first)} for the first or {text}{_offset(second)} for the second.",
        twice=True,
    )


def written(moment: dt.datetime) -> str:
    """Return a text that `read` takes: the time in the current zone, with its offset if it comes twice there."""
    local = timezone.localtime(moment)
    return _short(local, " ") + offset_if_twice(local)


def offset_if_twice(local: dt.datetime) -> str:
    """Return the offset of a local time that comes twice, as +01:00; "" for any other."""
    return _offset(local) if local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset() else ""


def _offset(local: dt.datetime) -> str:
    return local.isoformat()[-6:]


def in_utc(moment: dt.datetime) -> str:
    """Return the time for an address, which means the same to a reader in another zone: 2027-01-31T08:00Z."""
    return f"{_short(moment.astimezone(dt.UTC), 'T')}Z"


def _short(moment: dt.datetime, between: str) -> str:
    """Return date and time without what is zero at the end, and without offset."""
    precision = "auto" if moment.second or moment.microsecond else "minutes"
    return moment.replace(tzinfo=None).isoformat(between, precision)


# --- Days and hours --------------------------------------------------------------------------------------------------


def day_of(moment: dt.datetime, days: int = 0, zone: dt.tzinfo | None = None) -> dt.datetime:
    """Return, in UTC, when the zone's day begins that is so many days after the one of `moment`.

    A day has 23 or 25 hours when the clocks change, and begins later than midnight if midnight does not exist.
    """
    zone = zone or timezone.get_current_timezone()
    date = moment.astimezone(zone).date() + dt.timedelta(days=days)
    return dt.datetime.combine(date, dt.time(), zone).astimezone(dt.UTC)


def hour_of(moment: dt.datetime) -> dt.datetime:
    """Return, in UTC, the last full hour of the current zone's clock up to `moment`."""
    return timezone.localtime(moment).replace(minute=0, second=0, microsecond=0).astimezone(dt.UTC)
