"""Selections of tasks in the words of the domain, and the transitions of many tasks."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from django.db.models import Q

from fmv.mongodb.expressions import Mql, literal
from fmv.mongodb.queryset import QuerySet
from fmv.mongodb.server import stored_now
from fmv.mongodb.uuid7 import id_at
from tasks.models.error_document import error_document, note_of
from tasks.models.status import EPOCH, FINISHED, UNFINISHED, WAITING, Status
from tasks.models.transitions import EXPIRED, apply, reassigned

if TYPE_CHECKING:
    from tasks.models import Task


#: what a repetition needs to know of the finished task
REPEATED_FIELDS = (
    "id", "robot", "handler", "params", "status", "priority", "labels", "timeout", "max_attempts", "attempt", "history",
)  # fmt: skip
#: the statuses of tasks that may have an error: a scheduled one never started, and a success leaves none
MAY_HAVE_FAILED = [status for status in Status if status not in (Status.SCHEDULED, Status.SUCCESS)]
STUCK_AFTER = dt.timedelta(minutes=1)  # for things that should happen within seconds


class TaskQuerySet(QuerySet["Task"]):
    # Selections.

    def of_robot(self, name: str) -> TaskQuerySet:
        return self.filter(robot=name)

    def queued(self) -> TaskQuerySet:
        return self.filter(status=Status.QUEUED)

    def started(self) -> TaskQuerySet:
        return self.filter(status=Status.STARTED)

    def waiting(self) -> TaskQuerySet:
        return self.filter(status__in=WAITING)

    def unfinished(self) -> TaskQuerySet:
        return self.filter(status__in=UNFINISHED)

    def finished(self) -> TaskQuerySet:
        return self.filter(status__in=FINISHED)

    def finished_since(self, moment: dt.datetime) -> TaskQuerySet:
        return self.filter(finished_at__gte=moment).order_by("finished_at")

    def finished_before(self, moment: dt.datetime) -> TaskQuerySet:
        return self.filter(finished_at__gte=EPOCH, finished_at__lt=moment)

    def without_lane(self) -> TaskQuerySet:
        """Tasks that hold no lane. A finished one that blocks a lane is not deleted before the lane is free."""
        return self.filter(lane=None)

    def due(self, now: dt.datetime) -> TaskQuerySet:
        """Scheduled and retrying tasks that are due, earliest first."""
        return self.waiting_for_time().filter(run_at__gt=EPOCH, run_at__lte=now).order_by("run_at")

    def waiting_for_time(self) -> TaskQuerySet:
        """Scheduled and retrying tasks, due or not."""
        return self.filter(status__in=(Status.SCHEDULED, Status.RETRY))

    def lost(self, now: dt.datetime) -> TaskQuerySet:
        """Started tasks whose lease has run out by MongoDB's clock. For people: a recovery watches the lease itself.

        Not those that wait for a robot out of contact, which the recovery has seen.
        """
        return self.started().filter(lease_expires_at__lt=now, out_of_contact_since=None)

    def out_of_contact(self) -> TaskQuerySet:
        """Started tasks whose robot is silent."""
        return self.started().exclude(out_of_contact_since=None)

    def run_by(self, worker: str, message_id: str) -> TaskQuerySet:
        """The started task that this process runs for this message. A message may reach two processes."""
        return self.started().filter(worker=worker, message_id=message_id)

    def run_by_any(self, workers: Iterable[str]) -> TaskQuerySet:
        """Started tasks that one of these processes runs."""
        return self.started().filter(worker__in=list(workers)).order_by()

    def failed(self) -> TaskQuerySet:
        """Tasks that ended as FAILURE, latest end first: a task submitted long ago may have failed just now."""
        return self.filter(status=Status.FAILURE).order_by("-finished_at")

    def ended(self) -> TaskQuerySet:
        """Finished tasks, latest first. Those of one robot are found by the index `task_ended`."""
        return self.filter(finished_at__gt=EPOCH).order_by("-finished_at")

    def overdue(self, now: dt.datetime, status: Status) -> TaskQuerySet:
        """Tasks of this status, SCHEDULED or QUEUED, that did not start by their `expires_at`."""
        return self.filter(status=status, attempt=0, expires_at__gt=EPOCH, expires_at__lte=now)

    def matching(
        self,
        *,
        status: Sequence[str] = (),
        label: str | None = None,
        created_after: dt.datetime | None = None,
        created_before: dt.datetime | None = None,
        finished_after: dt.datetime | None = None,
        finished_before: dt.datetime | None = None,
        queued_before: dt.datetime | None = None,
        stuck: bool = False,
        error: str | None = None,
        ids: Collection[Any] | None = None,
        **exactly: str,
    ) -> TaskQuerySet:
        """Tasks that meet all the conditions given.

        `status`: one of these. `label`: among the labels. `..._after` is inclusive, `..._before` exclusive.
        `queued_before`: queued, and waiting since before that time. `stuck`: see there. `error`: the type of the error
        of the last failed attempt; no index has it, so MongoDB reads all tasks of the statuses given that may have one.
        `exactly`: values of fields (robot, handler, requested_by).
        """
        wanted = list(status) or None
        if error:
            wanted = [each for each in wanted or MAY_HAVE_FAILED if each in MAY_HAVE_FAILED]
        conditions: dict[str, Any] = {
            "status__in": wanted,
            "labels__contains": None if label is None else [label],
            "id__gte": created_after and id_at(created_after),
            "id__lt": created_before and id_at(created_before),
            "finished_at__gte": finished_after or (finished_before and EPOCH),
            "finished_at__lt": finished_before,
            "error__type": error,
            "pk__in": None if ids is None else list(ids),
        }
        found = self.filter(**{key: value for key, value in conditions.items() if value is not None}, **exactly)
        found = found.queued_before(queued_before) if queued_before else found
        return found.stuck(stored_now()) if stuck else found

    def stuck(self, now: dt.datetime) -> TaskQuerySet:
        """Tasks that should have moved: their lease has run out; or for STUCK_AFTER they have been due, or no worker
        has reacted to their cancel request.

        Started tasks are few, so the conditions on them need no index; due tasks are a range of `task_due`.
        """
        late = now - STUCK_AFTER
        unanswered = Q(cancel_requested=True, changed_at__lt=late)  # the request was the last change
        silent = Q(lease_expires_at__lt=now, out_of_contact_since=None)
        started = Q(status=Status.STARTED) & (silent | unanswered)
        due = Q(status__in=(Status.SCHEDULED, Status.RETRY), run_at__gt=EPOCH, run_at__lt=late)
        return self.filter(started | due)

    def queued_before(self, moment: dt.datetime) -> TaskQuerySet:
        """Queued tasks that have waited for their robot since before `moment`.

        The index `task_by_status` finds those created before; few of these were scheduled for later than `moment`.
        """
        return self.queued().filter(Q(run_at=None) | Q(run_at__lt=moment), id__lt=id_at(moment))

    def changed_since(self, moment: dt.datetime) -> TaskQuerySet:
        """Tasks whose history or report has changed since then."""
        return self.filter(changed_at__gte=moment)

    def latest_changes_first(self) -> TaskQuerySet:
        return self.order_by("-changed_at")

    def newest_first(self) -> TaskQuerySet:
        return self.order_by("-id")

    def next_first(self) -> TaskQuerySet:
        """The order in which a robot takes its tasks: priority, then age."""
        return self.order_by("-priority", "id")

    # Values.

    def longest_queued(self) -> tuple[TaskQuerySet, TaskQuerySet]:
        """Queued tasks that were never scheduled, and those that were; each longest queued first."""
        queued = self.queued()
        return queued.filter(run_at=None).order_by("id"), queued.filter(run_at__gt=EPOCH).order_by("run_at")

    def robots_waiting(self) -> list[str]:
        """Return the names of the robots that have queued tasks. MongoDB reads one index key for each robot."""
        return list(self.queued().order_by().values_list("robot", flat=True).distinct())

    def robots_queued(self, robots: Collection[str]) -> set[str]:
        """Return those of these robots that have queued tasks."""
        return set(self.queued().filter(robot__in=robots).order_by().values_list("robot", flat=True).distinct())

    def next_runs_on(self, robot: str) -> str | None:
        """Return where the robot's next task runs; None if it has no queued task."""
        head = self.queued().of_robot(robot).next_first()
        found: str | None = head.values_list("runs_on", flat=True).first()
        return found

    def robots_served(self, robots: Collection[str], before: uuid.UUID) -> set[str]:
        """Return those of these robots that have a queued or started task older than `before`."""
        found: set[str] = set()
        for status in (Status.QUEUED, Status.STARTED):  # the embedded server would read every task for both at once
            older = self.filter(status=status, robot__in=robots, id__lt=before)
            found.update(older.order_by().values_list("robot", flat=True).distinct())
        return found

    def running_on(self, robots: Collection[str]) -> dict[str, set[uuid.UUID]]:
        """Return the ids of the tasks that each of these robots runs; nothing for a robot that runs none."""
        found: dict[str, set[uuid.UUID]] = {}
        for robot, id in self.started().filter(robot__in=robots).order_by().values_list("robot", "pk"):
            found.setdefault(robot, set()).add(id)
        return found

    def up_to(self, limit: int) -> int:
        """Return the number of tasks, at most `limit`."""
        return self.order_by()[:limit].count()

    def already_retried(self, ids: Iterable[uuid.UUID]) -> set[uuid.UUID]:
        """Return those of these finished tasks that another task repeats."""
        repeats = self.filter(retry_of__in=list(ids)).order_by()
        return {id for id in repeats.values_list("retry_of", flat=True) if id}

    def repeatable(self) -> Iterator[Task]:
        """Yield these tasks with the REPEATED_FIELDS only: results may be large."""
        for values in self.values(*REPEATED_FIELDS):
            yield self.model(**values)

    # Transitions of many tasks; of one, see Task. Each returns how many tasks there were.

    def _apply(self, transition: str, note: str | Mql = "", **given: Mql) -> int:
        return apply(self.model, self.criteria(), transition, note, **given)

    def promote(self, now: dt.datetime) -> int:
        return self.due(now)._apply("promote", "due")

    def expire(self, now: dt.datetime) -> int:
        # one range of the index for each: with both at once, some servers read all tasks of both
        return sum(self.overdue(now, status)._apply("expire", EXPIRED) for status in (Status.SCHEDULED, Status.QUEUED))

    def fail_orphans(self) -> int:
        """End the tasks that wait for a robot that is gone."""
        error = error_document("RobotGone", "The robot was deleted")
        return self._apply("fail_orphan", note_of(error), error=literal(error))

    def revoke(self, note: str) -> int:
        """Cancel those that wait for their (next) start."""
        return self._apply("revoke", note)

    def request_cancel(self, note: str) -> int:
        """Ask the workers of running tasks to stop them, unless they were asked before."""
        return self._apply("request_cancel", note)

    def reassign(self, robot: str, by: str) -> int:
        """Move waiting tasks to another robot."""
        return self.exclude(robot=robot)._apply("reassign", reassigned(robot, by), robot=literal(robot))
