"""What a task can do: handlers, found in each installed app's `handlers.py`.

from tasks.registry import Context, Params, handler

class GreetParams(Params):
    whom: str = "world"

@handler("greet", params=GreetParams, timeout=10)
def greet(ctx: Context[GreetParams]) -> dict:
    "Say hello."
    return {"said": f"{ctx.robot.name} greets {ctx.params.whom}"}
"""

import inspect
import random
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from django.core.exceptions import ImproperlyConfigured
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.json_schema import JsonSchemaValue

from fmv.errors import FmvError, InvalidInput, Problem
from robots.models import Robot

DEFAULT = "primes"
MAX_TIMEOUT = 7 * 86_400  # seconds


class Params(BaseModel):
    """Base of handlers' parameters: a name they do not declare is an error."""

    model_config = ConfigDict(extra="forbid")


P = TypeVar("P", bound=BaseModel)


class UnknownHandler(FmvError):
    """Not Found"""

    status = 404


class PermanentError(Exception):
    """Raised by a handler when trying again cannot help: the task ends as FAILURE whatever attempts are left."""


class Context(Protocol[P]):
    """What a handler is given."""

    #: with `attempt` the key for side effects: the same attempt never runs twice
    task_id: str
    attempt: int
    robot: Robot
    params: P

    def progress(self, percent: float, message: str = "") -> None:
        """Report how far it is, 0-100; kept at most once a second. Also does what `check` does."""

    def log(self, text: str) -> None:
        """Store a line of the task's log, at most 4,000 characters."""

    def check(self) -> None:
        """Stop here, by an exception that is not the handler's to catch, when the task is to end."""


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed attempt is tried again: exponential backoff with jitter.

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
        """Return the seconds to wait after so many failed attempts (1 or more)."""
        full = min(self.longest, self.first * self.factor ** min(failures - 1, 64))
        return full / 2 + chance() * full / 2


@dataclass(frozen=True)
class Handler(Generic[P]):
    name: str
    run: Callable[[Any], Any]
    params: type[P]
    timeout: float
    retry: RetryPolicy

    @property
    def description(self) -> str:
        return inspect.getdoc(self.run) or ""

    @property
    def schema(self) -> JsonSchemaValue:
        """JSON Schema of the parameters."""
        return self.params.model_json_schema()

    def read_params(self, values: Any) -> P:
        """Return the parameters as the handler gets them. Raises InvalidInput that names each wrong one."""
        try:
            return self.params.model_validate(values)
        except ValidationError as error:
            raise InvalidInput(
                [Problem(("body", "params", *p["loc"]), p["msg"], p["type"]) for p in error.errors(include_url=False)]
            ) from None


_handlers: dict[str, Handler[Any]] = {}


def handler(
    name: str, *, params: type[BaseModel] = Params, timeout: float = 300, retry: RetryPolicy | None = None
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Register the decorated function as a handler; it gets a Context, what it returns is the task's result.

    `timeout`: seconds an attempt may take, unless the submit says otherwise. Raises ImproperlyConfigured for a name
    that is taken or not 1-64 of a-z 0-9 . _ -, and a timeout outside 0-7 days.
    """
    if not re.fullmatch(r"[a-z0-9._-]{1,64}", name):
        raise ImproperlyConfigured(f"A handler's name is 1-64 of a-z 0-9 . _ -, not {name!r}.")
    if name in _handlers:
        raise ImproperlyConfigured(f"Two handlers are named {name!r}.")
    if not 0 < timeout <= MAX_TIMEOUT:
        raise ImproperlyConfigured(f"The timeout of handler {name!r} must be in 0-{MAX_TIMEOUT} seconds.")

    def register(run: Callable[[Any], Any]) -> Callable[[Any], Any]:
        _handlers[name] = Handler(name, run, params, timeout, retry or RetryPolicy())
        return run

    return register


def get(name: str) -> Handler[Any]:
    """Return the handler. Raises UnknownHandler."""
    try:
        return _handlers[name]
    except KeyError:
        raise UnknownHandler from None


def all_handlers() -> Iterable[Handler[Any]]:
    """Return every handler, by name."""
    return [_handlers[name] for name in sorted(_handlers)]
