"""The audit list: who did what to which object, and when. Services write it, so that every entry point does.

What FMV does by itself (claims, results, recoveries) and plain submits are in the task's own history instead.
"""

import datetime as dt
import logging
import time
from collections.abc import Mapping
from typing import Any

from django.db import DatabaseError
from django.db.models import QuerySet
from pymongo.errors import PyMongoError

from fmv.audit.models import AuditEntry
from fmv.http import request_id
from fmv.mongodb.documents import insert
from fmv.mongodb.server import recent_now
from fmv.mongodb.uuid7 import id_at, new_id

logger = logging.getLogger(__name__)

MAX_ON_PAGE = 50  # entries on an object's own page
DELETE_BATCH = 1000  # entries deleted at a time


def record(action: str, *, by: str, kind: str, key: object, text: str = "") -> None:
    """Store an entry, in one round trip. Call it after the action.

    Never raises, because an action that is done must not look refused. If the entry cannot be stored, it is logged.
    """
    record_all(action, by=by, kind=kind, texts={key: text})


def record_all(action: str, *, by: str, kind: str, texts: Mapping[Any, str]) -> None:
    """Store an entry for each key with its text, all in one round trip. Never raises."""
    entries = [
        AuditEntry(
            by=by[:150],
            action=action,
            kind=kind,
            key=str(key)[:150],
            text=text[:2000],
            request_id=request_id.current.get(),
        )
        for key, text in texts.items()
    ]
    try:
        for entry in entries:
            entry.id = new_id()
        insert(*entries)
    except (DatabaseError, PyMongoError) as error:
        for entry in entries:
            about = {name: getattr(entry, name) for name in ("by", "action", "kind", "key", "text")}
            about["at"] = entry.at.isoformat()
            logger.error("Not in the audit list, for %r: %s", error, about, extra=about)


def of(kind: str, key: object) -> QuerySet[AuditEntry]:
    """Return the latest entries about one object, newest first."""
    return AuditEntry.objects.filter(kind=kind, key=str(key)).order_by("-id")[:MAX_ON_PAGE]


def forget(days: float, until: float = float("inf")) -> int:
    """Delete entries that are more than `days` old (0: none); return how many were deleted.

    `until`: a time by `time.monotonic()`, when it stops after the step under way.
    """
    if not days:
        return 0
    old = AuditEntry.objects.filter(id__lt=id_at(recent_now() - dt.timedelta(days=days)))
    forgotten = 0
    while ids := list(old.order_by("id").values_list("pk", flat=True)[:DELETE_BATCH]):
        forgotten += AuditEntry.objects.filter(pk__in=ids).delete()[0]
        if time.monotonic() >= until:
            break
    return forgotten
