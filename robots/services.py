"""Changes of the registry. API, admin and commands all use these functions."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError
from django.db.models import F
from django.utils import timezone
from pymongo import UpdateOne

from fmv import audit
from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken
from fmv.errors import InvalidInput, Problem
from fmv.mongodb.counting import collection
from fmv.mongodb.documents import Document, find_document, insert, stored_form
from fmv.mongodb.expressions import Now
from robots.errors import Changed, NameTaken, NotPossible, QueueHeld, UnknownRobot
from robots.models import Absence, Robot, RobotQuerySet, RobotSamples, RobotState, plain_name

MAX_VALUE = 60  # characters of a value in the audit list
#: what a replacement leaves as it is
KEPT = ("name", "held_since", "held_by", "held_why", "revision", "created_at", "updated_at")
TITLES = {field.attname: str(field.verbose_name) for field in Robot._meta.fields}


def stored_name(name: str) -> str:
    """Return the name under which a robot is stored: the plain form, unless one from before has exactly this name."""
    plain = plain_name(name)
    return plain if plain == name or not Robot.objects.find(name) else name


def get(name: str) -> Robot:
    """Return the robot. Raises UnknownRobot."""
    robot = Robot.objects.find(stored_name(name))
    if robot is None:
        raise UnknownRobot
    return robot


def document(name: str) -> Document:
    """Return the robot's document. Raises UnknownRobot."""
    found = find_document(Robot, stored_name(name))
    if found is None:
        raise UnknownRobot
    return found


def create(*, by: str, **values: Any) -> Robot:
    """Store and return a new robot. Raises NotPossible, NameTaken."""
    robot = Robot(**values | {"name": plain_name(values["name"])})
    _check_name(robot.name)
    _check_greatness(robot)
    try:
        insert(robot)
    except IntegrityError:
        raise NameTaken(robot.name) from None
    _record("create", by, robot)
    return robot


def create_all(robots: Sequence[Robot], *, by: str) -> set[str]:
    """Store those of the validated robots whose names are free, in one write; return their names."""
    documents = [stored_form(robot) for robot in robots]
    inserts = [UpdateOne({"_id": each["_id"]}, {"$setOnInsert": each}, upsert=True) for each in documents]
    stored = collection(Robot).bulk_write(inserts, ordered=False).upserted_ids or {}
    texts = {robots[index].name: _description(robots[index]) for index in stored}
    audit.record_all("robot.create", by=by, kind="robot", texts=texts)
    return set(texts)


def replace(name: str, *, by: str, **values: Any) -> tuple[Robot, bool]:
    """Create the robot or replace all its fields; return it and whether it is new. Raises InvalidInput, NotPossible."""
    name = stored_name(name)
    try:
        _check_name(name)
    except InvalidInput:
        if not Robot.objects.find(name):  # one from before may have a name that no new one may have
            raise
    robot = Robot(name=name, **values)
    _check_greatness(robot)
    replaced = {
        field.attname: getattr(robot, field.attname) for field in Robot._meta.fields if field.attname not in KEPT
    }
    while True:
        before = Robot.objects.filter(pk=name).first()
        if before and (after := _write(Robot.objects.filter(pk=name), replaced)):
            _record_change(before, after, by, replaced)
            return after, False
        try:
            insert(robot)
        except IntegrityError:
            continue  # another request created it meanwhile
        _record("create", by, robot)
        return robot, True


def change(name: str, *, by: str, revisions: Collection[int] | None = None, why: str = "", **values: Any) -> Robot:
    """Change some fields and return the robot, if it is at one of `revisions` (None: at any).

    `why` is added to the audit entry. Raises UnknownRobot, NotPossible, Changed.
    """
    if values.get("is_great"):
        _check_greatness(Robot(name=name, is_great=True))
    before = get(name)
    name = before.name
    robot = Robot.objects.at(name, revisions)
    after = _write(robot, values) if values else robot.first()
    if after is None:
        get(name)
        raise Changed
    if values:
        _record_change(before, after, by, values, why)
    return after


def hold_queue(name: str, *, by: str, why: str = "") -> Robot:
    """Hold the robot's queue and return the robot: it starts no task until `release_queue`. Running tasks go on.

    Unlike a robot out of service it stays one that takes orders and whose agent is expected. The same hold again
    changes nothing. Raises UnknownRobot, and QueueHeld if the queue is held by somebody else or for another reason.
    """
    while True:
        robot = get(name)
        if robot.held_since is None:
            free = Robot.objects.filter(pk=robot.name, held_since=None)
            if after := _write(free, {"held_since": Now(), "held_by": by, "held_why": why}):
                audit.record("robot.hold", by=by, kind="robot", key=after.name, text=why or "no reason given")
                return after
        elif (robot.held_by, robot.held_why) == (by, why):
            return robot
        else:
            raise QueueHeld(f"The queue is {robot.hold_in_words} since {robot.held_since:%F %T} UTC. Release it first.")


def release_queue(name: str, *, by: str) -> tuple[Robot, bool]:
    """Release the robot's queue; return the robot, and whether its queue was held. Raises UnknownRobot."""
    robot = get(name)
    after = _write(Robot.objects.filter(pk=robot.name).held(), {"held_since": None, "held_by": "", "held_why": ""})
    if after is None:
        return get(name), False
    text = f"it was {robot.hold_in_words} since {robot.held_since:%F %T} UTC" if robot.held_since else ""
    audit.record("robot.release", by=by, kind="robot", key=after.name, text=text)
    return after, True


def delete(name: str, *, by: str, revisions: Collection[int] | None = None) -> None:
    """Delete a robot and revoke its tokens, if it is at one of `revisions` (None: at any).

    If the process dies before the tokens are revoked, the same call revokes them. Raises UnknownRobot, Changed.
    """
    deleted = Robot.objects.at(name, revisions).delete()[0] > 0
    if not deleted and Robot.objects.find(name):
        raise Changed
    api_tokens.revoke_all_of(name, by=by)
    RobotState.objects.filter(pk=name).delete()
    RobotSamples.objects.of(name).delete()
    Absence.objects.filter(robot=name).delete()
    if not deleted:
        raise UnknownRobot
    audit.record("robot.delete", by=by, kind="robot", key=name)


def create_token(name: str, *, by: str, days: float | None = None) -> ApiToken:
    """Store and return a token for the robot's agent, valid for `days` (FMV_TOKEN_MAX_DAYS), with its secret in `text`.

    Raises UnknownRobot, TokenNotMade.
    """
    token = api_tokens.build_for_robot(get(name).name, days=days)
    api_tokens.store(token, by=by)
    if not Robot.objects.find(
        token.robot
    ):  # deleted meanwhile, perhaps before this token could be revoked with the others
        api_tokens.revoke(token, by=by)
        raise UnknownRobot
    return token


def _write(robots: RobotQuerySet, values: dict[str, Any]) -> Robot | None:
    return robots.update_returning(**values, revision=F("revision") + 1, updated_at=timezone.now())


def _record(verb: str, by: str, robot: Robot) -> None:
    audit.record(f"robot.{verb}", by=by, kind="robot", key=robot.name, text=_description(robot))


def _description(robot: Robot) -> str:
    names = ("location", "lanes", "labels", "endpoint")
    return "; ".join(f"{TITLES[name]}: {_shown(getattr(robot, name))}" for name in names)


def differences(before: Robot, after: Robot, names: Iterable[str]) -> list[str]:
    """Return how these fields differ, as in "location: Earth → Mars"."""
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in names]
    return [f"{TITLES[name]}: {_shown(old)} → {_shown(new)}" for name, old, new in pairs if old != new]


def _record_change(before: Robot, after: Robot, by: str, names: Iterable[str], why: str = "") -> None:
    """Record what differs now. A concurrent change may be recorded here too, or not at all."""
    verb = "change" if before.enabled == after.enabled else "enable" if after.enabled else "disable"
    text = "; ".join([*(differences(before, after, names) or ["no change"]), *([why] if why else [])])
    audit.record(f"robot.{verb}", by=by, kind="robot", key=after.name, text=text)


def _shown(value: object) -> str:
    """Return a field's value as short text."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = ", ".join(value) if isinstance(value, list) else str(value)
    return (text if len(text) <= MAX_VALUE else f"{text[:MAX_VALUE]}…") if value not in (None, "", []) else "none"


def _check_name(name: str) -> None:
    try:
        Robot._meta.get_field("name").clean(name, None)
    except ValidationError as error:
        raise InvalidInput([Problem(("path", "name"), message) for message in error.messages]) from None


def _check_greatness(robot: Robot) -> None:
    if robot.is_great and robot.name not in Robot.GREAT_ONES:
        raise NotPossible
