"""The types of environment variables. A wrong value raises ValueError; its message follows the variable's name."""

import importlib.util
import re
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

from fmv.errors import did_you_mean


def _mongodb_uri(value: str) -> str:
    if not value.startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("must start with mongodb:// or mongodb+srv://")
    if not value.partition("?")[0].partition("://")[2].partition("/")[2]:
        raise ValueError("must name a database, such as mongodb://127.0.0.1:27017/fmv")
    return value


def _broker_url(value: str) -> str:
    if not value.startswith(("amqp://", "amqps://", "redis+socket:///")):
        raise ValueError(
            "must start with amqp:// or amqps:// for RabbitMQ, or redis+socket:/// for a development Valkey"
        )
    return value


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _origins(value: list[str]) -> list[str]:
    for origin in value:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query or parts.fragment:
            raise ValueError(f"{origin!r} is not an origin such as https://fleet.example.org")
    return value


def is_safe_url(url: str) -> bool:
    """Return whether keys may be fetched from this URL: over HTTPS, or from this machine."""
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    return bool(parts.hostname) and "@" not in parts.netloc and (parts.scheme == "https" or local)


def _issuer(value: str) -> str:
    if value and (not is_safe_url(value) or set("?# ") & set(value)):
        raise ValueError("must be an https URL such as https://login.example.org; http is allowed on loopback only")
    return value


def _apps(value: list[str]) -> list[str]:
    for app in value:
        try:
            found = importlib.util.find_spec(app)
        except ImportError:
            found = None
        if found is None:
            raise ValueError(f"{app!r} cannot be imported")
    return value


def _metrics_token(value: str) -> str:
    if value and (len(value) < 32 or not value.isascii() or not value.isprintable() or " " in value):
        raise ValueError("must be at least 32 printable ASCII characters without blanks")
    return value


def _rate(value: str) -> str:
    if value and not re.fullmatch(r"[1-9][0-9]{0,8}/(second|minute|hour|day)", value):
        raise ValueError("must be a number per second, minute, hour or day, such as 600/minute")
    return value


NO_PLACES = frozenset({"localtime", "Factory"})  # entries of the time zone database that name none


def _time_zone(value: str) -> str:
    try:
        zone = None if value in NO_PLACES else ZoneInfo(value).key
    except (ValueError, OSError, LookupError):  # no name of a zone; a folder of the database; unknown
        zone = None
    if zone is None:
        hint = did_you_mean(value, available_timezones() - NO_PLACES)
        raise ValueError(f"must be a time zone such as Europe/Berlin.{hint}")
    return zone


CommaSeparated = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Origins = Annotated[CommaSeparated, AfterValidator(_origins)]
Apps = Annotated[CommaSeparated, AfterValidator(_apps)]
MongodbUri = Annotated[str, AfterValidator(_mongodb_uri)]
BrokerUrl = Annotated[str, AfterValidator(_broker_url)]
Issuer = Annotated[str, AfterValidator(_issuer)]
MetricsToken = Annotated[str, AfterValidator(_metrics_token)]
Rate = Annotated[str, AfterValidator(_rate)]
TimeZone = Annotated[str, AfterValidator(_time_zone)]
