"""Robots' agents: their sessions, when they were last seen, and what they report.

An agent is the program on or beside a robot that runs the robot's tasks. Each function is one conditional write, by
MongoDB's clock. A robot has one session at a time: a newer one ends the older.
"""

import datetime as dt
import hashlib
import logging
import secrets
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django_mongodb_backend.query import wrap_database_errors
from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

import robots.services
from fmv.mongodb.counting import collection
from fmv.mongodb.documents import Document, find_document
from fmv.mongodb.expressions import NOW, Mql, later, literal
from fmv.mongodb.server import clock, recent_now
from fmv.mongodb.updates import SetStage, update, update_by_key
from fmv.monitoring import counters
from robots.errors import SessionReplaced, UnknownRobot
from robots.models import RobotState
from robots.models.state import REPORTED

logger = logging.getLogger(__name__)

LEAST_INTERVAL = 1.0  # seconds between two stored reports of a robot, and between two writes of `last_seen`
NOTED = 4  # times that a process writes `last_seen` at most within FMV_OFFLINE_AFTER, for calls that report nothing
REPORTS = 6  # that an online robot sends within FMV_OFFLINE_AFTER
REPLACED_WITHIN = 3600.0  # seconds for which replaced sessions are remembered
MAX_REPLACED = 100  # that are remembered
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
#: a change of these, of `online`, or of an error's type or level moves `changed_at`, and so is an event
NOTICED = ("mode", "emergency_stop")

#: of states whose agent has just called; `changed_at` and `since` move only if it was not online
_WAS_OFFLINE: Mql = {"$ne": ["$online", True]}
_NEXT_CHANGE: Mql = {"$max": [NOW, later({"$ifNull": ["$changed_at", literal(EPOCH)]}, 0.001)]}
_ONLINE: SetStage = {
    "online": literal(True),
    "last_seen": NOW,
    "since": {"$cond": [_WAS_OFFLINE, NOW, "$since"]},
    "changed_at": {"$cond": [_WAS_OFFLINE, _NEXT_CHANGE, "$changed_at"]},
}
_OFFLINE: SetStage = {"online": literal(False), "since": NOW, "changed_at": _NEXT_CHANGE}
#: level and type of each error that was reported last
_KINDS: Mql = {
    "$map": {
        "input": {"$ifNull": ["$errors", []]},
        "as": "error",
        "in": {"$concat": ["$$error.level", " ", "$$error.type"]},
    }
}

#: robot and session -> when this process last wrote its `last_seen`, by time.monotonic()
_seen_at: dict[tuple[str, str], float] = {}
MAX_SEEN = 20_000  # sessions


@dataclass(frozen=True)
class Session:
    """An agent's session: from its call of `POST /session` until it says goodbye or another session begins."""

    id: str
    robot: str
    agent: str
    version: str
    boot_id: str
    handlers: frozenset[str]


@dataclass(frozen=True)
class Reported:
    """The answer to a report: whether it was stored, in how many seconds the next is expected, and whether the robot
    is out of service.
    """

    stored: bool
    report_seconds: float
    drain: bool


def report_seconds() -> float:
    """Return in how many seconds an agent reports again."""
    return float(settings.ENVIRONMENT.offline_after) / REPORTS


def same_start(session: str, other: str) -> bool:
    """Return whether both sessions, by their ids, were opened by the same start of an agent's process."""
    return session.partition("-")[0] == other.partition("-")[0]


def open_session(
    robot: str,
    *,
    agent: str = "",
    version: str = "",
    boot_id: str = "",
    handlers: Collection[str] = (),
    earlier_boot_ids: Collection[str] = (),
) -> Session:
    """Open a session for the robot's agent, end the one before, and return it.

    `boot_id` names one start of the agent's process; the session's id begins with a digest of it (see `same_start`).
    While this start has the session it gets the same one again: networks deliver a request twice, and the agent may
    have the answer to either.
    `handlers` are the names of those that it can run. `earlier_boot_ids` are of starts that have ended: while this
    session is open, a request of theirs that comes late opens none. Raises UnknownRobot, and SessionReplaced for such a
    request.
    """
    start = hashlib.sha256(boot_id.encode()).hexdigest()[:16]
    session = Session(f"{start}-{secrets.token_hex(8)}", robot, agent, version, boot_id, frozenset(handlers))
    while (stored := _store_session(session, earlier_boot_ids)) is None:
        _require_not_ended(session)  # else another process has stored the robot's first state meanwhile
    id, has_replaced = stored
    try:
        robots.services.get(robot)
    except UnknownRobot:  # asked last, because it may be deleted meanwhile, perhaps before there was this state
        collection(RobotState).delete_one({"_id": robot, "session.id": id})
        raise
    if has_replaced:
        counters.count("sessions_replaced")
    return replace(session, id=id)


@wrap_database_errors
def _store_session(session: Session, earlier_boot_ids: Collection[str]) -> tuple[str, bool] | None:
    """Store the session unless this start of the agent has one.

    Return the id of the one that it has now, and whether that ended one of an agent that still seems to live (see
    `_replaces`). None if the robot's state does not allow it, or was stored for the first time meanwhile.
    """
    values = {
        "boot_id": session.boot_id,
        "agent": session.agent,
        "version": session.version,
        "handlers": sorted(session.handlers),
        "ended": sorted(earlier_boot_ids),
    }
    remembered = {
        "$filter": {
            "input": {"$ifNull": ["$replaced_at", []]},
            "as": "at",
            "cond": {"$gte": ["$$at", later(NOW, -REPLACED_WITHIN)]},
        }
    }
    replaced = {"$cond": [_replaces(session), {"$concatArrays": [remembered, [NOW]]}, remembered]}
    stage = _ONLINE | {
        "session": {"$mergeObjects": [literal(values), {"id": _id_of(session), "started_at": NOW}]},
        "replaced_at": {"$slice": [replaced, -MAX_REPLACED]},
        "signed_off": literal(False),
        "reported_at": {"$ifNull": ["$reported_at", None]},
        "reported": {"$ifNull": ["$reported", literal({})]},
        "map": {"$ifNull": ["$map", None]},
        "errors": {"$ifNull": ["$errors", None]},
    }
    allowed = {"_id": session.robot, "session.ended": {"$ne": session.boot_id}}
    try:
        after: Document | None = collection(RobotState).find_one_and_update(
            allowed, [{"$set": stage}], upsert=True, return_document=ReturnDocument.AFTER
        )
    except DuplicateKeyError:
        return None
    # SecantusDB returns no new document
    if not after:
        return session.id, False
    return after["session"]["id"], bool(
        after["replaced_at"] and after["replaced_at"][-1] == after["session"]["started_at"]
    )


def _require_not_ended(session: Session) -> None:
    state = find_document(RobotState, session.robot)
    if state and session.boot_id in ((state["session"] or {}).get("ended") or ()):
        raise SessionReplaced


def _id_of(session: Session) -> Mql:
    is_open = {"$eq": ["$session.boot_id", literal(session.boot_id)]}
    return {"$cond": [is_open, "$session.id", literal(session.id)]}


def _replaces(session: Session) -> Mql:
    """Return whether the stored session is of an agent that still seems to live and was started another time.

    It is then restarted without a goodbye, or there are two agents with one token.
    """
    heard = {"$gte": [{"$ifNull": ["$last_seen", literal(EPOCH)]}, later(NOW, -settings.ENVIRONMENT.offline_after)]}
    other = {"$ne": [{"$ifNull": ["$session.boot_id", literal(session.boot_id)]}, literal(session.boot_id)]}
    return {"$and": [{"$eq": ["$online", True]}, heard, other]}


def session_of(robot: str) -> Session | None:
    """Return the session of the robot's agent, None if it has none."""
    state = find_document(RobotState, robot)
    if state is None or state["session"] is None:
        return None
    found = state["session"]
    return Session(found["id"], robot, found["agent"], found["version"], found["boot_id"], frozenset(found["handlers"]))


def with_agents(robots: Collection[str]) -> set[str]:
    """Return those of these robots whose agent has ever signed in."""
    found = RobotState.objects.filter(pk__in=list(robots)).order_by().values_list("pk", flat=True) if robots else ()
    return set(found)


def close_session(robot: str, session: str = "") -> None:
    """End the session (empty: whichever it is) with a goodbye: the robot is offline at once. It may be repeated.

    Raises SessionReplaced.
    """
    stage = _OFFLINE | {"session": literal(None), "signed_off": literal(True)}
    if not update_by_key(RobotState, robot, _is_open(session), stage):
        _require_session(robot, session, or_none=True)


def seen(robot: str, session: str) -> None:
    """Note that the robot's agent has called in this session, if it is the present one.

    This process writes it NOTED times within FMV_OFFLINE_AFTER at most, and not if another wrote within LEAST_INTERVAL.
    An agent that reports in time costs no write besides: its reports are noted with what they say.
    """
    now = time.monotonic()
    if now < _seen_at.get((robot, session), float("-inf")) + settings.ENVIRONMENT.offline_after / NOTED:
        return
    _remember_seen(robot, session, now)
    due = {"$and": [{"$eq": ["$signed_off", False]}, _is_open(session), _is_due("$last_seen")]}
    update_by_key(RobotState, robot, due, _ONLINE)


def _remember_seen(robot: str, session: str, now: float) -> None:
    if len(_seen_at) >= MAX_SEEN:
        _seen_at.clear()
    _seen_at[robot, session] = now


def report(robot: str, session: str, state: Mapping[str, Any]) -> Reported:
    """Store what the robot's agent reports in its session (empty: whichever it is), and what is left out as unknown.

    `state`: the validated values of robots.serializers.StateInputSerializer. A report that comes within LEAST_INTERVAL
    of the one before is not stored; the answer asks for the next soon then. Raises SessionReplaced, UnknownRobot.
    """
    in_service = robots.services.get(robot).enabled
    goodbye = state.get("online") is False
    due = _is_open(session) if goodbye else {"$and": [_is_open(session), _is_due("$reported_at")]}
    stored = update_by_key(RobotState, robot, due, _report_stage(state, goodbye))
    if stored:
        _remember_seen(robot, session, time.monotonic())
    else:
        _require_session(robot, session)
    return Reported(stored, report_seconds() if stored else LEAST_INTERVAL, drain=not in_service)


def _report_stage(state: Mapping[str, Any], goodbye: bool) -> SetStage:
    errors = state.get("errors")
    values = {name: value for name, value in state.items() if name in REPORTED and value is not None}
    changes = [
        {"$ne": ["$online", not goodbye]},
        {"$not": [{"$setEquals": [_KINDS, literal([f"{each['level']} {each['type']}" for each in errors or ()])]}]},
        *({"$ne": [{"$ifNull": [f"$reported.{name}", None]}, literal(state.get(name))]} for name in NOTICED),
    ]
    return (_OFFLINE if goodbye else _ONLINE) | {
        "since": {"$cond": [changes[0], NOW, "$since"]},
        "last_seen": NOW,
        "signed_off": literal(goodbye),
        "reported_at": NOW,
        "reported": literal(values),
        "map": literal(_map_of(values)),
        "errors": literal(None) if errors is None else _with_since(errors),
        "changed_at": {"$cond": [{"$or": changes}, _NEXT_CHANGE, "$changed_at"]},
    }


def _map_of(values: Mapping[str, Any]) -> str | None:
    """Return the name of the map on which the robot has a place, "" for a map without a name; None if it has none."""
    position = values.get("position") or {}
    return position.get("map", "") if {"x", "y"} <= position.keys() else None


def _with_since(errors: Collection[Mapping[str, Any]]) -> Mql:
    """Return the errors, each with the time since when the robot has reported one of this type.

    FMV notes it, because the robot's clock may be wrong.
    """
    old = {
        "$filter": {"input": {"$ifNull": ["$errors", []]}, "as": "old", "cond": {"$eq": ["$$old.type", "$$new.type"]}}
    }
    since = {"$arrayElemAt": [{"$map": {"input": old, "as": "old", "in": "$$old.since"}}, 0]}
    dated = {"$mergeObjects": ["$$new", {"since": {"$ifNull": [since, NOW]}}]}
    return {"$map": {"input": literal([dict(error) for error in errors]), "as": "new", "in": dated}}


def _is_open(session: str) -> Mql:
    if session:
        return {"$eq": ["$session.id", literal(session)]}
    return {"$ne": [{"$ifNull": ["$session", None]}, None]}


def _is_due(column: str) -> Mql:
    """Return whether the time in the column is not of the last moments; one that lies ahead is of another clock."""
    before = {"$lte": [{"$ifNull": [column, literal(EPOCH)]}, later(NOW, -LEAST_INTERVAL)]}
    return {"$or": [before, {"$gt": [column, NOW]}]}


def _require_session(robot: str, session: str, *, or_none: bool = False) -> None:
    """Raise SessionReplaced unless this session (empty: any) is open, or with `or_none` also if none is."""
    found = session_of(robot)
    if (found is None and not or_none) or (found is not None and session and found.id != session):
        raise SessionReplaced


def notice_silent() -> int:
    """Store that the robots are offline whose agents have said nothing for FMV_OFFLINE_AFTER; return how many.

    It waits until this process has seen MongoDB's clock run evenly for as long: after a jump, or an outage of FMV
    itself, the agents have time to be heard again.
    """
    if clock.even_for() < settings.ENVIRONMENT.offline_after:
        return 0
    number = update(RobotState, RobotState.objects.silent(recent_now()).criteria(), _OFFLINE)
    if number:
        logger.warning("%d robots went offline without a goodbye", number, extra={"robots": number})
    return number
