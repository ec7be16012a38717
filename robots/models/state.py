"""RobotState: what a robot's agent has reported, and when; RobotSamples: battery and position once a minute.

They are documents beside the robot's own, so that a report never changes the robot's revision, which is its ETag.
"""

import datetime as dt
from collections.abc import Iterator
from itertools import islice
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import Q
from django_mongodb_backend.fields import ArrayField

from fmv.mongodb.counting import collection
from fmv.mongodb.documents import Document, documents
from fmv.mongodb.fields import DocumentField
from fmv.mongodb.queryset import QuerySet
from robots.models.floor_plan import MAX_MAP_NAME

STATES_READ = 200  # that one query reads
LOW_BATTERY = 20.0  # percent; less is low
#: the values that an agent reports, beside its errors, with the names of their parts
REPORTED: dict[str, tuple[str, ...]] = {
    "battery": ("charge", "charging", "voltage"),
    "position": ("map", "x", "y", "theta", "localized"),
    "velocity": ("linear", "angular"),
    "driving": (),
    "paused": (),
    "mode": (),
    "emergency_stop": (),
    "safety_field_violated": (),
    "load": ("present", "description"),
    "task": ("task_id", "attempt"),
    "extra": (),
}
ERROR = ("type", "level", "description", "hint")


class RobotStateQuerySet(QuerySet["RobotState"]):
    def online(self, now: dt.datetime) -> "RobotStateQuerySet":
        return self.filter(online=True, last_seen__gte=heard_since(now))

    def offline(self, now: dt.datetime) -> "RobotStateQuerySet":
        """Robots that have had an agent, which is not online now."""
        return self.filter(Q(online=False) | Q(online=True, last_seen__lt=heard_since(now)))

    def fresh(self, now: dt.datetime) -> "RobotStateQuerySet":
        """Robots that are online and have reported lately."""
        return self.online(now).filter(reported_at__gte=heard_since(now))

    def silent(self, now: dt.datetime) -> "RobotStateQuerySet":
        """Robots that are stored as online and have said nothing for FMV_OFFLINE_AFTER."""
        return self.filter(online=True, last_seen__lt=heard_since(now)).order_by()

    def changed_since(self, moment: dt.datetime) -> "RobotStateQuerySet":
        return self.filter(changed_at__gte=moment)


class RobotState(models.Model):
    """What is known of a robot through its agent. All times are by MongoDB's clock; robots.agents writes it."""

    robot = models.CharField(primary_key=True, db_column="_id", max_length=64)
    session = DocumentField(null=True, help_text="{id, boot_id, agent, version, handlers, started_at}; null: none.")
    replaced_at = ArrayField(
        models.DateTimeField(), default=list, help_text="When a session was ended by a newer one; the last hour."
    )
    last_seen = models.DateTimeField(help_text="When its agent last called, exact to some seconds.")
    online = models.BooleanField(help_text="As last noticed; it counts only while last_seen is recent.")
    signed_off = models.BooleanField(
        default=False, help_text="It said goodbye: only a report or a new session brings it back."
    )
    since = models.DateTimeField(help_text="When `online` last changed.")
    reported_at = models.DateTimeField(null=True)
    reported = DocumentField(default=dict, help_text="The values of the last report but for its errors.")
    map = models.CharField(
        max_length=MAX_MAP_NAME,
        null=True,
        help_text="Of the reported position; empty if it names none, null without position.",
    )
    errors = DocumentField(
        null=True,
        help_text="[{type, level, description, hint, since}]; null: unknown. `since` is when FMV saw it first.",
    )
    changed_at = models.DateTimeField(help_text="When what an event reports last changed.")

    objects: ClassVar[Any] = RobotStateQuerySet.as_manager()

    class Meta:
        indexes = [
            models.Index(fields=["online", "last_seen"], name="state_by_sight"),  # online, offline, silent
            models.Index(fields=["changed_at"], name="state_changed"),  # the event streams
            models.Index(fields=["map", "robot"], name="state_on_map"),  # the fleet map, and which maps there are
        ]

    def __str__(self) -> str:
        return self.robot


def heard_since(now: dt.datetime) -> dt.datetime:
    """Return the time since which an agent that is online has been heard."""
    return now - dt.timedelta(seconds=settings.ENVIRONMENT.offline_after)


class RobotSamplesQuerySet(QuerySet["RobotSamples"]):
    def of(self, robot: str) -> "RobotSamplesQuerySet":
        return self.filter(pk__gt=f"{robot}/", pk__lt=f"{robot}0")  # "0" is next to "/", which no name contains

    def older(self, moment: dt.datetime) -> "RobotSamplesQuerySet":
        return self.filter(hour__lt=moment).order_by()


class RobotSamples(models.Model):
    """A robot's battery and position in one hour, once a minute: a document an hour, because one a minute is costly."""

    id = models.CharField(primary_key=True, db_column="_id", max_length=80, help_text="robot/2027-01-31T08")
    hour = models.DateTimeField()
    minutes = DocumentField(default=dict, help_text='{"07": {charge, map, x, y}, …}; what was unknown is missing.')

    objects: ClassVar[Any] = RobotSamplesQuerySet.as_manager()

    class Meta:
        verbose_name_plural = "robot samples"
        indexes = [models.Index(fields=["hour"], name="samples_by_age")]  # the maintenance step that deletes them

    def __str__(self) -> str:
        return self.id


def documents_with_state(model: type[models.Model], criteria: Document, **options: Any) -> Iterator[Document]:
    """Yield what `documents` yields, robots, each with the document of its state as `state`, None if it has none."""
    robots = documents(model, criteria, **options)
    while chunk := list(islice(robots, STATES_READ)):
        names = [robot["_id"] for robot in chunk]
        found = collection(RobotState).find({"_id": {"$in": names}}, batch_size=STATES_READ)
        states = {state["_id"]: state for state in found}
        yield from (robot | {"state": states.get(robot["_id"])} for robot in chunk)
