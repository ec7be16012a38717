"""To report the exception of a handler never fails, whatever the exception does."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tasks.models import Status
from tasks.registry import PermanentError

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

HUGE = 10_000_000
UNSHOWN = "(its message cannot be shown)"


class Unshowable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("broken too")


class Exiting(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class OddText(str):
    __slots__ = ()

    def encode(self, *args: Any) -> bytes:
        raise GeneratorExit

    __getitem__ = encode


class Odd(Exception):
    @property
    def __cause__(self) -> Any:
        raise SystemExit(4)

    __class__ = __notes__ = __cause__


class Nameless(type):
    @property
    def __name__(cls) -> Any:
        raise SystemExit(5)


class Anonymous(Exception, metaclass=Nameless):
    pass


def chained(length: int) -> Exception:
    error = ValueError("first")
    for _ in range(length):
        error, error.__cause__ = ValueError("last"), error
    return error


def nested(depth: int) -> Exception:
    error: Exception = ValueError("innermost")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


def wide() -> Exception:
    return ExceptionGroup("wide", [ValueError("z" * 1000)] * 20_000)


def caused_by_itself() -> Exception:
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def noted() -> Exception:
    error = ValueError("noted")
    error.add_note("n" * HUGE)
    return error


@pytest.mark.parametrize(
    ("make", "type", "message"),
    [
        (lambda: FileNotFoundError("caf\udce9"), "FileNotFoundError", "caf?"),
        (lambda: ValueError("$robot \0"), "ValueError", "$robot \0"),
        (Unshowable, "Unshowable", UNSHOWN),
        (Exiting, "Exiting", UNSHOWN),
        (lambda: ValueError(OddText("odd")), "ValueError", "odd"),
        (lambda: Odd("odd"), "Odd", "odd"),
        (lambda: Anonymous("x"), "(its type has no name)", "x"),
        (type("N" * HUGE, (Exception,), {}), "N" * 199 + "…", ""),
        (lambda: ValueError("x" * HUGE), "ValueError", "x" * 1999 + "…"),
        (lambda: SyntaxError("x" * HUGE, ("file", 1, 1, "y" * HUGE)), "SyntaxError", "x" * 1999 + "…"),
        (noted, "ValueError", "noted"),
        (caused_by_itself, "ValueError", "one"),
        (lambda: chained(20_000), "ValueError", "last"),
        (lambda: nested(5_000), "ExceptionGroup", "group (1 sub-exception)"),
        (wide, "ExceptionGroup", "wide (20000 sub-exceptions)"),
    ],
)
def test_any_exception_is_reported_with_where_it_was_raised(
    handle: Callable[..., Any], make: Callable[[], Exception], type: str, message: str
):
    error = make()

    def fail(ctx: Any) -> None:
        raise error

    task = handle(fail)
    assert (task.status, task.error["type"], task.error["message"]) == (Status.FAILURE, type, message)
    assert "raise error" in task.error["traceback"]
    assert len(task.error["traceback"]) <= 20_000


def test_an_exception_whose_message_never_ends_is_timed_out(handle):
    class Endless(Exception):
        def __str__(self) -> str:
            time.sleep(60)
            return ""

    def fail(ctx: Any) -> None:
        raise Endless

    assert handle(fail, timeout=1, max_attempts=3).error["type"] == "TimedOut"


def test_a_permanent_error_that_cannot_be_shown_is_permanent(handle):
    class Broken(PermanentError, Exiting):
        pass

    def fail(ctx: Any) -> None:
        raise Broken

    task = handle(fail, max_attempts=3)
    assert (task.status, task.error["type"], task.error["message"]) == (Status.FAILURE, "Broken", UNSHOWN)
