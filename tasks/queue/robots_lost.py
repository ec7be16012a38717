"""Tasks that run on robots of which nothing is heard: what the recovery and operators do with them.

Silence does not mean that the robot stands still. So an attempt that was renewed at least once is not given to anybody
else at once, unless its handler says so (`on_lost`), and after a cancel that the robot does not confirm its lane stays
blocked.

A blocked lane is free when the agent has reported the end of that very attempt, or its process was started again: then
nothing of the attempt runs on the robot any more. A renewal or a claim proves neither.
"""

from __future__ import annotations

import datetime as dt
import enum
import logging
from typing import TYPE_CHECKING

from fmv import audit
from fmv.monitoring import counters
from robots.agents import Session, same_start, session_of
from tasks.models import Status, Task
from tasks.models.error_document import error_document, note_of
from tasks.models.robot_attempt import claim_lease_of, handler_of, is_unconfirmed
from tasks.models.transitions import HANDED_BACK, TIMEOUT_ASKED
from tasks.queue.cancels import cancel_of, timed_out
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
    TIME_OUT = "it runs longer than its timeout"  # the robot is asked to stop it


def judge(seen: Sight, now: float) -> Verdict | None:
    """Return what is to be done with a task of which the sweeper has seen this; None: nothing yet.

    Only the sweeper's own clock decides, because any other may jump.
    """
    handler = handler_of(seen.handler)
    silent = now - seen.lease_since
    if seen.cancel_since is not None and now - seen.cancel_since >= handler.cancel_grace:
        return Verdict.STOP
    if seen.is_unconfirmed:  # then its skill has not begun
        if silent < claim_lease_of(seen.handler):
            return None
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
    keeps_lane = status == Status.STARTED or (verdict is Verdict.STOP and has_begun(task))
    if verdict in (Verdict.RELEASE, Verdict.LOSE_CONTACT) or (verdict is Verdict.END and not task.out_of_contact_since):
        counters.count("agent_leases_lost")
    about = {"task_id": str(task.pk), "robot": task.robot, "status": status.value, "reason": verdict.value}
    logger.warning("Task %(task_id)s on robot %(robot)r: %(reason)s: %(status)s", about, extra=about)
    if not keeps_lane:
        ring_for_next(task.robot)
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
            return _stop(task)
        case Verdict.TIME_OUT:
            asked = task.request_cancel(f"{TIMEOUT_ASKED}ran longer than {task.timeout:g} s")
            return Status.STARTED if asked else None


def _patience(task: Task) -> float:
    handler = handler_of(task.handler)
    return handler.lease + (handler.lost_after if task.out_of_contact_since else 0)


def has_begun(task: Task) -> bool:
    """Return whether the robot may have begun the attempt: it does so once it has renewed the first lease."""
    return not is_unconfirmed(task.handler, task.started_at, task.lease_expires_at)


def _stop(task: Task) -> Status | None:
    """End a task whose robot has not confirmed its cancel. It keeps its lane, because the robot may run it still.

    FMV's own cancel, because of the timeout, ends it as FAILURE. Like all that have timed out it is not tried again.
    """
    if not has_begun(task):
        return Status.REVOKED if task.stop("not confirmed by the robot", if_unrenewed=True) else None
    note = "not confirmed by the robot, so its lane stays blocked"
    asked = cancel_of(task)
    if asked and asked.is_timeout:
        error = timed_out(task)
        ended = task.fail_unconfirmed(error, f"{note_of(error)}, {note}")
        return Status.FAILURE if ended else None
    return Status.REVOKED if task.stop_unconfirmed(note) else None


def waits_until(task: Task) -> dt.datetime | None:
    """Return until when FMV waits for the robot of a running task to be heard, or to confirm a cancel; None: it does
    not wait. The sweeper counts these seconds by its own clock, so it is about then.
    """
    if task.status != Status.STARTED or task.runs_on != "robot":
        return None
    handler = handler_of(task.handler)
    if task.cancel_requested_at:
        return task.cancel_requested_at + dt.timedelta(seconds=handler.cancel_grace)
    return task.out_of_contact_since and task.out_of_contact_since + dt.timedelta(seconds=handler.lost_after)


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


def end_restarted(task: Task) -> None:
    """End an attempt whose agent was started again. The outcome may still come, from the agent's disk.

    Nothing changes if it was renewed since the task was read, or if another session has it now.
    """
    error = error_document("AgentRestarted", "The agent was started again while the task ran")
    asked = cancel_of(task)
    if asked and asked.is_timeout:
        ended = task.fail(timed_out(task), if_unrenewed=True)
    elif asked:
        ended = task.stop("its agent was started again while it was being cancelled", if_unrenewed=True)
    elif not has_begun(task):
        note = f"{HANDED_BACK}its agent was started again before it had the task"
        ended = task.release(note, if_unrenewed=True)
        if ended:
            task.promote()
    elif task.attempts_left:
        delay = handler_of(task.handler).retry.delay(task.attempt - task.uncounted)
        ended = task.retry(error, delay=delay, if_unrenewed=True)
    else:
        ended = task.fail(error, if_unrenewed=True)
    if ended:
        about = task.pk, task.robot, task.attempt
        logger.warning("Task %s: the agent of robot %s was started again in attempt %d", *about)


def free_lanes_of_earlier_starts(session: Session) -> None:
    """Free the lanes that are blocked by attempts of earlier starts of the agent, unless this session has ended."""
    blocking = [task for task in Task.blocking(session.robot) if not same_start(task.session, session.id)]
    if blocking and (current := session_of(session.robot)) and current.id == session.id:
        for task in blocking:
            task.free_lane("its agent was started again: its lane is free")


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
    """Free the lane that a task keeps after its end because its robot has not confirmed that it stopped.

    For people who have seen that the robot stands still. Raises LaneNotBlocked.
    """
    if not task.free_lane(f"the robot stands still: lane freed by {by}"):
        raise LaneNotBlocked
    audit.record("task.free_lane", by=by, kind="task", key=task.pk, text=f"lane {task.lane}")
    ring_for_next(task.robot)
