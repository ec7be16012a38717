"""Who did what, to which object, and when: left by the services, so that every door leaves it.

What the fleet does by itself (claims, results, recoveries) and a plain submit stand in the task's own history instead.
"""

import datetime as dt
import logging
from collections.abc import Mapping
from typing import Any

from django.db import DatabaseError
from django.db.models import QuerySet
from django.utils import timezone
from pymongo.errors import PyMongoError

from fmv.audit.models import AuditEntry
from fmv.http import request_id
from fmv.mongodb.documents import insert
from fmv.mongodb.uuid7 import id_at

logger = logging.getLogger(__name__)

SHOWN = 50  # entries on an object's own page
STEP = 1000  # entries deleted at a time


def record(action: str, *, by: str, kind: str, key: object, text: str = "") -> None:
    """Leave an entry: one round trip. Call it when the act is done.

    Never raises: an act that is done must not look refused. What cannot be stored is an error in the log, whole.
    """
    record_all(action, by=by, kind=kind, texts={key: text})


def record_all(action: str, *, by: str, kind: str, texts: Mapping[Any, str]) -> None:
    """Leave an entry for each key, with its text, as `record` does: one round trip for all."""
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
        insert(*entries)
    except (DatabaseError, PyMongoError) as error:
        for entry in entries:
            about = {name: getattr(entry, name) for name in ("by", "action", "kind", "key", "text")}
            about["at"] = entry.at.isoformat()
            logger.error("Not in the audit list, for %r: %s", error, about, extra=about)


def of(kind: str, key: object) -> QuerySet[AuditEntry]:
    """Return what was done to one object, newest first, the latest SHOWN."""
    return AuditEntry.objects.filter(kind=kind, key=str(key)).order_by("-id")[:SHOWN]


def forget(days: float) -> int:
    """Delete the entries that are more than `days` old (0: none); return how many."""
    if not days:
        return 0
    old = AuditEntry.objects.filter(id__lt=id_at(timezone.now() - dt.timedelta(days=days)))
    forgotten = 0
    while ids := list(old.order_by("id").values_list("pk", flat=True)[:STEP]):
        forgotten += AuditEntry.objects.filter(pk__in=ids).delete()[0]
    return forgotten
