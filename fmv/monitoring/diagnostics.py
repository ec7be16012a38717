"""What `manage.py doctor` does: it looks at every part by itself, so that one that is ill or silent hides no other.

What there is to look at, the functions in settings.FMV_DOCTORS tell.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import pymongo
from amqp.exceptions import AMQPError
from django.conf import settings
from django.db import DatabaseError, connections
from django.utils.module_loading import import_string
from kombu.exceptions import KombuError
from pymongo.errors import PyMongoError

from fmv.monitoring.servers import reason

PATIENCE = 4.0  # seconds that each check has


class Severity(IntEnum):
    """The values are the exit status."""

    INFO = 0
    WARNING = 1
    ERROR = 2


@dataclass(frozen=True)
class Finding:
    """What a check found, in a sentence, and what to do about it."""

    severity: Severity
    message: str
    hint: str = ""
    check: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {
            "check": self.check,
            "ok": self.severity is Severity.INFO,
            "severity": self.severity.name.lower(),
            "message": self.message,
            "hint": self.hint,
        }


def fine(message: str, hint: str = "") -> Finding:
    return Finding(Severity.INFO, message, hint)


def warning(message: str, hint: str = "") -> Finding:
    return Finding(Severity.WARNING, message, hint)


def error(message: str, hint: str = "") -> Finding:
    return Finding(Severity.ERROR, message, hint)


class OutOfReach(Exception):
    """A server cannot be reached, so there is no use in asking it more."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True)
class Check:
    """Something to look at; `needs` names the check without whose server it can find nothing."""

    name: str
    look: Callable[[], Iterable[Finding]]
    needs: str = ""


@dataclass
class Visit:
    """One look at everything: first at the servers, then at what they hold, each side by side."""

    patience: float = PATIENCE
    out_of_reach: set[str] = field(default_factory=set)

    def findings(self) -> Iterator[Finding]:
        """Yield what was found, in the order of the checks; takes twice `patience` seconds at most."""
        checks = [check for path in settings.FMV_DOCTORS for check in import_string(path)()]
        found = self._look_at([check for check in checks if not check.needs])
        possible = [check for check in checks if check.needs and check.needs not in self.out_of_reach]
        found |= self._look_at(possible)
        for check in checks:
            skipped = [warning(f"Not looked at: first mend what {check.needs} says.")]
            for each in found.get(check.name, skipped):
                yield Finding(each.severity, each.message, each.hint, check.name)

    def _look_at(self, checks: list[Check]) -> dict[str, list[Finding]]:
        asked = [(check, _beside(check.look, self.patience)) for check in checks]
        return {check.name: self._answer(check, future) for check, future in asked}

    def _answer(self, check: Check, future: "Future[list[Finding]]") -> list[Finding]:
        try:
            return future.result(self.patience + 0.5)
        except NoAnswer:
            self.out_of_reach.add(check.name)
            return [error(f"No answer within {self.patience:g} s.", "Something on the way to it is silent.")]
        except OutOfReach as trouble:
            self.out_of_reach.add(check.name)
            return [error(str(trouble), trouble.hint)]
        except (PyMongoError, DatabaseError, AMQPError, KombuError, OSError) as trouble:
            return [error(f"Could not be looked at: {reason(trouble)}")]
        except Exception as trouble:  # a fault in one check must not hide what the others say
            return [error(f"Could not be looked at: {trouble!r}", "This is a fault of the check: report it.")]


def _beside(look: Callable[[], Iterable[Finding]], patience: float) -> "Future[list[Finding]]":
    """Look in a thread of its own, which is left behind when it takes too long: looking up a host name may."""
    future: Future[list[Finding]] = Future()

    def run() -> None:
        try:
            with pymongo.timeout(patience):
                future.set_result(list(look()))
        except BaseException as trouble:
            future.set_exception(trouble)
        finally:
            connections.close_all()

    threading.Thread(target=run, daemon=True).start()
    return future
