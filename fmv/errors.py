"""Errors that services raise. `fmv.http.errors` alone turns them into HTTP.

They are outside fmv/http because every room raises them, also those that http itself uses.
"""

import inspect
from dataclasses import dataclass, field
from typing import Any, ClassVar


class FmvError(Exception):
    """Something FMV refuses to do. A subclass's docstring is its message unless it is given another."""

    status: ClassVar[int] = 409

    def __init__(self, message: str = "") -> None:
        super().__init__(message or inspect.getdoc(type(self)))


@dataclass(frozen=True)
class Problem:
    """What is wrong with one part of the input: where it is, what it should be, and a word for the kind of fault."""

    loc: tuple[str | int, ...]
    msg: str
    type: str = "value_error"

    def as_dict(self) -> dict[str, Any]:
        return {"loc": list(self.loc), "msg": self.msg, "type": self.type}


@dataclass(eq=False)
class InvalidInput(FmvError):
    """The input is at fault, in one or more places; each `loc` begins with body, query, path or header."""

    problems: list[Problem] = field(default_factory=list)
    status: ClassVar[int] = 422

    def __post_init__(self) -> None:
        super().__init__("; ".join(f"{'.'.join(map(str, p.loc))}: {p.msg}" for p in self.problems))
