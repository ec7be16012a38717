"""Robots as JSON, rendered from their documents: the same as the serializers' output, at a fraction of the cost."""

from collections.abc import Mapping, Sequence
from typing import Any

from fmv.http.fields import rfc3339
from fmv.mongodb.server import recent_now
from robots.models.state import ERROR, REPORTED, heard_since


def summary(robot: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output of RobotSerializer."""
    return {"name": robot["_id"], "is_great": robot["is_great"], "location": robot["location"]}


def summary_with_state(robot: Mapping[str, Any]) -> dict[str, Any]:
    """Return the output of RobotSerializer for a robot whose document has its state's as `state`, and `alarms`."""
    return summary(robot) | {"state": state(robot["state"], robot["alarms"])}


def profile(
    robot: Mapping[str, Any], tasks: Sequence[Any], found: Mapping[str, Any] | None, alarms: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the output of RobotFieldsSerializer, with these tasks, rendered, in the place where v1 has them.

    `found`: the document of the robot's state, None if there is none; `alarms`: those that it has.
    """
    return {
        "name": robot["_id"],
        "is_great": robot["is_great"],
        "location": robot["location"],
        "description": robot["description"],
        "tasks": tasks,
        "enabled": robot["enabled"],
        "lanes": robot["lanes"],
        "labels": robot["labels"],
        "endpoint": robot["endpoint"],
        "created_at": rfc3339(robot["created_at"]),
        "updated_at": rfc3339(robot["updated_at"]),
        "state": state(found, alarms),
        "hold": hold(robot),
    }


def hold(robot: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the output of HoldSerializer for a robot's document, None if its queue is not held."""
    since = robot.get("held_since")  # a robot that is stored since before has none
    return {"by": robot["held_by"], "since": rfc3339(since), "why": robot["held_why"]} if since else None


def state(found: Mapping[str, Any] | None, alarms: Sequence[str] | None = None) -> dict[str, Any] | None:
    """Return the output of StateSerializer for the document of a RobotState, None if there is none.

    `alarms`: those that it has; None leaves them out.
    """
    if found is None:
        return None
    since = heard_since(recent_now()).replace(tzinfo=None)
    online = found["online"] and found["last_seen"] >= since
    session, reported, errors = found["session"], found["reported"], found["errors"]
    return {
        "online": online,
        "since": rfc3339(found["since"]),
        "last_seen": rfc3339(found["last_seen"]),
        "reported_at": rfc3339(found["reported_at"]),
        "stale": not online or found["reported_at"] is None or found["reported_at"] < since,
        **({} if alarms is None else {"alarms": alarms}),
        "agent": session and {"name": session["agent"], "version": session["version"]},
        "handlers": session["handlers"] if session else [],
        **{name: _all_of(parts, reported.get(name)) for name, parts in REPORTED.items()},
        "errors": errors and [_all_of(ERROR, error) | {"since": rfc3339(error["since"])} for error in errors],
    }


def _all_of(parts: Sequence[str], value: Any) -> Any:
    """Return the value with all its parts, null for those that are unknown."""
    return {part: value.get(part) for part in parts} if parts and value is not None else value
