"""The lanes that tasks hold: of running tasks, and of those that are over, and whose robot has not confirmed it."""

import datetime as dt
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from fmv.mongodb.updates import aggregate
from tasks.models import Status, Task
from tasks.models.task import LANES, lane_criteria

MAX_HELD = 5000  # lanes that are read
COLUMNS = ("robot", "status", "handler", "started_at", "finished_at", "out_of_contact_since")


@dataclass(frozen=True)
class HeldLane:
    """A lane, by the task that holds it."""

    robot: str
    task: uuid.UUID
    handler: str
    status: str
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    out_of_contact_since: dt.datetime | None

    @property
    def is_blocked(self) -> bool:
        """Whether its task is over, and the robot has not confirmed that it stopped."""
        return self.status != Status.STARTED


def held_lanes(robots: Collection[str] | None = None) -> Iterator[HeldLane]:
    """Yield the lanes that tasks of these robots hold, or of all, at most MAX_HELD: one query.

    The index `task_lane` contains the tasks that hold a lane, and no others.
    """
    pipeline: list[dict[str, Any]] = [
        {"$match": lane_criteria({} if robots is None else {"$in": sorted(robots)})},
        {"$limit": MAX_HELD},
        {"$project": dict.fromkeys(COLUMNS, 1)},
    ]
    for row in aggregate(Task, pipeline, by=LANES):
        times = {name: _aware(row.get(name)) for name in ("started_at", "finished_at", "out_of_contact_since")}
        yield HeldLane(row["robot"], uuid.UUID(row["_id"]), row["handler"], row["status"], **times)


def _aware(time: dt.datetime | None) -> dt.datetime | None:
    return time.replace(tzinfo=dt.UTC) if time else None
