"""An attempt that runs on a robot, as its agent names it: what the agent may do to the task."""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass, replace
from typing import Any

from django.db import IntegrityError

from fmv.mongodb.documents import Document
from fmv.mongodb.expressions import NOW, Mql, later, literal, literals
from fmv.mongodb.updates import Criteria
from tasks import registry
from tasks.models.error_document import note_of
from tasks.models.task import LaneTaken, Task
from tasks.models.transitions import HANDED_BACK, NEXT_CHANGE, apply, apply_returning

#: what a renewal returns of the task
RENEWAL_COLUMNS = ("handler", "cancel_requested")


def handler_of(name: str) -> registry.Handler[Any]:
    """Return the handler that runs on the robot.

    One that this process does not know, because it runs another version of the code, has the usual options.
    """
    try:
        return registry.get(name)
    except registry.UnknownHandler:
        return registry.Handler(name, None, registry.Params, registry.MAX_TIMEOUT, registry.RetryPolicy())


def lease_of(handler: str) -> float:
    """Return the seconds of the lease that an agent has on a task of this handler."""
    return handler_of(handler).lease


def hold_of(handler: str) -> float:
    """Return for how many seconds after a renewal FMV gives an attempt to nobody else."""
    known = handler_of(handler)
    return known.lease + (known.lost_after if known.on_lost == "wait" else 0)


def claim_lease_of(handler: str) -> float:
    """Return the seconds of the first lease: until the agent renews it, nobody knows that it got the answer."""
    return min(registry.CLAIM_LEASE, lease_of(handler))


def is_unconfirmed(handler: str, started_at: dt.datetime | None, lease_expires_at: dt.datetime | None) -> bool:
    """Return whether an attempt has its first lease still: its robot may not know that it has the task."""
    if started_at is None or lease_expires_at is None:
        return False
    return lease_expires_at - started_at == dt.timedelta(seconds=claim_lease_of(handler))


def _until() -> Mql:
    """Return when a lease that is renewed now ends: the handler's, chosen by MongoDB, so that nobody reads the task."""
    usual: float = registry.Handler.lease
    seconds: Mql = usual
    for handler in registry.all_handlers():
        if handler.runs_on == "robot" and handler.lease != usual:
            seconds = {"$cond": [{"$eq": ["$handler", handler.name]}, handler.lease, seconds]}
    return later(NOW, seconds)


@dataclass(frozen=True)
class RobotAttempt:
    """The attempt of a task that a session of a robot's agent runs.

    Each method changes the task only while this is its last attempt and the session holds it, and returns whether it
    did. `report`: progress, message and checkpoint, those that are new.
    """

    robot: str
    task: uuid.UUID
    attempt: int
    session: str
    #: `Task.uncounted` as it was read, if this attempt is among them: it counts again when its robot is heard of
    uncounted_with_it: int | None = None

    @property
    def _fence(self) -> Criteria:
        return {"robot": self.robot, "attempt": self.attempt, "session": self.session}

    def _apply(self, name: str, note: str | Mql = "", criteria: Criteria | None = None, **given: Mql) -> bool:
        return bool(apply(Task, self._fence | (criteria or {}), name, note, self.task.hex, **given))

    def renew(self, report: dict[str, Any]) -> Document | None:
        """Renew the lease and store the report; return RENEWAL_COLUMNS, None if nothing was changed.

        Nothing is changed while the robot counts as out of contact, because that ends with a line in the history.
        """
        changed = {"changed_at": NEXT_CHANGE} if report else {}
        given = {"lease_expires_at": _until()} | literals(**report) | changed
        in_contact = self._fence | {"out_of_contact_since": None}
        return apply_returning(Task, in_contact, "renew_on_robot", self.task.hex, RENEWAL_COLUMNS, **given)

    def claim_again(self, lease: float) -> bool:
        """Let the first lease begin anew, because the agent has asked again: it did not get the first answer."""
        unrenewed = {"$expr": {"$eq": ["$lease_expires_at", later("$started_at", lease)]}}
        criteria = self._fence | unrenewed
        return bool(apply(Task, criteria, "claim_again", key=self.task.hex, lease_expires_at=later(NOW, lease)))

    def regain_contact(self, report: dict[str, Any]) -> bool:
        """Renew the lease of a task whose robot was out of contact."""
        note = "its robot is in contact again"
        return self._apply("regain_contact", note, lease_expires_at=_until(), **literals(**report))

    def regain(self, lane: str, report: dict[str, Any]) -> bool:
        """Go on with an attempt that was given up because its robot was silent. Raises LaneTaken."""
        given = {"lease_expires_at": _until()} | literals(lane=lane, **report) | self._counted()
        try:
            return self._apply("regain", "its robot is in contact again and goes on", self._unreported(), **given)
        except IntegrityError as error:
            raise LaneTaken(lane) from error

    def change_session(self, session: str, note: str) -> bool:
        """Let another session of the agent hold the task."""
        return self._apply("change_session", note, session=literal(session), lease_expires_at=_until())

    # The outcomes. Each is stored once for an attempt; afterwards `Task.reported` names it.

    def succeed(self, result: Any) -> bool:
        return self._report("report_success", "succeeded", result=literal(result))

    def fail(self, error: dict[str, str], outcome: str = "failed") -> bool:
        return self._report("report_failure", outcome, note_of(error), error=literal(error))

    def retry(self, error: dict[str, str], delay: float, outcome: str = "failed") -> bool:
        """Let it wait `delay` seconds for its next attempt; False also when its cancel was requested meanwhile."""
        waits = {"error": literal(error), "run_at": later(NOW, delay)}
        return self._report("report_retry", outcome, note_of(error), **waits)

    def stop(self, note: str, outcome: str = "cancelled") -> bool:
        return self._report("report_stop", outcome, note)

    def stop_late(self, outcome: str) -> bool:
        """Confirm the cancel of a task that is over already: its lane is free."""
        return self._report("report_late_stop", outcome, "stopped, as asked: its lane is free")

    def release(self, note: str, delay: float) -> bool:
        """Give it back, the attempt not counted; False also when its cancel was requested meanwhile.

        If it was handed back before, it waits for its next attempt already, and stays uncounted.
        """
        if self.uncounted_with_it is None:
            return self._report("report_release", "released", note, run_at=later(NOW, delay))
        reported = literal({"attempt": self.attempt, "outcome": "released"})
        return self._apply("report_late_release", note, self._unreported(), reported=reported)

    def withdraw(self, why: str) -> None:
        """Give it back at once, not counted, because its agent was never told of it."""
        if self.release(f"{HANDED_BACK}{why}", 0):
            apply(Task, {"attempt": self.attempt}, "promote", "due", self.task.hex)
        else:  # a cancel was asked for since it began, or somebody else has taken it
            cancelled = self._unreported() | {"cancel_requested": True}
            reported = literal({"attempt": self.attempt, "outcome": "released"})
            self._apply("report_stop", "cancelled before its robot had it", cancelled, reported=reported)

    def late(self, task: Task) -> RobotAttempt:
        """Return it for a task that may have handed it back before its robot was heard: then it counts again."""
        return replace(self, uncounted_with_it=task.uncounted) if task.was_handed_back else self

    def _report(self, name: str, outcome: str, note: str = "", **given: Mql) -> bool:
        reported = {"attempt": self.attempt, "outcome": outcome}
        return self._apply(name, note, self._unreported(), reported=literal(reported), **given, **self._counted())

    def _unreported(self) -> Criteria:
        as_read = {} if self.uncounted_with_it is None else {"uncounted": self.uncounted_with_it}
        return {"$expr": {"$ne": ["$reported.attempt", self.attempt]}} | as_read

    def _counted(self) -> dict[str, Mql]:
        return {} if self.uncounted_with_it is None else literals(uncounted=self.uncounted_with_it - 1)


def attempts_held(robot: str) -> list[tuple[Task, RobotAttempt]]:
    """Return the started tasks that run on the robot, each with its attempt."""
    started = [task for task in Task.objects.started().of_robot(robot) if task.runs_on == "robot"]
    return [(task, RobotAttempt(robot, task.pk, task.attempt, task.session)) for task in started]
