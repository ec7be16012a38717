"""Which robots are online, have a low battery, or report errors: how many, and their names."""

import datetime as dt
from typing import Any

from fmv.mongodb.counting import collection
from fmv.mongodb.documents import Document
from fmv.mongodb.server import recent_now
from fmv.mongodb.updates import Criteria, aggregate, find_values
from robots.models import LOW_BATTERY, RobotState

#: what is counted and filtered by. A robot that never had an agent is none of it; a low battery and errors count while
#: they are reported, so the robot is online.
KINDS = ("online", "offline", "low_battery", "with_errors")
MAX_REPLACED = 1000  # robots that `replaced` reads
#: what is wrong between a robot and FMV; the first is judged here, the others where tasks are known
ALARMS = {
    "several_agents": "its session was taken more than once within an hour: two agents use one token",
    "other_task": "it says that it runs a task which FMV does not count as running on it",
    "unknown_handler": "its agent does not know the handler of its next task",
}


def counts() -> dict[str, int]:
    """Return the number of robots of each of KINDS: one command."""
    now = recent_now()
    first, *others = (
        [{"$match": _criteria(kind, now)}, {"$group": {"_id": {"$literal": kind}, "count": {"$sum": 1}}}]
        for kind in KINDS
    )
    name = RobotState._meta.db_table
    rows = aggregate(RobotState, [*first, *({"$unionWith": {"coll": name, "pipeline": each}} for each in others)])
    return dict.fromkeys(KINDS, 0) | {row["_id"]: row["count"] for row in rows}


def names(kind: str) -> list[str]:
    """Return the names of the robots of one of KINDS."""
    return find_values(RobotState, _criteria(kind, recent_now()), "_id")


def _criteria(kind: str, now: dt.datetime) -> Criteria:
    states: Any = RobotState.objects
    match kind:
        case "online":
            found = states.online(now).criteria()
        case "offline":
            found = states.offline(now).criteria()
        case "low_battery":
            found = states.fresh(now).criteria() | {"reported.battery.charge": {"$lt": LOW_BATTERY}}
        case _:
            found = states.fresh(now).criteria() | {"errors.0": {"$exists": True}}
    return dict(found)


def replaced() -> dict[str, int]:
    """Return how often sessions of a robot were ended by newer ones within the last hour, by its name."""
    found = collection(RobotState).find({"replaced_at.0": {"$exists": True}}, {"replaced_at": 1}, limit=MAX_REPLACED)
    times = {state["_id"]: times_replaced(state) for state in found}
    return {name: number for name, number in times.items() if number}


def times_replaced(state: Document) -> int:
    """Return how often sessions of the robot, by the document of its state, were replaced within the last hour."""
    since = (recent_now() - dt.timedelta(hours=1)).replace(tzinfo=None)
    return sum(at >= since for at in state["replaced_at"])


def several_agents() -> dict[str, int]:
    """Return the robots that two agents seem to share, and how often each took the session within the last hour.

    Once is a restart without a goodbye.
    """
    return {name: times for name, times in replaced().items() if times > 1}
