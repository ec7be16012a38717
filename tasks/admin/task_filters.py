"""What narrows the admin's list of tasks: the address's words, turned into the conditions of `narrowed`."""

import datetime as dt
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.http import QueryDict

from fmv.errors import InvalidInput, Problem
from tasks.models import Status

DAY, HOUR = dt.timedelta(days=1), dt.timedelta(hours=1)

#: what operators ask for: word -> (title, what it says)
QUESTIONS = {
    "stuck": ("Stuck", "Ought to have moved: lease run out, cancel not heeded or time come, over a minute ago"),
    "failed": ("Failed in 24 h", "Ended as FAILURE within the last 24 hours"),
    "waiting": ("Waiting over 1 h", "Queued for more than an hour"),
}
AGES = {"hour": "the last hour", "day": "the last 24 hours", "week": "the last 7 days", "older": "more than 7 days ago"}
TEXTS = {
    "robot": "Robot",
    "handler": "Handler",
    "label": "Label",
    "requested_by": "Requested by",
    "error": "Error type",
}
LONGEST = 150  # characters of such a text


@dataclass(frozen=True)
class TaskFilter:
    """What an address asks for, as it said it."""

    status: list[str] = field(default_factory=list)
    show: str = ""
    age: str = ""
    texts: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.status or self.show or self.age or self.texts)

    def conditions(self, now: dt.datetime) -> dict[str, Any]:
        """Return what `Task.objects.narrowed` takes."""
        asked = {"status": list(self.status)} if self.status else {}
        return asked | dict(self.texts) | _made(self.age, now) | _answer(self.show, now)

    def query(self, **changed: Any) -> str:
        """Return the query string that says the same but for what is changed; None and [] leave out."""
        words = {"status": self.status, "show": self.show, "age": self.age, **self.texts, **changed}
        query = QueryDict(mutable=True)
        for name, value in words.items():
            if value:
                query.setlist(name, value if isinstance(value, list) else [str(value)])
        return query.urlencode()


def _made(age: str, now: dt.datetime) -> dict[str, Any]:
    spans = {"hour": HOUR, "day": DAY, "week": 7 * DAY}
    if age == "older":
        return {"created_before": now - 7 * DAY}
    return {"created_after": now - spans[age]} if age else {}


def _answer(show: str, now: dt.datetime) -> dict[str, Any]:
    """The conditions of a question; its status replaces any other that was asked for."""
    match show:
        case "stuck":
            return {"stuck": True}
        case "failed":
            return {"status": [Status.FAILURE.value], "finished_after": now - DAY}
        case "waiting":
            return {"status": [Status.QUEUED.value], "queued_before": now - HOUR}
    return {}


def read(query: QueryDict) -> TaskFilter:
    """Return what the query string asks for; words it does not know are left alone.

    Raises InvalidInput for a value that nothing can have: showing all tasks instead would make an action on "all that
    match" one on all there are.
    """
    said = {name: query.get(name, "") for name in (*TEXTS, *_WORDS)}
    texts = {name: said[name].strip() for name in TEXTS if said[name].strip()}
    status = list(dict.fromkeys(status for status in query.getlist("status") if status))
    problems = [
        *(_unknown("status", value, Status.values) for value in status if value not in Status.values),
        *(_unknown(name, said[name], known) for name, known in _WORDS.items() if said[name] not in ("", *known)),
        *(
            Problem(("query", name), f"{TEXTS[name]} has at most {LONGEST} characters, none of them NUL.")
            for name, text in texts.items()
            if len(text) > LONGEST or "\0" in text
        ),
    ]
    if problems:
        raise InvalidInput(problems)
    return TaskFilter(status, said["show"], said["age"], texts)


_WORDS = {"show": list(QUESTIONS), "age": list(AGES)}


def _unknown(name: str, value: str, known: list[str]) -> Problem:
    return Problem(("query", name), f"There is no {name} {value[:50]!r}; there are: {', '.join(known)}.")


def uuid_or_none(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
