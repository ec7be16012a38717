"""Every environment variable FMV reads: name, type, default and meaning.

The README has the same table, and a test compares the two. An invalid value, or an unknown variable whose name begins
with FMV_, stops the start with a message that names the variable.
"""

import os
import sys
from typing import Annotated, Literal

from dotenv import dotenv_values
from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fmv.environment_types import (
    Apps,
    BrokerUrl,
    CommaSeparated,
    Issuer,
    MetricsToken,
    MongodbUri,
    Origins,
    Rate,
    TimeZone,
)
from fmv.errors import did_you_mean

#: Signs cookies if no key is set while FMV_DEBUG is on. Without FMV_DEBUG the start is refused.
DEVELOPMENT_SECRET_KEY = "insecure-development-key-never-to-be-used-in-production-0123456789"  # noqa: S105 # nosec B105


class Environment(BaseSettings):
    """The environment as typed values. A `.env` file in the working directory is read too, with lower precedence."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True)

    mongodb_uri: MongodbUri = Field(
        "mongodb://127.0.0.1:27017/fmv",
        alias="MONGODB_URI",
        description="URI of MongoDB, with the name of the database.",
    )
    broker_url: BrokerUrl = Field(
        "amqp://guest:guest@127.0.0.1:5672//",
        alias="FMV_BROKER_URL",
        description="URL of RabbitMQ (`amqp://`, `amqps://`), or for development the socket of a Valkey "
        "(`redis+socket:///`).",
    )
    secret_key: Annotated[str, Field(min_length=50)] = Field(
        "",
        alias="FMV_SECRET_KEY",
        validate_default=False,
        description="Signs cookies: at least 50 random characters. Required unless `FMV_DEBUG` is on.",
    )
    debug: bool = Field(False, alias="FMV_DEBUG", description="Development conveniences; never in production.")
    apps: Apps = Field(
        [],
        alias="FMV_APPS",
        description="Further Django apps, separated by commas. Tasks can run the handlers in their `handlers.py`.",
    )
    anonymous: Literal["none", "viewer", "operator", "manager"] = Field(
        "none",
        alias="FMV_ANONYMOUS",
        description="Role of callers that have not signed in: `none`, `viewer`, `operator` or `manager`.",
    )
    oidc_issuer: Issuer = Field(
        "",
        alias="FMV_OIDC_ISSUER",
        description="URL of the organisation's OpenID Connect issuer, exactly as in its tokens. Empty: none.",
    )
    oidc_audience: CommaSeparated = Field(
        [],
        alias="FMV_OIDC_AUDIENCE",
        description="Audiences, separated by commas: a token's `aud` must contain one. Required with an issuer.",
    )
    oidc_client_id: str = Field(
        "",
        alias="FMV_OIDC_CLIENT_ID",
        description="FMV's client at that issuer, for sign-in to the admin; must be one of the audiences. Empty: none.",
    )
    oidc_client_secret: str = Field(
        "", alias="FMV_OIDC_CLIENT_SECRET", description="Secret of that client. Required with the client."
    )
    oidc_role_claim: str = Field(
        "fmv_role",
        alias="FMV_OIDC_ROLE_CLAIM",
        description="Name of, or dotted path to, the claim with the user's role: `viewer`, `operator`, `manager`, "
        "or a list of which the highest counts. Empty: roles are set in the admin.",
    )
    oidc_leeway_seconds: float = Field(
        30,
        alias="FMV_OIDC_LEEWAY_SECONDS",
        ge=0,
        le=300,
        description="Seconds by which the issuer's clock may differ from FMV's.",
    )
    oidc_timeout_seconds: float = Field(
        3,
        alias="FMV_OIDC_TIMEOUT_SECONDS",
        ge=0.1,
        le=30,
        description="Seconds to wait for the issuer's keys. After that FMV answers 503.",
    )
    oidc_refresh_seconds: float = Field(
        10,
        alias="FMV_OIDC_REFRESH_SECONDS",
        ge=0.1,
        le=3600,
        description="Least seconds between two requests for the issuer's keys, even after unknown keys or failures.",
    )
    oidc_keys_seconds: float = Field(
        300,
        alias="FMV_OIDC_KEYS_SECONDS",
        ge=0.1,
        le=86400,
        description="Seconds after which the issuer's keys are fetched again.",
    )
    oidc_outage_seconds: float = Field(
        3600,
        alias="FMV_OIDC_OUTAGE_SECONDS",
        ge=0,
        le=604800,
        description="Seconds for which known keys stay valid while the issuer cannot be reached.",
    )
    token_days: float = Field(
        90,
        alias="FMV_TOKEN_DAYS",
        gt=0,
        le=36500,
        description="Days for which a new API token is valid by default.",
    )
    token_max_days: float = Field(
        366, alias="FMV_TOKEN_MAX_DAYS", gt=0, le=36500, description="Most days for which a new API token can be valid."
    )
    allowed_hosts: CommaSeparated = Field(
        ["localhost", "127.0.0.1", "[::1]"],
        alias="FMV_ALLOWED_HOSTS",
        description="Host names that the web server answers to, separated by commas.",
    )
    cors_origins: Origins = Field(
        [],
        alias="FMV_CORS_ORIGINS",
        description="Origins whose web pages may call the API, separated by commas. "
        "With `FMV_DEBUG`, localhost on any port may too.",
    )
    https: bool = Field(
        True,
        alias="FMV_HTTPS",
        description="Clients use HTTPS, which a proxy in front of FMV terminates: secure cookies, HSTS, no plain HTTP. "
        "Off while `FMV_DEBUG` is on.",
    )
    host: str = Field("127.0.0.1", alias="FMV_HOST", description="Address that the web server listens on.")
    port: int = Field(8000, alias="FMV_PORT", ge=1, le=65535, description="Port that the web server listens on.")
    web_processes: int = Field(2, alias="FMV_WEB_PROCESSES", ge=1, le=256, description="Processes of the web server.")
    web_threads: int = Field(
        4,
        alias="FMV_WEB_THREADS",
        ge=1,
        le=256,
        description="Requests that each process of the web server works on at the same time.",
    )
    max_streams: int = Field(
        200,
        alias="FMV_MAX_STREAMS",
        ge=0,
        le=5000,
        description="Event streams that each process of the web server may have open. Each needs a thread of its own.",
    )
    max_claims: int = Field(
        100,
        alias="FMV_MAX_CLAIMS",
        ge=0,
        le=500,
        description="Requests of robots' agents that may wait for a task in each process of the web server. Each needs "
        "a thread of its own.",
    )
    page_bytes: int = Field(
        2 * 1024 * 1024,
        alias="FMV_PAGE_BYTES",
        ge=1024,
        le=1024**3,
        description="Bytes of JSON at which a page of the API ends; a single row may be larger.",
    )
    stream_comment_seconds: float = Field(
        15,
        alias="FMV_STREAM_COMMENT_SECONDS",
        ge=0.1,
        le=300,
        description="Seconds between the comment lines of an event stream, which keep its connection open.",
    )
    worker_processes: int = Field(
        2,
        alias="FMV_WORKER_PROCESSES",
        ge=1,
        le=1024,
        description="Processes of a worker: the tasks that it runs at the same time.",
    )
    sample_agents: int = Field(
        2,
        alias="FMV_SAMPLE_AGENTS",
        ge=0,
        le=2,
        description="Simulated robots that `make run` connects to a new database, with battery, position and the skill "
        "`drive`.",
    )
    queue_type: Literal["quorum", "classic"] = Field(
        "quorum", alias="FMV_QUEUE_TYPE", description="Type of the RabbitMQ queues: `quorum` or `classic`."
    )
    lease_seconds: float = Field(
        30,
        alias="FMV_LEASE_SECONDS",
        ge=3,
        le=3600,
        description="Seconds that a worker's lease of a started task lasts. Without renewal the task counts as lost. "
        "The same for all processes.",
    )
    renew_seconds: float = Field(
        10,
        alias="FMV_RENEW_SECONDS",
        ge=0.5,
        le=1200,
        description="Seconds between renewals of that lease; at most a third of `FMV_LEASE_SECONDS`.",
    )
    stop_grace: float = Field(
        30,
        alias="FMV_STOP_GRACE",
        ge=0,
        le=86400,
        description="Seconds that a stopping worker lets its running tasks continue before it releases them.",
    )
    offline_after: float = Field(
        30,
        alias="FMV_OFFLINE_AFTER",
        ge=3,
        le=3600,
        description="Seconds without a word from a robot's agent after which the robot counts as offline. The same "
        "for all processes.",
    )
    state_days: float = Field(
        7,
        alias="FMV_STATE_DAYS",
        ge=1,
        le=3650,
        description="Days for which robots' battery and position, once a minute, are kept.",
    )
    retention_days: float = Field(
        30,
        alias="FMV_RETENTION_DAYS",
        ge=0,
        le=36500,
        description="Days for which finished tasks are kept; 0 keeps them for ever.",
    )
    audit_days: float = Field(
        365,
        alias="FMV_AUDIT_DAYS",
        ge=0,
        le=36500,
        description="Days for which audit entries and bulk runs are kept; 0 keeps them for ever.",
    )
    time_zone: TimeZone = Field(
        "UTC",
        alias="FMV_TIME_ZONE",
        description="Time zone of the admin's pages, unless the user or the browser names one.",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO",
        alias="FMV_LOG_LEVEL",
        description="Least severity that is logged: `DEBUG`, `INFO`, `WARNING` or `ERROR`.",
    )
    log_format: Literal["", "text", "json"] = Field(
        "",
        alias="FMV_LOG_FORMAT",
        description="`json` (one object per line) or `text`. Unset: `text` while `FMV_DEBUG` is on, else `json`.",
    )
    metrics_token: MetricsToken = Field(
        "",
        alias="FMV_METRICS_TOKEN",
        description="Bearer token that gives access to `/metrics`, as the role viewer does: at least 32 characters.",
    )
    throttle_read: Rate = Field(
        "",
        alias="FMV_THROTTLE_READ",
        description="Limit of reading API requests per caller, such as `600/minute`. Unset: no limit.",
    )
    throttle_write: Rate = Field(
        "",
        alias="FMV_THROTTLE_WRITE",
        description="Limit of changing API requests per caller, and of failed sign-ins and other refused requests per "
        "address. Unset: no limit.",
    )
    throttle_sign_in: Rate = Field(
        "20/hour",
        alias="FMV_THROTTLE_SIGN_IN",
        description="Limit of wrong passwords per account and address. Empty: no limit.",
    )
    trusted_proxies: int = Field(
        0,
        alias="FMV_TRUSTED_PROXIES",
        ge=0,
        le=16,
        description="Number of proxies in front of FMV that add their client's address to `X-Forwarded-For`. "
        "With 0 the header is ignored.",
    )

    @model_validator(mode="after")
    def _key_is_set(self) -> "Environment":
        if not self.secret_key and not self.debug:
            raise ValueError("FMV_SECRET_KEY must be set (at least 50 random characters) unless FMV_DEBUG is on")
        return self

    @model_validator(mode="after")
    def _sign_in_is_complete(self) -> "Environment":
        if self.oidc_issuer and not self.oidc_audience:
            raise ValueError("FMV_OIDC_AUDIENCE must be set with FMV_OIDC_ISSUER: it says which tokens are for FMV")
        if bool(self.oidc_client_id) != bool(self.oidc_client_secret):
            raise ValueError("FMV_OIDC_CLIENT_ID and FMV_OIDC_CLIENT_SECRET must be set together or not at all")
        if self.oidc_client_id and not self.oidc_issuer:
            raise ValueError("FMV_OIDC_CLIENT_ID needs FMV_OIDC_ISSUER")
        if self.oidc_client_id and self.oidc_client_id not in self.oidc_audience:
            raise ValueError(
                "FMV_OIDC_CLIENT_ID must be one of FMV_OIDC_AUDIENCE, because ID tokens name it as audience"
            )
        if self.token_days > self.token_max_days:
            raise ValueError("FMV_TOKEN_DAYS must be at most FMV_TOKEN_MAX_DAYS")
        return self

    @model_validator(mode="after")
    def _lease_outlives_its_renewals(self) -> "Environment":
        if self.renew_seconds * 3 > self.lease_seconds:
            raise ValueError("FMV_RENEW_SECONDS must be at most a third of FMV_LEASE_SECONDS")
        return self


def unknown_variables() -> list[str]:
    """Return a sentence for each variable of the environment or `.env` whose name begins with FMV_ and is unknown.

    FMV_TEST_… are the tests' own. Kubernetes sets variables for each of its services, such as FMV_WEB_SERVICE_HOST and
    FMV_WEB_PORT_8000_TCP for one named fmv-web; those are no settings.
    """
    file = Environment.model_config.get("env_file")
    names = {name.upper() for name in (*os.environ, *(dotenv_values(str(file)) if file else ()))}
    services = {name.removesuffix("_SERVICE_HOST") for name in names if name.endswith("_SERVICE_HOST")}
    ours = {str(field.alias) for field in Environment.model_fields.values()}
    foreign = ("FMV_TEST_", *(f"{service}_{part}" for service in services for part in ("SERVICE_", "PORT")))
    unknown = sorted(name for name in names - ours if name.startswith("FMV_") and not name.startswith(foreign))
    return [f"{name} is unknown.{did_you_mean(name, ours)}" for name in unknown]


def read_environment() -> Environment:
    """Return the environment's values, or end the process with status 1 and a line for each wrong variable."""
    if unknown := unknown_variables():
        for sentence in unknown:
            print(f"fmv: {sentence}", file=sys.stderr)
        raise SystemExit(1)
    try:
        return Environment()
    except ValidationError as error:
        for problem in error.errors():
            message = problem["msg"].removeprefix("Value error, ")
            # A rule for the whole model names its variables in its message.
            print("fmv: " + " ".join([*map(str, problem["loc"][:1]), message]), file=sys.stderr)
        raise SystemExit(1) from None
