"""Absences: when robots were offline or out of service, for their timelines.

The periodic step `sample_robots` compares once a minute what is so now with the absences that go on, and writes the
difference. So no report of a robot and no request costs more. The times are those of the changes themselves, but an
absence that begins and ends between two runs is not recorded.
"""

import datetime as dt

from django.conf import settings
from django_mongodb_backend.query import wrap_database_errors
from pymongo import UpdateOne

from fmv.mongodb.counting import collection
from fmv.mongodb.server import recent_now
from robots.models import Absence, Robot, RobotState

OFFLINE, OUT_OF_SERVICE = Absence.Kind.OFFLINE.value, Absence.Kind.OUT_OF_SERVICE.value

Key = tuple[str, str]  # robot, kind


@wrap_database_errors
def note() -> int:
    """Store the absences that have begun or ended since the last run; return how many. Three round trips, or a few."""
    out = Robot.objects.out_of_service().order_by().values_list("name", "updated_at")
    offline = RobotState.objects.filter(online=False).order_by().values_list("robot", "since")
    absent: dict[Key, dt.datetime] = {(name, OUT_OF_SERVICE): since for name, since in out}
    absent |= {(name, OFFLINE): since for name, since in offline}
    going_on = {(each.robot, each.kind): each for each in Absence.objects.now()}
    writes = [
        UpdateOne(
            {"_id": f"{robot}/{kind}/{absent[robot, kind].isoformat(timespec='milliseconds')}"},
            {"$set": {"robot": robot, "kind": kind, "begun": absent[robot, kind], "ended": None}},
            upsert=True,
        )
        for robot, kind in absent.keys() - going_on.keys()
    ]
    if over := [going_on[key] for key in going_on.keys() - absent.keys()]:
        ends = _ends({(each.robot, each.kind) for each in over})
        for each in over:
            ended = max(each.begun, ends[each.robot, each.kind])
            writes.append(UpdateOne({"_id": each.pk, "ended": None}, {"$set": {"ended": ended}}))
    if writes:
        collection(Absence).bulk_write(writes, ordered=False)
    return len(writes)


def _ends(over: set[Key]) -> dict[Key, dt.datetime]:
    """Return when these absences ended: now, if the robot is gone."""
    names, now = [robot for robot, _ in over], recent_now()
    ends = dict.fromkeys(over, now)
    back = RobotState.objects.filter(pk__in=names, online=True).order_by().values_list("robot", "since")
    ends |= {(name, OFFLINE): since for name, since in back}
    put_in = Robot.objects.in_service().filter(pk__in=names).order_by().values_list("name", "updated_at")
    return ends | {(name, OUT_OF_SERVICE): since for name, since in put_in}


def forget() -> None:
    """Delete absences that ended more than FMV_AUDIT_DAYS ago (0: none)."""
    if days := settings.ENVIRONMENT.audit_days:
        Absence.objects.filter(ended__lt=recent_now() - dt.timedelta(days=days)).delete()
