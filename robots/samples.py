"""Samples: each robot's battery and position, once a minute."""

import datetime as dt
from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django_mongodb_backend.query import wrap_database_errors
from pymongo import UpdateOne

from fmv.mongodb.counting import collection
from fmv.mongodb.server import recent_now
from fmv.mongodb.updates import find_values
from robots.models import RobotSamples, RobotState

HOUR = dt.timedelta(hours=1)


@wrap_database_errors
def take() -> int:
    """Store battery and position of the robots that report them, as of this minute; return of how many robots.

    Three commands for all robots. Taken twice in a minute, the second one counts.
    """
    now = recent_now()
    fresh = RobotState.objects.fresh(now).criteria()
    found = collection(RobotState).find(fresh, {"reported.battery": 1, "reported.position": 1})
    hour = now.replace(minute=0, second=0, microsecond=0)
    samples = {state["_id"]: sample for state in found if (sample := _sample(state["reported"]))}
    writes = [
        UpdateOne(
            {"_id": _key(robot, hour)},
            {"$set": {f"minutes.{now.minute:02}": sample}, "$setOnInsert": {"hour": hour}},
            upsert=True,
        )
        for robot, sample in samples.items()
    ]
    if writes:
        collection(RobotSamples).bulk_write(writes, ordered=False)
        for robot in samples.keys() - find_values(RobotState, {"_id": {"$in": list(samples)}}, "_id"):
            RobotSamples.objects.of(robot).delete()  # it was deleted meanwhile, perhaps before there was this sample
    return len(writes)


def _sample(reported: Mapping[str, Any]) -> dict[str, Any]:
    battery, position = reported.get("battery") or {}, reported.get("position") or {}
    charge = {"charge": battery["charge"]} if "charge" in battery else {}
    return charge | {name: position[name] for name in ("map", "x", "y") if name in position}


def _key(robot: str, hour: dt.datetime) -> str:
    return f"{robot}/{hour:%Y-%m-%dT%H}"


def since(robot: str, moment: dt.datetime) -> list[tuple[dt.datetime, dict[str, Any]]]:
    """Return the robot's samples since then, oldest first, each with its time."""
    hours = RobotSamples.objects.of(robot).filter(pk__gte=_key(robot, moment)).order_by("pk")
    return [
        (at, sample)
        for hour, minutes in hours.values_list("hour", "minutes")
        for minute, sample in sorted(minutes.items())
        if (at := hour + dt.timedelta(minutes=int(minute))) >= moment
    ]


def forget() -> None:
    """Delete samples that are older than FMV_STATE_DAYS."""
    oldest = recent_now() - dt.timedelta(days=settings.ENVIRONMENT.state_days)
    RobotSamples.objects.older(oldest - HOUR).delete()
