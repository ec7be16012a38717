"""Every environment variable FMV reads: name, type, default and meaning.

The README's table says the same, and a test holds the two together. A wrong value stops the start with a sentence
that names the variable.
"""

import importlib.util
import re
import sys
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

#: Signs cookies while FMV_DEBUG is on and no key is set; anywhere else the start is refused.
DEVELOPMENT_SECRET_KEY = "insecure-development-key-never-to-be-used-in-production-0123456789"  # noqa: S105 # nosec B105


def _mongodb_uri(value: str) -> str:
    if not value.startswith(("mongodb://", "mongodb+srv://")):
        raise ValueError("must start with mongodb:// or mongodb+srv://")
    if not urlsplit(value).path.strip("/"):
        raise ValueError("must name a database, as in mongodb://127.0.0.1:27017/fmv")
    return value


def _broker_url(value: str) -> str:
    if not value.startswith(("amqp://", "amqps://", "mongodb://", "mongodb+srv://")):
        raise ValueError("must start with amqp://, amqps:// or mongodb://")
    return value


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _origins(value: list[str]) -> list[str]:
    for origin in value:
        parts = urlsplit(origin)
        if parts.scheme not in ("http", "https") or not parts.netloc or parts.path or parts.query or parts.fragment:
            raise ValueError(f"{origin!r} is not an origin, as in https://fleet.example.org")
    return value


def is_safe_url(url: str) -> bool:
    """Tell whether keys may come from there: over HTTPS, or from this very machine."""
    parts = urlsplit(url)
    local = parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
    return bool(parts.hostname) and "@" not in parts.netloc and (parts.scheme == "https" or local)


def _issuer(value: str) -> str:
    if value and (not is_safe_url(value) or set("?# ") & set(value)):
        raise ValueError("must be an https URL as in https://login.example.org, or on loopback an http one")
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
        raise ValueError("must be a number a second, minute, hour or day, as in 600/minute")
    return value


CommaSeparated = Annotated[list[str], NoDecode, BeforeValidator(_split)]


class Environment(BaseSettings):
    """The environment as typed values. A `.env` file in the working directory is read too; the environment wins."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    mongodb_uri: Annotated[str, AfterValidator(_mongodb_uri)] = Field(
        "mongodb://127.0.0.1:27017/fmv",
        alias="MONGODB_URI",
        description="MongoDB, with the name of the database.",
    )
    broker_url: Annotated[str, AfterValidator(_broker_url)] = Field(
        "amqp://guest:guest@127.0.0.1:5672//",
        alias="FMV_BROKER_URL",
        description="RabbitMQ (`amqp://`, `amqps://`), or for development a MongoDB (`mongodb://`).",
    )
    secret_key: Annotated[str, Field(min_length=50)] = Field(
        "",
        alias="FMV_SECRET_KEY",
        validate_default=False,
        description="Signs cookies: at least 50 random characters. Required unless `FMV_DEBUG` is on.",
    )
    debug: bool = Field(False, alias="FMV_DEBUG", description="Development conveniences; never in production.")
    apps: Annotated[CommaSeparated, AfterValidator(_apps)] = Field(
        [],
        alias="FMV_APPS",
        description="Further Django apps, separated by commas; the handlers in their `handlers.py` can be run.",
    )
    anonymous: Literal["none", "viewer", "operator", "manager"] = Field(
        "none",
        alias="FMV_ANONYMOUS",
        description="What callers who have not signed in may do: `none`, `viewer`, `operator` or `manager`.",
    )
    oidc_issuer: Annotated[str, AfterValidator(_issuer)] = Field(
        "",
        alias="FMV_OIDC_ISSUER",
        description="The organisation's OpenID Connect issuer, exactly as its tokens name it; empty for none.",
    )
    oidc_audience: CommaSeparated = Field(
        [],
        alias="FMV_OIDC_AUDIENCE",
        description="What such a token's `aud` must name, one of these, separated by commas. Required with an issuer.",
    )
    oidc_client_id: str = Field(
        "",
        alias="FMV_OIDC_CLIENT_ID",
        description="FMV's client at that issuer, for signing in to the admin; one of the audiences. Empty for none.",
    )
    oidc_client_secret: str = Field(
        "", alias="FMV_OIDC_CLIENT_SECRET", description="Its secret. Required with the client, and only then."
    )
    oidc_role_claim: str = Field(
        "fmv_role",
        alias="FMV_OIDC_ROLE_CLAIM",
        description="The claim, or dotted path to it, that names the user's role: `viewer`, `operator`, `manager`, "
        "or a list in which the highest counts. Empty: roles are given in the admin.",
    )
    oidc_leeway_seconds: float = Field(
        30,
        alias="FMV_OIDC_LEEWAY_SECONDS",
        ge=0,
        le=300,
        description="Seconds that the issuer's clock may differ from ours.",
    )
    oidc_timeout_seconds: float = Field(
        3,
        alias="FMV_OIDC_TIMEOUT_SECONDS",
        ge=0.1,
        le=30,
        description="Seconds the issuer has to give its keys; then the answer is 503.",
    )
    oidc_refresh_seconds: float = Field(
        10,
        alias="FMV_OIDC_REFRESH_SECONDS",
        ge=0.1,
        le=3600,
        description="Least seconds between two such questions, however many unknown keys or failures there are.",
    )
    oidc_keys_seconds: float = Field(
        300,
        alias="FMV_OIDC_KEYS_SECONDS",
        ge=0.1,
        le=86400,
        description="Seconds after which the issuer is asked whether its keys are still the same.",
    )
    oidc_outage_seconds: float = Field(
        3600,
        alias="FMV_OIDC_OUTAGE_SECONDS",
        ge=0,
        le=604800,
        description="Seconds that known keys still count while the issuer cannot be reached.",
    )
    token_days: float = Field(
        90,
        alias="FMV_TOKEN_DAYS",
        gt=0,
        le=36500,
        description="Days a new API token is good for, unless said otherwise.",
    )
    token_max_days: float = Field(
        366, alias="FMV_TOKEN_MAX_DAYS", gt=0, le=36500, description="Most days a new API token can be good for."
    )
    allowed_hosts: CommaSeparated = Field(
        ["localhost", "127.0.0.1", "[::1]"],
        alias="FMV_ALLOWED_HOSTS",
        description="Host names the web server answers to, separated by commas.",
    )
    cors_origins: Annotated[CommaSeparated, AfterValidator(_origins)] = Field(
        [],
        alias="FMV_CORS_ORIGINS",
        description="Origins whose pages may call the API, exact, separated by commas. "
        "With `FMV_DEBUG` localhost on any port may too.",
    )
    https: bool = Field(
        True,
        alias="FMV_HTTPS",
        description="Clients come over HTTPS, ended by FMV's proxy: secure cookies, HSTS, no plain HTTP. "
        "Off while `FMV_DEBUG` is on.",
    )
    host: str = Field("127.0.0.1", alias="FMV_HOST", description="Address the web server binds.")
    port: int = Field(8000, alias="FMV_PORT", ge=1, le=65535, description="Port the web server binds.")
    web_processes: int = Field(2, alias="FMV_WEB_PROCESSES", ge=1, le=256, description="Processes of the web server.")
    web_threads: int = Field(
        4,
        alias="FMV_WEB_THREADS",
        ge=1,
        le=256,
        description="Requests that each web server process works on at the same time.",
    )
    max_streams: int = Field(
        200,
        alias="FMV_MAX_STREAMS",
        ge=0,
        le=5000,
        description="Event streams that each web server process may have open; each has a thread beside those.",
    )
    stream_comment_seconds: float = Field(
        15,
        alias="FMV_STREAM_COMMENT_SECONDS",
        ge=0.1,
        le=300,
        description="Seconds between the comment lines of an event stream, which keep its connection open.",
    )
    worker_processes: int = Field(
        2, alias="FMV_WORKER_PROCESSES", ge=1, le=1024, description="Tasks that one worker runs at the same time."
    )
    queue_type: Literal["quorum", "classic"] = Field(
        "quorum", alias="FMV_QUEUE_TYPE", description="Type of RabbitMQ queues: `quorum` or `classic`."
    )
    lease_seconds: float = Field(
        30,
        alias="FMV_LEASE_SECONDS",
        ge=3,
        le=3600,
        description="Seconds a worker owns a started task without renewing; after them the task counts as lost.",
    )
    renew_seconds: float = Field(
        10,
        alias="FMV_RENEW_SECONDS",
        ge=0.5,
        le=1200,
        description="Seconds between renewals of that lease; at most a third of it.",
    )
    stop_grace: float = Field(
        30,
        alias="FMV_STOP_GRACE",
        ge=0,
        le=86400,
        description="Seconds a stopping worker lets its running task go on before it hands the task back.",
    )
    retention_days: float = Field(
        30,
        alias="FMV_RETENTION_DAYS",
        ge=0,
        le=36500,
        description="Days a finished task is kept; 0 keeps it for ever.",
    )
    audit_days: float = Field(
        365,
        alias="FMV_AUDIT_DAYS",
        ge=0,
        le=36500,
        description="Days the audit list and the list of bulk runs go back; 0 keeps them for ever.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", alias="FMV_LOG_LEVEL", description="Least severity that is logged."
    )
    log_format: Literal["", "text", "json"] = Field(
        "",
        alias="FMV_LOG_FORMAT",
        description="`json`, an object a line, or `text`. Unset: `text` while `FMV_DEBUG` is on, else `json`.",
    )
    metrics_token: Annotated[str, AfterValidator(_metrics_token)] = Field(
        "",
        alias="FMV_METRICS_TOKEN",
        description="Whoever sends it as bearer token may read `/metrics`, as viewers may: at least 32 characters.",
    )
    throttle_read: Annotated[str, AfterValidator(_rate)] = Field(
        "",
        alias="FMV_THROTTLE_READ",
        description="API requests that change nothing a caller may make, as in `600/minute`. Unset: any number.",
    )
    throttle_write: Annotated[str, AfterValidator(_rate)] = Field(
        "",
        alias="FMV_THROTTLE_WRITE",
        description="The same for requests that change something, and for an address's failed sign-ins and other "
        "refusals.",
    )
    trusted_proxies: int = Field(
        0,
        alias="FMV_TRUSTED_PROXIES",
        ge=0,
        le=16,
        description="Proxies of ours in front, each of which adds to `X-Forwarded-For` who called it. "
        "With 0 that header is not believed.",
    )

    @model_validator(mode="after")
    def _key_is_set(self) -> "Environment":
        if not self.secret_key and not self.debug:
            raise ValueError("FMV_SECRET_KEY must be set (at least 50 random characters) unless FMV_DEBUG is on")
        return self

    @model_validator(mode="after")
    def _tokens_are_for_us(self) -> "Environment":
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("FMV_OIDC_AUDIENCE must be set with FMV_OIDC_ISSUER: tokens for others are not for FMV")
        if bool(self.oidc_client_id) != bool(self.oidc_client_secret):
            raise ValueError("FMV_OIDC_CLIENT_ID and FMV_OIDC_CLIENT_SECRET must be set together or not at all")
        if self.oidc_client_id and not self.oidc_issuer:
            raise ValueError("FMV_OIDC_CLIENT_ID needs FMV_OIDC_ISSUER: there is nobody to sign in at")
        if self.oidc_client_id and self.oidc_client_id not in self.oidc_audience:
            raise ValueError("FMV_OIDC_CLIENT_ID must be one of FMV_OIDC_AUDIENCE: its ID tokens name it")
        if self.token_days > self.token_max_days:
            raise ValueError("FMV_TOKEN_DAYS must be at most FMV_TOKEN_MAX_DAYS")
        return self

    @model_validator(mode="after")
    def _lease_outlives_its_renewals(self) -> "Environment":
        if self.renew_seconds * 3 > self.lease_seconds:
            raise ValueError("FMV_RENEW_SECONDS must be at most a third of FMV_LEASE_SECONDS")
        return self


def read_environment() -> Environment:
    """Return the environment's values, or end the process with status 1 and a line for each wrong variable."""
    try:
        return Environment()
    except ValidationError as error:
        for problem in error.errors():
            message = problem["msg"].removeprefix("Value error, ")
            # A whole-model rule names its variables in its own message.
            print("fmv: " + " ".join([*map(str, problem["loc"][:1]), message]), file=sys.stderr)
        raise SystemExit(1) from None
