"""How `manage.py doctor` runs its checks: each alone and with a deadline, so that one that fails hides no other."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial

import pymongo
from amqp.exceptions import AMQPError
from django.core.checks import CheckMessage, Error, Info
from django.core.checks import Warning as Warn
from django.db import DatabaseError
from kombu.exceptions import KombuError
from pymongo.errors import OperationFailure, PyMongoError

from fmv.deadline import call_in_thread
from fmv.monitoring.servers import Unreachable, reason

TIMEOUT = 4.0  # seconds that each check has
UNAUTHORIZED = 13  # MongoDB's error code
BAD_VALUE = 2


@dataclass(frozen=True)
class Check:
    """A check; `needs` names the check of the server without which it is skipped.

    `run` may raise Unreachable if the server cannot be reached; `hint` then says what to do. `right` names a right that
    it needs in MongoDB beyond the role readWrite.
    """

    name: str
    run: Callable[[], Iterable[CheckMessage]]
    needs: str = ""
    hint: str = ""
    right: str = ""


class DiagnosticRun:
    """One run of all checks: first those of the servers, then those that need them, each group in parallel."""

    def __init__(self, checks: list[Check], timeout: float = TIMEOUT) -> None:
        self._checks, self._timeout = checks, timeout
        self._unreachable: set[str] = set()

    def messages(self) -> Iterator[CheckMessage]:
        """Yield what the checks found, in their order, `obj` being the name; takes at most twice the timeout."""
        found = self._run([check for check in self._checks if not check.needs])
        found |= self._run([each for each in self._checks if each.needs and each.needs not in self._unreachable])
        for check in self._checks:
            skipped = [Warn(f"Skipped: first solve the problem that {check.needs} reports.")]
            for message in found.get(check.name, skipped):
                message.obj = check.name
                yield message

    def _run(self, checks: list[Check]) -> dict[str, list[CheckMessage]]:
        started = [(check, call_in_thread(partial(self._messages, check), check.name)) for check in checks]
        return {check.name: self._result(check, future) for check, future in started}

    def _messages(self, check: Check) -> list[CheckMessage]:
        with pymongo.timeout(self._timeout):
            return list(check.run())

    def _result(self, check: Check, future: "Future[list[CheckMessage]]") -> list[CheckMessage]:
        try:
            return future.result(self._timeout + 0.5)
        except Unreachable as error:
            self._unreachable.add(check.name)
            if (refusal := _lack_of_right(error)) is not None:
                return [_not_allowed(check, refusal)]
            return [Error(f"It {error.verdict}: {error}", hint=check.hint)]
        except TimeoutError:
            self._unreachable.add(check.name)
            return [Error(f"No answer within {self._timeout:g} s.", hint="Look for a firewall or a server that hangs.")]
        except (PyMongoError, DatabaseError, AMQPError, KombuError, OSError) as error:
            if (refusal := _lack_of_right(error)) is not None:
                return [_not_allowed(check, refusal)]
            if _lacks_index(error):
                return [Error("An index that it needs is missing.", hint="Run `python manage.py migrate`.")]
            return [Error(f"The check failed: {reason(error)}")]
        except Exception as error:  # a bug in one check must not hide the results of the others
            return [Error(f"The check failed: {error!r}", hint="This is a bug in the check: please report it.")]


def _lack_of_right(error: BaseException) -> OperationFailure | None:
    """Return MongoDB's refusal behind `error` if its reason is a right that FMV's user lacks."""
    cause = error.__cause__ or error
    return cause if isinstance(cause, OperationFailure) and cause.code == UNAUTHORIZED else None


def _lacks_index(error: BaseException) -> bool:
    """Return whether MongoDB refused a query because there is no index of the name that it gives."""
    cause = error.__cause__ or error
    return isinstance(cause, OperationFailure) and cause.code == BAD_VALUE and "hint" in str(cause)


def _not_allowed(check: Check, error: OperationFailure) -> CheckMessage:
    if check.right:
        return Info(
            f"Not checked: FMV's user of MongoDB lacks the right {check.right}.",
            hint="FMV works without it. The role clusterMonitor on the database admin includes it.",
        )
    hint = "Grant FMV's user the role readWrite on FMV's database."
    return Error(f"FMV's user of MongoDB lacks a right: {reason(error)}", hint=hint)
