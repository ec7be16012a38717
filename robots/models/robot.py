"""Robot: the registry's model, with the rules that hold for API, admin and imports alike."""

import datetime as dt
import re
import unicodedata
from collections.abc import Collection
from typing import ClassVar
from urllib.parse import urlsplit

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django_mongodb_backend.fields import ArrayField

from fmv.mongodb.queryset import QuerySet
from fmv.mongodb.server import recent_now
from robots.models.state import RobotState

CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
#: characters that show nothing or look like a blank, beside control characters
_INVISIBLE = re.compile(
    r"[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164"
    r"\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_BLANKS = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
MAX_LABELS = 32
MAX_LANES = 16
MAX_REASON = 200  # characters
MAX_SOUGHT = 200  # characters of a text in any of them: MongoDB limits the length of a regular expression
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


def plain_name(name: str) -> str:
    """Return the name in the form in which new names are stored, so that no two robots look the same.

    Composed characters (NFC) replace letters with combining accents, and one plain blank each run of blanks.
    """
    return _BLANKS.sub(" ", name if name.isascii() else unicodedata.normalize("NFC", name))


def look(name: str) -> str:
    """Return a key that is the same for names that differ by nothing one sees, except perhaps by case."""
    return plain_name(_INVISIBLE.sub("", name)).strip().casefold()


def validate_name(name: str) -> None:
    """Refuse a name that cannot be one segment of a URL path, or that has characters which nobody sees."""
    if name != name.strip():
        raise ValidationError("A name has no blanks around it.", code="name_blanks")
    if "/" in name or CONTROL_CHARACTERS.search(name) or name in (".", ".."):
        raise ValidationError("A name has no '/' and no control characters, and is not '.' or '..'.", code="name")
    if found := _INVISIBLE.search(name):
        code = f"U+{ord(found[0]):04X}"
        raise ValidationError(f"A name has no invisible characters, but here is {code}.", code="name")


def validate_label(label: str) -> None:
    """Refuse a label that is empty, longer than 64 characters, or has blanks around it or control characters."""
    if not 1 <= len(label) <= 64 or label != label.strip() or CONTROL_CHARACTERS.search(label):
        raise ValidationError("A label is 1-64 characters, no control characters, no blanks around it.", code="label")


def validate_endpoint(url: str) -> None:
    """Refuse an endpoint that is not a plain http or https URL without credentials."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in parts.netloc or parts.fragment or CONTROL_CHARACTERS.search(url) or " " in url:
        raise ValidationError("An endpoint is an http or https URL, without user, password or fragment.", code="url")


class RobotQuerySet(QuerySet["Robot"]):
    def in_service(self) -> "RobotQuerySet":
        return self.filter(enabled=True)

    def out_of_service(self) -> "RobotQuerySet":
        return self.filter(enabled=False)

    def held(self) -> "RobotQuerySet":
        """Robots whose queue is held."""
        return self.filter(held_since__gt=EPOCH)

    def starting(self) -> "RobotQuerySet":
        """Robots that start tasks: in service, and their queue is not held."""
        return self.in_service().filter(held_since=None)

    def at(self, name: str, revisions: Collection[int] | None) -> "RobotQuerySet":
        """The robot, if it is at one of the revisions (None: at any)."""
        found = self.filter(pk=name)
        return found if revisions is None else found.filter(revision__in=revisions)

    def twins(self, name: str) -> "RobotQuerySet":
        """Robots whose names differ from this one by case only. Reads all names in the index."""
        return self.filter(name__iregex=rf"^{re.escape(name)}$").exclude(pk=name)

    def matching(
        self, *, label: str | None = None, q: str = "", online: bool | None = None, **exactly: object
    ) -> "RobotQuerySet":
        """Robots with this label, these field values, and the text `q` in name, location or description.

        `online`: those whose agent is online; or, if false, those with an agent that is offline.
        """
        found = self.filter(**exactly) if exactly else self  # most lists have no filter, and a copy is not cheap
        if online is not None:
            now = recent_now()
            states = RobotState.objects.online(now) if online else RobotState.objects.offline(now)
            found = found.filter(pk__in=list(states.order_by().values_list("pk", flat=True)))
        if label is not None:
            found = found.filter(labels__contains=[label])
        # no text has NUL, and MongoDB takes none in the regular expression of `icontains`
        if "\0" in q or len(q) > MAX_SOUGHT:
            return found.none()
        if q:
            found = found.filter(Q(name__icontains=q) | Q(location__icontains=q) | Q(description__icontains=q))
        return found


class Robot(models.Model):
    """A robot of the fleet. Its name is its key, so that objects which refer to it have its name without a join."""

    #: the only robots for which `is_great` may be true
    GREAT_ONES: ClassVar[frozenset[str]] = frozenset({"Bender"})

    name = models.CharField(primary_key=True, db_column="_id", max_length=64, validators=[validate_name])
    is_great = models.BooleanField(default=False)
    location = models.CharField(max_length=200)
    description = models.CharField(max_length=2000)
    enabled = models.BooleanField("in service", default=True, help_text="Out of service it keeps its queue and waits.")
    lanes = models.PositiveSmallIntegerField(
        default=1,
        validators=[MinValueValidator(1), MaxValueValidator(MAX_LANES)],
        help_text="Tasks it runs at the same time, 1-16.",
    )
    labels = ArrayField(models.CharField(max_length=64, validators=[validate_label]), default=list, blank=True)
    endpoint = models.CharField(
        max_length=2000,
        null=True,
        blank=True,
        validators=[validate_endpoint],
        help_text="The http or https URL where the robot itself answers; the handler `http` calls it.",
    )
    held_since = models.DateTimeField(
        null=True, editable=False, help_text="Since when its queue is held: it starts nothing. null: it is not held."
    )
    held_by = models.CharField(max_length=150, default="", editable=False, help_text="Who held its queue last.")
    held_why = models.CharField(max_length=MAX_REASON, default="", editable=False, help_text="Why, as that one said.")
    revision = models.PositiveIntegerField(default=1, editable=False, help_text="Grows with each change: the ETag.")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = RobotQuerySet.as_manager()

    class Meta:
        ordering = ("name",)
        indexes = [
            models.Index(fields=["location", "name"], name="robot_by_location"),  # GET /robot/?location=
            models.Index(fields=["enabled", "name"], name="robot_by_service"),  # ?enabled=, the sweeper
            models.Index(fields=["is_great", "name"], name="robot_by_greatness"),  # ?is_great=
            models.Index(fields=["labels", "name"], name="robot_by_label"),  # ?label=
            models.Index(fields=["held_since"], name="robot_by_hold", condition=Q(held_since__gt=EPOCH)),  # held
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def starts_tasks(self) -> bool:
        """Whether it starts tasks: it is in service, and its queue is not held."""
        return self.enabled and self.held_since is None

    @property
    def hold_in_words(self) -> str:
        """Who holds its queue and why: "held by amy (“The lift is being repaired”)"."""
        return f"held by {self.held_by}" + (f" (“{self.held_why}”)" if self.held_why else "")

    def clean(self) -> None:
        if self.is_great and self.name not in self.GREAT_ONES:
            raise ValidationError({"is_great": "Not possible"})
