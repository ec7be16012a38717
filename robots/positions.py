"""Where robots are, by what they report: which maps there are, and who is on one."""

import datetime as dt
from typing import Any, NamedTuple

from fmv.mongodb.documents import documents
from fmv.mongodb.server import recent_now
from fmv.mongodb.updates import aggregate
from robots.condition import Condition
from robots.models import RobotState
from robots.models.state import heard_since

MAX_MAPS = 100  # that are listed, those with most robots
MAX_ROBOTS = 2000  # of a map that are read
READ = ("reported.position", "reported_at", "online", "last_seen", "errors.level")


class Position(NamedTuple):
    """A robot's last reported position: `x` and `y` in metres, `theta` in radians, None if unknown.

    `fresh`: the robot is online and reports; otherwise it may be elsewhere by now. `has_errors`: it reports any.
    """

    robot: str
    x: float
    y: float
    theta: float | None
    localized: bool
    at: dt.datetime
    online: bool
    fresh: bool
    has_errors: bool


def maps() -> dict[str, int]:
    """Return the maps on which robots report positions, and how many do; those with most first. One command."""
    on_one = {"$match": {"map": {"$gte": ""}}}
    count = {"$group": {"_id": "$map", "robots": {"$sum": 1}}}
    order = {"$sort": {"robots": -1, "_id": 1}}
    found = aggregate(RobotState, [on_one, {"$project": {"_id": 0, "map": 1}}, count, order, {"$limit": MAX_MAPS}])
    return {each["_id"]: each["robots"] for each in found}


def on(name: str) -> list[Position]:
    """Return the robots on a map by name, MAX_ROBOTS at most: one command, by an index, of what is shown alone."""
    since = heard_since(recent_now())
    found = documents(RobotState, {"map": name}, limit=MAX_ROBOTS, batch_size=MAX_ROBOTS, columns=READ)
    return [_position(state, since.replace(tzinfo=None)) for state in found]


def of(condition: Condition) -> Position | None:
    """Return the position of a robot whose condition is known; None if it reports none."""
    state = condition.state
    if state.map is None or state.reported_at is None:
        return None
    return _place(
        state.robot,
        state.reported["position"],
        state.reported_at,
        condition.online,
        condition.fresh,
        bool(state.errors),
    )


def _position(state: dict[str, Any], since: dt.datetime) -> Position:
    online = bool(state["online"] and state["last_seen"] >= since)
    fresh = online and state["reported_at"] >= since
    at = state["reported_at"].replace(tzinfo=dt.UTC)
    return _place(state["_id"], state["reported"]["position"], at, online, fresh, bool(state.get("errors")))


def _place(
    robot: str, values: dict[str, Any], at: dt.datetime, online: bool, fresh: bool, has_errors: bool
) -> Position:
    localized = values.get("localized") is not False
    return Position(
        robot, values["x"], values["y"], values.get("theta"), localized, at, online, fresh, fresh and has_errors
    )
