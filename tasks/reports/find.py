"""Find: the tasks, robots, handlers, requests, users and labels that a person means by a few characters.

Each question is bounded. The ends of ids are ranges of an index (tasks.reports.endings), the newest ids are read up to
a limit, and so are the names of robots and users, in the order of their keys: a part of a name has no index.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from fmv.accounts.models import User
from fmv.audit.models import AuditEntry
from fmv.mongodb.counting import collection
from fmv.mongodb.documents import documents
from robots.models import Robot, plain_name
from tasks import registry
from tasks.models import Bulk, EndingsUntil, Task, TaskEnding
from tasks.models.querysets import TaskQuerySet
from tasks.reports import endings
from tasks.reports.endings import ending_of
from tasks.reports.robot_status import slim

LISTED = 10  # hits of each group
MIN_ENDING = 6  # characters of the end of an id
MAX_LENGTH = 150  # characters of the text
MAX_NAMES = 10_000  # robots, and users, whose names are read
MAX_COUNTED = 1000  # audit entries of the requests that are found
READ_BATCH = 1000
NEWEST_TASKS = 20_000  # whose ids are read because their endings may not be stored yet: those of some seconds
NEWEST_ENTRIES = 2_000  # audit entries whose request ids are read for an end of one
AFTER_ALL = "\U0010ffff"  # follows all texts that begin with the one before it
HEX = re.compile("[0-9a-f]+")
TASK_FIELDS = ("id", "robot", "handler", "status", "requested_by", "request_id", "labels")


@dataclass(frozen=True)
class Hit:
    """A thing that was found."""

    kind: str  # task, bulk, robot, handler, request, user, requester, label
    key: Any  # of its page, or the value of the filter by which a list shows it
    title: str
    note: str = ""  # where else than in the title the text was found
    is_exact: bool = False
    task: Task | None = None


@dataclass(frozen=True)
class Group:
    title: str
    hits: list[Hit] = field(default_factory=list)
    more: int = 0  # further hits that are not listed; for tasks 1 means one or more


def find(text: str, *, with_users: bool) -> list[Group]:
    """Return the groups that have hits; a group with a hit that is exactly the text comes before the others.

    `text`: at most MAX_LENGTH characters count. `with_users`: also look for a part of the name of any user; without it
    users are found by their whole user names only.
    """
    text = text.strip()[:MAX_LENGTH].removeprefix("…").removeprefix("...").strip()
    if not text or "\0" in text:
        return []
    groups = [
        _tasks(text),
        _bulk_runs(text),
        _robots(text),
        _handlers(text),
        _requests(text),
        _users(text, with_users),
        _labels(text),
    ]
    found = [group for group in groups if group.hits]
    return sorted(found, key=lambda group: not any(hit.is_exact for hit in group.hits))


def _key(text: str) -> str:
    """Return what is the same for texts that differ by case only."""
    return plain_name(text).casefold()


def _digits(text: str) -> str:
    """Return the hexadecimal digits of which the text consists, "" if it has other characters than these and dashes."""
    digits = text.lower().replace("-", "")
    return digits if HEX.fullmatch(digits) and len(digits) <= 32 else ""


# --- Tasks and bulk runs ---------------------------------------------------------------------------------------------


def _tasks(text: str) -> Group:
    digits = _digits(text)
    if len(digits) < MIN_ENDING:
        return Group("Tasks")
    ids = [digits] if len(digits) == 32 else [*_noted(digits), *_newest(digits)]
    return _group_of("Tasks", ids, exact=len(digits) == 32)


def _group_of(title: str, ids: Iterable[str], *, exact: bool = False) -> Group:
    found: TaskQuerySet = Task.objects.filter(pk__in=[UUID(id) for id in dict.fromkeys(ids)]).newest_first()
    hits = [_task_hit(task, exact) for task in slim(found[: LISTED + 1], TASK_FIELDS)]
    return Group(title, hits[:LISTED], len(hits[LISTED:]))


def _task_hit(task: Task, exact: bool) -> Hit:
    return Hit("task", task.pk, task.handler, is_exact=exact, task=task)


def _noted(end: str) -> list[str]:
    """Return the ids with this end, LISTED + 1 at most, of the tasks whose endings are stored."""
    found = TaskEnding.objects.filter(**_range("pk", end)).order_by("pk")
    return [ending_of(id) for id in found.values_list("pk", flat=True)[: LISTED + 1]]


def _range(column: str, end: str) -> dict[str, str]:
    beginning = ending_of(end)
    return {f"{column}__gte": beginning, f"{column}__lt": beginning + AFTER_ALL}


def _newest(end: str) -> list[str]:
    """Return the ids with this end among the NEWEST_TASKS tasks that changed last and may not be noted yet."""
    return [row["_id"] for row in _ending_with(Task, "_id", end, NEWEST_TASKS, "changed_at", _unnoted())]


def _unnoted() -> dict[str, Any]:
    return endings.unnoted(EndingsUntil.objects.filter(pk=endings.NAME).first())


def _ending_with(
    model: Any, column: str, end: str, newest: int, order: str = "_id", criteria: Any = None
) -> list[dict[str, Any]]:
    """Return the column of those of the newest documents in which it has this end: LISTED + 1 at most."""
    return list(
        collection(model).aggregate(
            [
                *([{"$match": criteria}] if criteria else []),
                {"$sort": {order: -1}},
                {"$limit": newest},
                {"$project": {column: 1}},
                {"$match": {column: {"$regex": f"{re.escape(end)}$"}}},
                {"$limit": LISTED + 1},
            ]
        )
    )


def _bulk_runs(text: str) -> Group:
    digits = _digits(text)
    if len(digits) != 32:
        return Group("Bulk runs")
    found = Bulk.objects.filter(pk=UUID(digits)).values_list("pk", "action", "by")
    return Group("Bulk runs", [Hit("bulk", id, f"{action} by {by}", is_exact=True) for id, action, by in found])


# --- Robots and handlers ---------------------------------------------------------------------------------------------


def _robots(text: str) -> Group:
    sought = _key(text)
    names = documents(Robot, {}, limit=MAX_NAMES, batch_size=READ_BATCH, columns=["location", "labels"])
    ranked = sorted((rank, name, note) for robot in names for rank, name, note in _match(robot, sought))
    hits = [Hit("robot", name, name, note, is_exact=rank == 0) for rank, name, note in ranked[:LISTED]]
    return Group("Robots", hits, len(ranked[LISTED:]))


def _match(robot: dict[str, Any], sought: str) -> Iterator[tuple[int, str, str]]:
    """Yield how well the robot matches (0: best), its name, and what else than its name matches; nothing if none."""
    name, key = robot["_id"], _key(robot["_id"])
    label = next((each for each in robot.get("labels") or () if sought in _key(each)), None)
    location = robot.get("location") or ""
    if sought in key:
        yield (0 if sought == key else 1 if key.startswith(sought) else 2), name, ""
    elif label is not None:
        yield 3, name, f"label {label}"
    elif sought in _key(location):
        yield 4, name, f"at {location}"


def _handlers(text: str) -> Group:
    sought = text.casefold()
    names = [handler.name for handler in registry.all_handlers() if sought in handler.name.casefold()]
    hits = [Hit("handler", name, name, is_exact=name.casefold() == sought) for name in names]
    return Group("Handlers", hits[:LISTED], len(hits[LISTED:]))


# --- Requests, users, labels -----------------------------------------------------------------------------------------


def _requests(text: str) -> Group:
    """Return the tasks that a request submitted, and the request itself if it is in the audit list."""
    is_end = len(text) >= MIN_ENDING
    wanted = _range("request", text) if is_end else {"request": ending_of(text)}
    keys = TaskEnding.objects.filter(**wanted).order_by("request").values_list("pk", flat=True)[: LISTED + 1]
    tasks = _group_of("Requests", map(ending_of, keys))
    ids = {hit.task.request_id for hit in tasks.hits if hit.task} | {text}
    if is_end:
        ids |= {row["request_id"] for row in _ending_with(AuditEntry, "request_id", text, NEWEST_ENTRIES)}
    entries = AuditEntry.objects.filter(request_id__in=ids).order_by().values_list("request_id", flat=True)
    counts = dict.fromkeys(sorted(ids), 0)
    for id in entries[:MAX_COUNTED]:
        counts[id] += 1
    requests = [
        Hit("request", id, id, f"{count:,} audit entr{'y' if count == 1 else 'ies'}", is_exact=id == text)
        for id, count in counts.items()
        if count
    ]
    return Group("Requests", [*requests[:LISTED], *tasks.hits], tasks.more + len(requests[LISTED:]))


def _users(text: str, with_users: bool) -> Group:
    sought = text.casefold()
    people = User.objects.order_by("username").values_list("pk", "username", "name", "email")[:MAX_NAMES]
    hits = []
    for pk, username, name, email in people:
        is_exact = sought == username.casefold()
        if with_users and any(sought in each.casefold() for each in (username, name, email)):
            hits.append(Hit("user", pk, username, name, is_exact))
        elif is_exact:
            hits.append(Hit("requester", username, username, name, is_exact))
    if not any(hit.title == text for hit in hits) and _acted(text):  # a program, "command", or a user of long ago
        hits.append(Hit("requester", text, text, is_exact=True))
    hits.sort(key=lambda hit: not hit.is_exact)
    return Group("Users", hits[:LISTED], len(hits[LISTED:]))


def _acted(name: str) -> bool:
    asked = Task.objects.matching(requested_by=name).order_by()[:1]
    return bool(asked.exists() or AuditEntry.objects.filter(by=name).order_by()[:1].exists())


def _labels(text: str) -> Group:
    tasks = Task.objects.matching(label=text).order_by()[:1]
    return Group("Labels of tasks", [Hit("label", text, text, is_exact=True)] if tasks.exists() else [])


def is_behind() -> bool:
    """Return whether there may be tasks that no end of an id finds yet: more than NEWEST_TASKS wait to be noted."""
    return bool(collection(Task).find_one(_unnoted(), ["_id"], sort=[("changed_at", 1)], skip=NEWEST_TASKS))
