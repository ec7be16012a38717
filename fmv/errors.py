"""Errors that services raise. `fmv.http.errors` alone turns them into HTTP.

They are outside fmv/http because every room raises them, also those that http itself uses.
"""

import difflib
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar


class FmvError(Exception):
    """A refused action. A subclass's docstring is its default message; `status` is its HTTP status.

    `code` and `extra` are for programs: what the answer has beside the message.
    """

    status: ClassVar[int] = 409
    code: ClassVar[str] = ""
    extra: Mapping[str, Any] = MappingProxyType({})

    def __init__(self, message: str = "") -> None:
        super().__init__(message or inspect.getdoc(type(self)))


@dataclass(frozen=True)
class Problem:
    """A problem with one part of the input: its path, a message for people, and a type for programs."""

    loc: tuple[str | int, ...]
    msg: str
    type: str = "value_error"

    def as_dict(self) -> dict[str, Any]:
        return {"loc": list(self.loc), "msg": self.msg, "type": self.type}


@dataclass(eq=False)
class InvalidInput(FmvError):
    """The input is invalid, in one or more places. Each `loc` begins with body, query, path or header."""

    problems: list[Problem] = field(default_factory=list)
    status: ClassVar[int] = 422

    def __post_init__(self) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, p.loc))}: {p.msg}" for p in self.problems))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence with the known name that is most like this one, with a blank before it; "" if none is."""
    names = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold()[:100], names, n=1)
    return f" Did you mean {names[near[0]]}?" if near else ""
