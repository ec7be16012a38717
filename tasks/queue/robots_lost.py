"""Tasks that run on robots of which nothing is heard: what the recovery and operators do with them.

Silence does not mean that the robot stands still. So an attempt that was renewed at least once is not given to anybody
else at once, unless its handler says so (`on_lost`), and after a cancel that the robot does not confirm its lane stays
blocked until its agent has spoken again.
"""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING

from fmv import audit
from fmv.monitoring import counters
from tasks.models import Status, Task
from tasks.models.error_document import error_document
from tasks.models.robot_attempt import claim_lease_of, handler_of
from tasks.models.transitions import HANDED_BACK, TIMEOUT_ASKED
from tasks.queue.doorbell import ring_for_next
from tasks.queue.errors import LaneNotBlocked, NotOutOfContact

if TYPE_CHECKING:
    from tasks.queue.periodic import Sight

logger = logging.getLogger(__name__)

TIMEOUT_GRACE = 10.0  # seconds that an agent may take longer than the timeout, which it keeps itself
MAX_RELEASED = 10  # attempts of a task that do not count because an agent gave them back, or never had them


class Verdict(enum.Enum):
    """What is to be done with a task that runs on a robot."""

    RELEASE = "the robot has not confirmed that it has the task"
    LOSE_CONTACT = "its lease has run out"
    END = "it was silent for too long"
    STOP = "a cancel was not confirmed"
    TIME_OUT = "it runs longer than its timeout"


def judge(seen: Sight, now: float) -> Verdict | None:
    """Return what is to be done with a task of which the sweeper has seen this; None: nothing yet.

    Only the sweeper's own clock decides, because any other may jump.
    """
    handler = handler_of(seen.handler)
    silent = now - seen.lease_since
    if seen.cancel_since is not None and now - seen.cancel_since >= handler.cancel_grace:
        return Verdict.STOP
    if seen.is_unconfirmed and silent >= claim_lease_of(seen.handler):
        return Verdict.RELEASE if seen.cancel_since is None else Verdict.STOP
    if silent >= handler.lease and not seen.is_out_of_contact:
        waits = handler.on_lost == "wait" or seen.cancel_since is not None
        return Verdict.LOSE_CONTACT if waits else Verdict.END
    if seen.cancel_since is not None:
        return None
    if seen.is_out_of_contact:
        return Verdict.END if silent >= handler.lease + handler.lost_after else None
    return Verdict.TIME_OUT if now - seen.attempt_since >= seen.timeout + TIMEOUT_GRACE else None


def recover(task: Task, verdict: Verdict) -> Status | None:
    """Do with a task what the sweeper has decided; return its new status, None if nothing has changed.

    Nothing changes if its robot was heard meanwhile.
    """
    status = _act(task, verdict)
    if status is None:
        return None
    if verdict in (Verdict.RELEASE, Verdict.LOSE_CONTACT) or (verdict is Verdict.END and not task.out_of_contact_since):
        counters.count("agent_leases_lost")
    about = {"task_id": str(task.pk), "robot": task.robot, "status": status.value, "reason": verdict.value}
    logger.warning("Task %(task_id)s on robot %(robot)r: %(reason)s: %(status)s", about, extra=about)
    if status not in (Status.STARTED, Status.REVOKED):
        ring_for_next(task.robot)  # its lane is free
    return status


def _act(task: Task, verdict: Verdict) -> Status | None:
    match verdict:
        case Verdict.RELEASE:
            return _release(task)
        case Verdict.LOSE_CONTACT:
            return Status.STARTED if task.lose_contact() else None
        case Verdict.END:
            return _end(task, f"The robot was silent for more than {_patience(task):g} s")
        case Verdict.STOP:
            return (
                Status.REVOKED
                if task.stop_unconfirmed("not confirmed by the robot, so its lane stays blocked")
                else None
            )
        case Verdict.TIME_OUT:
            asked = task.request_cancel(f"{TIMEOUT_ASKED}ran longer than {task.timeout:g} s")
            return Status.STARTED if asked else None


def _patience(task: Task) -> float:
    handler = handler_of(task.handler)
    return handler.lease + (handler.lost_after if task.out_of_contact_since else 0)


def _release(task: Task) -> Status | None:
    """Give back an attempt that was never renewed: its robot probably never got it."""
    if task.uncounted >= MAX_RELEASED:
        error = error_document("ReleasedTooOften", f"{MAX_RELEASED} attempts were given back or never confirmed")
        return Status.FAILURE if task.fail(error, if_unrenewed=True) else None
    note = f"{HANDED_BACK}the robot has not confirmed that it has the task"
    if not task.release(note, if_unrenewed=True):
        return None
    task.promote()
    return Status.RETRY


def _end(task: Task, why: str) -> Status | None:
    """End the attempt by the policy of its handler."""
    handler, error = handler_of(task.handler), error_document("AgentLost", why)
    if task.attempts_left and handler.on_lost != "fail":
        delay = handler.retry.delay(task.attempt - task.uncounted)
        return Status.RETRY if task.retry(error, delay=delay, if_unrenewed=True) else None
    return Status.FAILURE if task.fail(error, if_unrenewed=True) else None


def end_silent(task: Task, *, by: str) -> Status:
    """End the attempt of a robot that is out of contact at once; it is tried again or fails by the policy.

    Raises NotOutOfContact, also if the robot is heard meanwhile.
    """
    status = None
    if task.out_of_contact_since and task.status == Status.STARTED and not task.cancel_requested:
        status = _end(task, f"The robot was out of contact, and {by} did not wait longer")
    if status is None:
        raise NotOutOfContact
    audit.record("task.end", by=by, kind="task", key=task.pk, text=f"its robot was out of contact; it is {status}")
    ring_for_next(task.robot)
    return status


def free_lane(task: Task, *, by: str) -> None:
    """Free the lane that a revoked task keeps because its robot has not confirmed that it stopped.

    For people who have seen that the robot stands still. Raises LaneNotBlocked.
    """
    if not task.free_lane(f"the robot stands still: lane freed by {by}"):
        raise LaneNotBlocked
    audit.record("task.free_lane", by=by, kind="task", key=task.pk, text=f"lane {task.lane}")
    ring_for_next(task.robot)


def free_lanes_of(robot: str, note: str = "the robot was heard: its lane is free") -> bool:
    """Free the lanes that revoked tasks of the robot keep; return whether there were any."""
    freed = [task.free_lane(note) for task in Task.objects.blocking().of_robot(robot)]
    return any(freed)
