"""Handlers: what tasks run. They are found in the `handlers.py` of each installed app.

Most are functions that workers call:

from tasks.registry import Context, Params, handler

class GreetParams(Params):
    whom: str = "world"

@handler("greet", params=GreetParams, timeout=10)
def greet(ctx: Context[GreetParams]) -> dict:
    "Say hello."
    return {"said": f"{ctx.robot.name} greets {ctx.params.whom}"}

Others run on the robot, by its agent, and are only declared:

class TurnParams(Params):
    "Turn on the spot."
    degrees: float

robot_handler("turn", params=TurnParams, timeout=60)
"""

import functools
import hashlib
import inspect
import json
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar, get_args

import orjson
from django.core.exceptions import ImproperlyConfigured
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticSerializationError

from fmv.errors import FmvError, InvalidInput, Problem
from robots.models import Robot

DEFAULT = "primes"
MAX_TIMEOUT = 7 * 86_400  # seconds
CLAIM_LEASE = 15.0  # seconds until an agent must have renewed the lease of a task that it was given

RunsOn = Literal["worker", "robot"]
OnLost = Literal["wait", "retry", "fail"]


class Params(BaseModel):
    """The base class of handlers' parameters. A parameter that is not declared is an error."""

    model_config = ConfigDict(extra="forbid")


P = TypeVar("P", bound=BaseModel)


class UnknownHandler(FmvError):
    """Not Found"""

    status = 404


class PermanentError(Exception):
    """Raised by a handler if another attempt cannot help: the task ends as FAILURE even if attempts are left."""


class Context(Protocol[P]):
    """What a handler gets as its argument.

    Its methods may be called from any thread of the handler's process. When the handler has ended, they do nothing and
    raise RuntimeError, as they do in a child process.
    """

    #: together with `attempt` a key for side effects: the same attempt never runs twice
    task_id: str
    attempt: int
    robot: Robot
    params: P

    def progress(self, percent: float, message: str = "") -> None:
        """Report progress, 0-100. It is stored at most once a second. Also does what `check` does."""

    def log(self, text: str) -> None:
        """Store a line in the log of the task; at most 4,000 characters are kept."""

    def check(self) -> None:
        """Raise an exception, which the handler must not catch, if the task is to end."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often, and after which delay, a failed attempt is repeated: exponential backoff with jitter.

    `first`, `longest`: seconds. The n-th retry waits between half and all of min(longest, first * factor**(n-1)):
    the "equal jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
    """

    max_attempts: int = 3
    first: float = 2.0
    factor: float = 2.0
    longest: float = 600.0

    def __post_init__(self) -> None:
        if not (1 <= self.max_attempts <= 100 and 0 <= self.first <= self.longest <= MAX_TIMEOUT):
            raise ImproperlyConfigured("A RetryPolicy has 1-100 attempts, and 0 <= first <= longest <= 7 days.")
        if not 1 <= self.factor <= 100:
            raise ImproperlyConfigured("A RetryPolicy's factor is 1-100.")

    def delay(self, failures: int, chance: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after the n-th failure, `failures` >= 1."""
        full = min(self.longest, self.first * self.factor ** min(failures - 1, 64))
        return full / 2 + chance() * full / 2


@dataclass(frozen=True)
class Handler(Generic[P]):
    name: str
    #: None: it runs on the robot
    run: Callable[[Any], Any] | None
    params: type[P]
    timeout: float
    retry: RetryPolicy
    fresh_process: bool = False
    # Of handlers that run on the robot, see `robot_handler`.
    result: type[BaseModel] | None = None
    lease: float = 60
    on_lost: OnLost = "wait"
    lost_after: float = 300
    cancel_grace: float = 60
    resume: bool = False
    about: str = ""

    @property
    def runs_on(self) -> RunsOn:
        return "robot" if self.run is None else "worker"

    @property
    def description(self) -> str:
        if self.run is None:  # not getdoc: without a docstring of its own a class would show that of its base
            return self.about or inspect.cleandoc(self.params.__doc__ or "")
        return inspect.getdoc(self.run) or ""

    @functools.cached_property
    def schema(self) -> JsonSchemaValue:
        """JSON Schema of the parameters."""
        return self.params.model_json_schema()

    @functools.cached_property
    def result_schema(self) -> JsonSchemaValue | None:
        """JSON Schema of the result of a handler that runs on the robot; None if it may be any JSON."""
        return self.result.model_json_schema() if self.result else None

    @functools.cached_property
    def params_version(self) -> str:
        """A fingerprint of the schema: processes with the same one take the same parameters."""
        return hashlib.sha256(orjson.dumps(self.schema, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]

    @property
    def versioned_name(self) -> str:
        return f"{self.name}@{self.params_version}"

    def read_params(self, values: Any) -> P:
        """Return the parameters as the handler gets them. Raises InvalidInput that names each invalid one."""
        try:
            return self.params.model_validate_json(json.dumps(values))
        except ValidationError as error:
            raise InvalidInput(
                [Problem(("body", "params", *p["loc"]), p["msg"], p["type"]) for p in error.errors(include_url=False)]
            ) from None

    def complete_params(self, values: Any) -> dict[str, Any]:
        """Return the parameters with their defaults, as JSON values from which `read_params` makes the same again.

        Raises InvalidInput that names each invalid one, and each that JSON does not keep, such as a `SecretStr`.
        """
        params = self.read_params(values)
        try:
            stored: dict[str, Any] = params.model_dump(mode="json", by_alias=True, round_trip=True, warnings=False)
        except PydanticSerializationError as error:
            raise InvalidInput([Problem(("body", "params"), f"Cannot be stored: {error}")]) from None
        again = self.read_params(stored)
        if again != params and again == self.read_params(stored):  # the latter unless its values cannot be compared
            lost = [name for name in self.params.model_fields if getattr(again, name) != getattr(params, name)]
            problem = "Is not the same when it is stored as JSON and read again"
            raise InvalidInput([Problem(("body", "params", name), problem, "not_kept") for name in lost or [""]])
        return stored

    def check_result(self, value: Any) -> None:
        """Raise ValueError, which names each problem, if the result is not as `result` declares it."""
        if self.result is None:
            return
        try:
            self.result.model_validate_json(json.dumps(value))
        except ValueError:
            raise
        except Exception as error:  # of a validator of the author's
            raise ValueError(f"{self.result.__name__} cannot check it: {type(error).__name__}: {error}") from error


_handlers: dict[str, Handler[Any]] = {}


def handler(
    name: str,
    *,
    params: type[BaseModel] = Params,
    timeout: float = 300,
    retry: RetryPolicy | None = None,
    fresh_process: bool = False,
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Register the decorated function as a handler. It gets a Context; its return value is the result of the task.

    `timeout`: the seconds an attempt may take, unless the submit has another. `fresh_process`: end the worker process
    after each attempt, because the function leaves behind what FMV cannot put back. Raises ImproperlyConfigured if the
    name is taken or is not 1-64 of a-z 0-9 . _ -, if the timeout is not within 7 days, if the function is an
    `async def`, or if its parameters have no JSON Schema.
    """
    _check(name, timeout)

    def register(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        made = Handler(name, run, params, timeout, retry or RetryPolicy(), fresh_process)
        _require_plain_function(run, name)
        _add(made)
        return run

    return register


def robot_handler(
    name: str,
    *,
    params: type[BaseModel] = Params,
    result: type[BaseModel] | None = None,
    timeout: float,
    lease: float = 60,
    on_lost: OnLost = "wait",
    lost_after: float = 300,
    cancel_grace: float = 60,
    resume: bool = False,
    retry: RetryPolicy | None = None,
    description: str = "",
) -> None:
    """Register a handler that runs on the robot: its agent gets the parameters and reports the result.

    `result`: what the result must be; None: any JSON. `timeout`: the seconds an attempt may take, unless the submit has
    another. `lease`: the seconds after which a silent robot counts as out of contact; its agent renews at a third of
    them. `on_lost`: what happens then. `wait`: the attempt keeps its lane for `lost_after` more seconds, because
    silence does not mean that the robot stands still; after them it is tried again or fails. `retry`: it is tried again
    at once if attempts are left. `fail`: it fails at once. `cancel_grace`: the seconds in which the robot must confirm
    a cancel; then the task ends, and keeps its lane until the robot has confirmed it. `resume`: after a restart of the
    agent the attempt goes on, with its last checkpoint; otherwise it is tried again. `description`: by default the
    docstring of `params`.

    Raises ImproperlyConfigured for the reasons that `handler` has, and if a number of seconds is out of range.
    """
    _check(name, timeout)
    if on_lost not in get_args(OnLost):
        raise ImproperlyConfigured(f"on_lost of handler {name!r} is one of {', '.join(get_args(OnLost))}.")
    for option, value, least in (("lease", lease, 3), ("lost_after", lost_after, 0), ("cancel_grace", cancel_grace, 0)):
        if not least <= value <= MAX_TIMEOUT:
            raise ImproperlyConfigured(f"{option} of handler {name!r} must be {least}-{MAX_TIMEOUT} seconds.")
    policy = retry or RetryPolicy()
    _add(
        Handler(
            name,
            None,
            params,
            timeout,
            policy,
            result=result,
            lease=lease,
            on_lost=on_lost,
            lost_after=lost_after,
            cancel_grace=cancel_grace,
            resume=resume,
            about=inspect.cleandoc(description),
        )
    )


def _check(name: str, timeout: float) -> None:
    if not re.fullmatch(r"[a-z0-9._-]{1,64}", name):
        raise ImproperlyConfigured(f"A handler's name is 1-64 of a-z 0-9 . _ -, not {name!r}.")
    if name in _handlers:
        raise ImproperlyConfigured(f"Two handlers are named {name!r}.")
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ImproperlyConfigured(f"The timeout of handler {name!r} must be in 0-{MAX_TIMEOUT} seconds.")


def _add(handler: Handler[Any]) -> None:
    _require_schema(handler)
    _handlers[handler.name] = handler


def _require_plain_function(run: Callable[[Any], Any], name: str) -> None:
    for function in (run, type(run).__call__):
        if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
            raise ImproperlyConfigured(
                f"The handler {name!r} is an `async def`, which workers do not run. Write a plain function; it "
                "may call asyncio.run()."
            )


def _require_schema(handler: Handler[Any]) -> None:
    """Refuse a handler that GET /handler/ could not show: it would fail for all handlers."""
    try:
        orjson.dumps([handler.schema, handler.result_schema, handler.description])
    except Exception as error:  # Pydantic and the author's own code raise various ones
        raise ImproperlyConfigured(
            f"The parameters or the result of the handler {handler.name!r} have no JSON Schema that can be published: "
            f"{error}"
        ) from error


def get(name: str) -> Handler[Any]:
    """Return the handler. Raises UnknownHandler."""
    try:
        return _handlers[name]
    except KeyError:
        raise UnknownHandler from None


def all_handlers() -> Iterable[Handler[Any]]:
    """Return all handlers, sorted by name."""
    return [_handlers[name] for name in sorted(_handlers)]
