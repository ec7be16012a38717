"""The life of a task: the table of all its transitions, and `apply`, the one function that writes them.

A transition is one conditional write. It names the statuses it starts from and adds its line to `history` in the same
write, so two processes never both win: the loser changes nothing and gets 0. While a worker owns a task, the number of
the attempt is the fencing token: the criteria of a fenced transition name it, so a worker that has lost its task can no
longer write to it. Of a task that runs on a robot they name the session of its agent too.

- **cancel** is what a user asks for (`tasks.queue.services.cancel`); it becomes one of the next two.
- **revoke** ends a task that waits for its (next) start.
- **stop** ends a task that runs, after its cancel was requested (`request_cancel`): the worker that owns it does so, or
  the recovery, if that worker is lost.

A robot may be silent for minutes and still drive. So an attempt that was given up because of silence is the robot's
again when it is heard (`regain`, `report_…`), as long as no later attempt has begun and the task is not over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fmv.mongodb.conditions import as_expression, conjuncts, merged
from fmv.mongodb.documents import Document
from fmv.mongodb.expressions import NOW, Mql, appended, later, literal, literals
from fmv.mongodb.updates import Criteria, SetStage, find_by_key, update, update_by_key
from tasks.models.status import WAITING, Status

if TYPE_CHECKING:
    from tasks.models import Task

SCHEDULED, QUEUED, STARTED, RETRY, SUCCESS, FAILURE, REVOKED = Status

#: now, but always later than the last change of the task: no two states of a task have the same `changed_at`
NEXT_CHANGE: Mql = {"$max": [NOW, later("$changed_at", 0.001)]}

ENDED_UNSTARTED = {"finished_at": NOW, "run_at": literal(None)}
#: what a new attempt does not take over from the one before
FRESH = {"cancel_requested": False, "cancel_requested_at": None, "run_at": None, "progress": None, "message": ""}
FRESH |= {"checkpoint": None}
NEW_ATTEMPT = {"started_at": NOW} | literals(**FRESH)
FREE_LANE = literals(lane=None, lease_expires_at=None, out_of_contact_since=None)
ENDED = FREE_LANE | {"finished_at": NOW}
UNCOUNTED: SetStage = {"uncounted": {"$add": ["$uncounted", 1]}}
RELEASED = FREE_LANE | UNCOUNTED | {"run_at": NOW}
CANCEL_REQUESTED = literals(cancel_requested=True) | {"cancel_requested_at": NOW}
IN_CONTACT = literals(out_of_contact_since=None)
REPORTED_END = ENDED | literals(run_at=None, checkpoint=None)
UNCONFIRMED_END = {name: value for name, value in ENDED.items() if name != "lane"}


class Transition(NamedTuple):
    sources: tuple[Status, ...]
    #: None: the status stays as it is
    target: Status | None
    #: the columns that it always sets
    sets: SetStage = {}
    #: the columns that the caller may set besides
    given: tuple[str, ...] = ()
    #: the criteria must name the attempt
    fenced: bool = False
    #: refused once a cancel has been requested
    unless_cancelled: bool = False
    #: adds a line to the history, and moves `changed_at`
    noted: bool = True


#: what an agent's renewal may set
RENEWED = ("lease_expires_at", "progress", "message", "checkpoint")
#: what an agent's outcome sets; `uncounted`, if its attempt was handed back before and counts after all
REPORTED = ("reported", "uncounted")
#: where an agent's outcome finds a task: it may have been silent for so long that its attempt was given up
UNREPORTED = (STARTED, RETRY, QUEUED)

T = Transition
TRANSITIONS: dict[str, Transition] = {
    # name              from                  to        sets, and what the caller may set besides
    # by anybody:
    "promote":        T((SCHEDULED, RETRY),   QUEUED),
    "expire":         T((SCHEDULED, QUEUED),  REVOKED,  ENDED_UNSTARTED),
    "revoke":         T(WAITING,              REVOKED,  ENDED_UNSTARTED | literals(cancel_requested=True)),
    "fail_orphan":    T(WAITING,              FAILURE,  ENDED_UNSTARTED, ("error",)),
    "reassign":       T(WAITING,              None,     {}, ("robot",)),
    "prioritize":     T(WAITING,              None,     {}, ("priority",)),
    "request_cancel": T((STARTED,),           None,     CANCEL_REQUESTED, unless_cancelled=True),
    # by the worker that takes the task, or owns it; by the recovery, if the attempt's lease stays unrenewed:
    "start":          T((QUEUED,),            STARTED,  NEW_ATTEMPT,
                        ("attempt", "lane", "worker", "message_id", "lease_expires_at", "session", "claim_id"),
                        fenced=True),
    "renew":          T((STARTED,),           None,     {},
                        ("lease_expires_at", "progress", "message", "changed_at"),
                        fenced=True, unless_cancelled=True, noted=False),
    "succeed":        T((STARTED,),           SUCCESS,  ENDED | literals(error=None, progress=100.0),
                        ("result", "message"), fenced=True),
    "fail":           T((STARTED,),           FAILURE,  ENDED, ("error", "progress", "message"), fenced=True),
    "stop":           T((STARTED,),           REVOKED,  ENDED, ("progress", "message"), fenced=True),
    "retry":          T((STARTED,),           RETRY,    FREE_LANE, ("error", "run_at", "progress", "message"),
                        fenced=True, unless_cancelled=True),
    "release":        T((STARTED,),           RETRY,    RELEASED, ("progress", "message"),
                        fenced=True, unless_cancelled=True),
    # by the recovery, of a task that runs on a robot which is silent or does not confirm a cancel (of a user, or of FMV
    # because of the timeout); and what frees the lane that such a task keeps after its end:
    "lose_contact":     T((STARTED,),         None,     {"out_of_contact_since": NOW}, fenced=True),
    "stop_unconfirmed": T((STARTED,),         REVOKED,  UNCONFIRMED_END, fenced=True),
    "fail_unconfirmed": T((STARTED,),         FAILURE,  UNCONFIRMED_END, ("error",), fenced=True),
    "free_lane":        T((REVOKED, FAILURE), None,     literals(lane=None)),
    # by the agent of the robot that runs the task:
    "renew_on_robot":   T((STARTED,),         None,     {}, (*RENEWED, "changed_at"), fenced=True, noted=False),
    "claim_again":      T((STARTED,),         None,     {"started_at": NOW}, ("lease_expires_at",),
                          fenced=True, noted=False),
    "regain_contact":   T((STARTED,),         None,     IN_CONTACT, RENEWED, fenced=True),
    "regain":           T((RETRY, QUEUED),    STARTED,  IN_CONTACT | literals(run_at=None, error=None),
                          ("lane", "uncounted", *RENEWED), fenced=True),
    "change_session":   T((STARTED,),         None,     IN_CONTACT, ("session", "lease_expires_at"), fenced=True),
    "report_success":   T(UNREPORTED,         SUCCESS,  REPORTED_END | literals(error=None, progress=100.0),
                          ("result", *REPORTED), fenced=True),
    "report_failure":   T(UNREPORTED,         FAILURE,  REPORTED_END, ("error", *REPORTED), fenced=True),
    "report_stop":      T(UNREPORTED,         REVOKED,  REPORTED_END, REPORTED, fenced=True),
    "report_late_stop": T((REVOKED, FAILURE), None,     literals(lane=None), REPORTED, fenced=True),
    "report_retry":     T(UNREPORTED,         RETRY,    FREE_LANE, ("error", "run_at", *REPORTED),
                          fenced=True, unless_cancelled=True),
    "report_release":   T((STARTED,),         RETRY,    FREE_LANE | UNCOUNTED, ("run_at", "reported"),
                          fenced=True, unless_cancelled=True),
    "report_late_release": T((RETRY, QUEUED), None,     {}, ("reported",), fenced=True),
}  # fmt: skip


def apply(
    model: type[Task], criteria: Criteria, name: str, note: str | Mql = "", key: str | None = None, **given: Mql
) -> int:
    """Take all tasks that meet the criteria through a transition; return how many.

    `note`: the text of the line in the history, or an expression for it. `key`: the key of the only task meant; then
    the criteria are conditions on whole columns. `given`: expressions for the columns that the table leaves to the
    caller. Raises IntegrityError when another task holds the lane that is given.
    """
    transition = TRANSITIONS[name]
    if unknown := given.keys() - set(transition.given):
        raise TypeError(f"The transition {name} does not set {', '.join(sorted(unknown))}")
    if transition.fenced and "attempt" not in criteria:
        raise TypeError(f"The transition {name} needs the attempt among its criteria")
    stage = (_noted(transition, note, given) if transition.noted else {}) | transition.sets | given
    if key is None:
        return update(model, merged([*conjuncts(criteria), *conjuncts(_condition(transition))]), stage)
    condition = criteria | _condition(transition)
    if transition.noted:  # a line more in the history is a change for certain
        return int(update_by_key(model, key, as_expression(condition), stage))
    return update(model, {"_id": key} | condition, stage)


def apply_returning(
    model: type[Task], criteria: Criteria, name: str, key: str, columns: Sequence[str], **given: Mql
) -> Document | None:
    """Take one task through a transition that changes it for certain, without a line more in its history; return these
    columns, read right afterwards, or None if it does not meet the criteria.

    This is a write and a read by the key: for a find-and-modify the embedded server reads all tasks.
    """
    transition = TRANSITIONS[name]
    condition = as_expression(criteria | _condition(transition))
    changed = update_by_key(model, key, condition, transition.sets | given)
    return find_by_key(model, key, columns) if changed else None


def _condition(transition: Transition) -> Criteria:
    statuses = [status.value for status in transition.sources]
    found: Criteria = {"status": statuses[0] if len(statuses) == 1 else {"$in": statuses}}
    return found | ({"cancel_requested": False} if transition.unless_cancelled else {})


def _noted(transition: Transition, note: str | Mql, given: SetStage) -> SetStage:
    status = transition.target.value if transition.target else "$status"
    attempt = given.get("attempt", "$attempt")
    text = literal(note) if isinstance(note, str) else note
    line = appended("history", at=NEXT_CHANGE, status=status, attempt=attempt, note=text)
    return {"status": status, "history": line, "changed_at": NEXT_CHANGE}


EXPIRED = "expired before it started"
HANDED_BACK = "handed back: "  # and why: how the notes of attempts begin that do not count
TIMEOUT_ASKED = "cancel asked for: "  # and why: how the note begins of a cancel that nobody but FMV asked for
CANCEL_ASKED = "cancel asked for by "


def cancel_asked(by: str, reason: str = "") -> str:
    """Return the note of a cancel that somebody asked for."""
    return f"{CANCEL_ASKED}{by}: {reason}" if reason else f"{CANCEL_ASKED}{by}"


def reassigned(robot: str, by: str) -> Mql:
    """Return the note of a reassignment."""
    return {"$concat": ["moved from ", "$robot", literal(moved_to(robot, by))]}


def moved_to(robot: str, by: str) -> str:
    """Return how that note ends."""
    return f" to {robot} by {by}"
