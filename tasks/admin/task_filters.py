"""The filters of the admin's list of tasks: from the query string to the conditions of `Task.objects.matching`."""

import datetime as dt
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.http import QueryDict

from fmv import local_time
from fmv.admin_base import wrong_words
from fmv.errors import InvalidInput, Problem
from fmv.mongodb.uuid7 import time_of as time_of_id
from tasks.models import Bulk, Status

DAY, HOUR, SECOND = dt.timedelta(days=1), dt.timedelta(hours=1), dt.timedelta(seconds=1)

#: preset filters for operators: word -> (title, explanation)
PRESETS = {
    "stuck": (
        "Stuck",
        "Overdue for more than a minute: the lease has expired, a cancel is not done, or the time to run has passed",
    ),
    "failed": ("Failed in 24 h", "Failed in the last 24 hours"),
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
FINISHED = {"finished_after": "Finished after", "finished_before": "Finished before"}
MAX_TEXT_LENGTH = 150
NO_RUN = str(UUID(int=0))
#: the tasks among which an error is looked for, unless others are chosen: no index has errors, and these are few
FAILED = [Status.FAILURE.value, Status.RETRY.value]


@dataclass(frozen=True)
class TaskFilter:
    """The filter that a query string describes."""

    status: list[str] = field(default_factory=list)
    show: str = ""
    age: str = ""
    texts: dict[str, str] = field(default_factory=dict)
    #: of FINISHED: when the tasks ended
    times: dict[str, dt.datetime] = field(default_factory=dict)
    #: the bulk run that made the tasks
    run: UUID | None = None

    def __bool__(self) -> bool:
        return bool(self.status or self.show or self.age or self.texts or self.times or self.run)

    def conditions(self, now: dt.datetime) -> dict[str, Any]:
        """Return the arguments of `Task.objects.matching`."""
        failed = FAILED if "error" in self.texts and not self.show else []
        status = list(self.status or failed)
        asked: dict[str, Any] = {"status": status} if status else {}
        asked |= dict(self.texts) | _age(self.age, now) | self.times | _preset(self.show, now)
        return asked | (_made_by(self.run) if self.run else {})

    def query(self, **changed: Any) -> str:
        """Return the query string of this filter with some parameters changed; None and [] remove one."""
        times = {name: local_time.in_utc(moment) for name, moment in self.times.items()}
        words = {
            "status": self.status,
            "show": self.show,
            "age": self.age,
            "run": self.run,
            **self.texts,
            **times,
            **changed,
        }
        query = QueryDict(mutable=True)
        for name, value in words.items():
            if value:
                query.setlist(name, value if isinstance(value, list) else [str(value)])
        return query.urlencode()


def _age(age: str, now: dt.datetime) -> dict[str, Any]:
    spans = {"hour": HOUR, "day": DAY, "week": 7 * DAY}
    if age == "older":
        return {"created_before": now - 7 * DAY}
    return {"created_after": now - spans[age]} if age else {}


def _made_by(run: UUID) -> dict[str, Any]:
    """Return the conditions of the tasks that a bulk run made; without a task if it is not kept any more."""
    found = Bulk.objects.filter(pk=run).values("by", "request_id", "finished_at").first()
    if found is None:
        return {"ids": []}
    until = {"created_before": found["finished_at"] + SECOND} if found["finished_at"] else {}
    about = {"requested_by": found["by"], "request_id": found["request_id"]}
    return about | {"created_after": time_of_id(run)} | until


def _preset(show: str, now: dt.datetime) -> dict[str, Any]:
    """Return the conditions of a preset; its status replaces a chosen one."""
    match show:
        case "stuck":
            return {"stuck": True}
        case "failed":
            return {"status": [Status.FAILURE.value], "finished_after": now - DAY}
        case "waiting":
            return {"status": [Status.QUEUED.value], "queued_before": now - HOUR}
    return {}


def read(query: QueryDict, *others: str) -> TaskFilter:
    """Parse a query string, which may also have the parameters `others`.

    Raises InvalidInput for an unknown parameter, one given twice, or an invalid value: if it were ignored, an action on
    "all that match" would be on all tasks.
    """
    said = {name: query.get(name, "") for name in (*TEXTS, *_WORDS, *FINISHED, "run")}
    texts = {name: said[name].strip() for name in TEXTS if said[name].strip()}
    status = list(dict.fromkeys(status for status in query.getlist("status") if status))
    times, wrong_times = _times({name: said[name] for name in FINISHED if said[name].strip()})
    problems = [
        *wrong_words(query, *TEXTS, *_WORDS, *FINISHED, "run", *others, repeatable=("status", "id")),
        *wrong_times,
        *(
            []
            if uuid_or_none(said["run"] or NO_RUN)
            else [Problem(("query", "run"), "Run should be the id of a bulk run.")]
        ),
        *(_unknown("status", value, Status.values) for value in status if value not in Status.values),
        *(_unknown(name, said[name], known) for name, known in _WORDS.items() if said[name] not in ("", *known)),
        *(
            Problem(
                ("query", name), f"{TEXTS[name]} may have at most {MAX_TEXT_LENGTH} characters and no NUL character."
            )
            for name, text in texts.items()
            if len(text) > MAX_TEXT_LENGTH or "\0" in text
        ),
    ]
    if problems:
        raise InvalidInput(problems)
    show = said["show"]
    if show == "failed" and times:  # another span than the preset's
        show, status = "", [Status.FAILURE.value]
    return TaskFilter(status, show, said["age"], texts, times, uuid_or_none(said["run"]))


_WORDS = {"show": list(PRESETS), "age": list(AGES)}


def _unknown(name: str, value: str, known: list[str]) -> Problem:
    return Problem(("query", name), f"Unknown {name} {value[:50]!r}. Use one of: {', '.join(known)}.")


def _times(said: dict[str, str]) -> tuple[dict[str, dt.datetime], list[Problem]]:
    """Return the times, and what is wrong with the others."""
    times, problems = {}, []
    for name, text in said.items():
        try:
            times[name] = local_time.read(text)
        except local_time.WrongTime as error:
            problems.append(Problem(("query", name), f"{FINISHED[name]}: {error}"))
    return times, problems


def uuid_or_none(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
