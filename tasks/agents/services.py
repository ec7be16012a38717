"""What the agent of a robot does with the robot's tasks: claim, renew, log, finish, release.

An agent names the attempt, and its session. Each change is one conditional write that names both, so an agent that has
lost an attempt changes nothing.
"""

import logging
import math
from collections.abc import Callable
from typing import Any, NoReturn
from uuid import UUID

import robots.services
from fmv.escaping import shortened
from fmv.mongodb.uuid7 import new_id
from robots import agents
from robots.agents import Session
from robots.errors import SessionReplaced
from robots.models import Robot
from tasks.agents.answers import Held
from tasks.agents.errors import AlreadyReported, AttemptLost, LinesMissing
from tasks.models import LogLine, Status, Task
from tasks.models.error_document import encodable, error_document
from tasks.models.robot_attempt import RobotAttempt, attempts_held, claim_lease_of, handler_of, hold_of, lease_of
from tasks.models.task import LaneTaken
from tasks.models.transitions import HANDED_BACK
from tasks.queue.cancels import Cancel, cancel_of, timed_out
from tasks.queue.doorbell import ring_for_next
from tasks.queue.errors import UnknownTask
from tasks.queue.lanes import free_lanes, start_on_any
from tasks.queue.result import InvalidResult, storable
from tasks.queue.robots_lost import MAX_RELEASED, end_restarted, free_lanes_of_earlier_starts, has_begun

logger = logging.getLogger(__name__)

MAX_LOG_LINES = 10_000  # an attempt
MAX_LINE = 4000  # characters
TRIES = 10  # of a claim, while others are faster
WENT_ON = "its agent was started again and goes on"


# --- Sessions --------------------------------------------------------------------------------------------------------


def open_session(robot: str, **about: Any) -> tuple[Session, list[Held]]:
    """Open a session of the robot's agent, which ends the one before; return it with the attempts that it holds.

    An agent that still runs keeps its attempts. One that was started again keeps those that have begun and whose
    handler can go on; the others are tried again or fail. `about`: as robots.agents.open_session takes it. Raises
    UnknownRobot, and SessionReplaced if the agent opens another one meanwhile, which then has all attempts, or ended.
    """
    session = agents.open_session(robot, **about)
    held = attempts_held(robot)
    while others := [each for each in held if each[1].session != session.id]:
        # After the look, so that these are not a newer session's. What one takes from now on is not as it was found.
        _require_session(robot, session.id)
        for task, attempt in others:
            _take_over(task, attempt, session)
        held = attempts_held(robot)
    free_lanes_of_earlier_starts(session)  # now that none of them can begin to block one
    ring_for_next(robot)
    return session, [_held(task, resumed=_went_on(task)) for task, _ in held]


def _take_over(task: Task, attempt: RobotAttempt, session: Session) -> None:
    if agents.same_start(attempt.session, session.id):
        attempt.change_session(session.id, "kept by a new session of its agent")
    elif handler_of(task.handler).resume and task.handler in session.handlers and has_begun(task):
        attempt.change_session(session.id, WENT_ON)
    else:
        end_restarted(task)


def _went_on(task: Task) -> bool:
    return any((line["attempt"], line["note"]) == (task.attempt, WENT_ON) for line in task.history)


def _held(task: Task, *, resumed: bool = False) -> Held:
    lease = lease_of(task.handler)
    return Held(task, lease, hold_of(task.handler), resumed)


def _require_session(robot: str, session: str) -> Session:
    current = agents.session_of(robot)
    if current is None or current.id != session:
        raise SessionReplaced
    return current


# --- Claims ----------------------------------------------------------------------------------------------------------


def claim(robot: str, session: str, claim_id: UUID) -> Held | None:
    """Start the robot's next task, if it runs on the robot and a lane is free; the same claim again returns the same.

    None also while the robot is out of service or its queue is held, or if its agent does not know the handler: the
    tasks behind it wait, because a robot runs its tasks in order. Raises SessionReplaced.
    """
    current = _require_session(robot, session)
    taken: set[str] = set()
    for _ in range(TRIES):
        owner, task = _next_of(robot, current)
        # after that look: a task that the same claim, sent twice, has started since is found here, or is that one
        holding = Task.holding_lanes(robot)
        if mine := _claimed_before(holding, session, claim_id):
            return mine
        if owner is None or task is None:
            return None
        free = free_lanes(owner.name, owner.lanes, {each.lane for each in holding if each.lane})
        free = [lane for lane in free if lane not in taken]
        if not free:
            return None
        try:
            if _start(task, free, session, claim_id) and (held := _begun(task, session, alone=owner.lanes == 1)):
                if owner.lanes > 1:
                    ring_for_next(robot)  # it may run beside this one, on a worker that came before and has left
                return held
        except LaneTaken:
            taken.update(free)  # they are blocked, or another claim was faster, perhaps the same one
    return None  # others are faster; the agent asks again


def _begun(task: Task, session: str, *, alone: bool) -> Held | None:
    """Return the attempt that a claim has started; None if the same claim, sent twice, has started another task, too.

    `alone`: no other task can run beside it. Raises SessionReplaced.
    """
    mine = RobotAttempt(task.robot, task.pk, task.attempt, session)
    try:
        _require_session(task.robot, session)
    except SessionReplaced:  # a newer session has begun meanwhile, and may have looked at the held tasks before this
        mine.withdraw("another session of the agent has begun")
        ring_for_next(task.robot)
        raise
    same = Task.objects.started().of_robot(task.robot).filter(claim_id=task.claim_id, session=session)
    if not alone and same.exclude(pk=task.pk).exists():
        mine.withdraw("its claim came twice")  # perhaps both do so, and look again; never are both answered
        return None
    about = {"task_id": str(task.pk), "handler": task.handler, "robot": task.robot, "attempt": task.attempt}
    logger.info("Task %(task_id)s (%(handler)s) of robot %(robot)r: attempt %(attempt)d", about, extra=about)
    lease = claim_lease_of(task.handler)
    return Held(task, lease, lease)


def _claimed_before(holding: list[Task], session: str, claim_id: UUID) -> Held | None:
    for task in holding:
        if task.status == Status.STARTED and task.claim_id == claim_id and task.session == session:
            mine, first = RobotAttempt(task.robot, task.pk, task.attempt, session), claim_lease_of(task.handler)
            if mine.claim_again(first):
                return Held(task, first, first)
            if mine.renew({}) or mine.regain_contact({}):
                return _held(task)
    return None


def _next_of(robot: str, session: Session) -> tuple[Robot | None, Task | None]:
    """Return the robot, and its next task if the agent may start it. Tasks before it that are too late are revoked."""
    has_expired = False
    while True:
        owner, found = Task.look(robot)
        if owner is None or not owner.starts_tasks or not found:
            return owner, None
        if not found[0].expire():
            break
        has_expired = True
    if found[0].runs_on != "robot":
        if has_expired:
            ring_for_next(robot)
        return owner, None
    if found[0].handler not in session.handlers:
        logger.debug("Task %s waits: the agent of %s does not know %s", found[0].pk, robot, found[0].handler)
        return owner, None
    return owner, found[0]


def _start(task: Task, free: list[str], session: str, claim_id: UUID) -> bool:
    owner = {"worker": f"agent/{task.robot}", "message_id": "", "session": session, "claim_id": claim_id}
    return start_on_any(free, task, **owner, lease=claim_lease_of(task.handler), grace=math.inf) is not None


# --- While it runs ---------------------------------------------------------------------------------------------------


def renew(robot: str, id: UUID, session: str, attempt: int, report: dict[str, Any]) -> tuple[str, Cancel | None]:
    """Renew the lease of an attempt and store what it reports; return its handler, and the cancel that is asked for.

    `report`: progress, message and checkpoint, those that are new. A renewal that comes late is accepted while no
    later attempt has begun and the task is not over. An attempt that blocks a lane is asked to stop once more, so that
    its end is reported. Raises UnknownTask, AttemptLost, SessionReplaced.
    """
    mine = RobotAttempt(robot, id, attempt, session)
    renewed = mine.renew(report)
    if renewed is None:
        task = _get(robot, id)
        if not _is_blocking(task, mine):
            _require_regained(task, mine, report)
        return task.handler, cancel_of(task)
    cancelled = renewed["cancel_requested"]
    return renewed["handler"], cancel_of(_get(robot, id)) if cancelled else None


def _is_blocking(task: Task, mine: RobotAttempt) -> bool:
    """Return whether the task is over without a word of this attempt, which blocks its lane. Raises SessionReplaced."""
    if not task.is_finished or task.lane is None or task.attempt != mine.attempt:
        return False
    _require_session(task.robot, mine.session)
    return agents.same_start(task.session, mine.session)


def _require_regained(task: Task, mine: RobotAttempt, report: dict[str, Any]) -> None:
    """Make an attempt the robot's again that was silent for too long. Raises AttemptLost, SessionReplaced."""
    _require_held(task, mine)
    if task.status == Status.STARTED and (mine.renew(report) or mine.regain_contact(report)):
        return
    if task.status in (Status.RETRY, Status.QUEUED) and _is_unreported(task):
        mine = mine.late(task)
        owner = robots.services.get(task.robot)
        for lane in free_lanes(owner.name, owner.lanes, Task.lanes_taken(owner.name)):
            try:
                if mine.regain(lane, report):
                    return
            except LaneTaken:
                continue
    _refuse(task)


def _require_held(task: Task, mine: RobotAttempt) -> None:
    """Raise SessionReplaced or AttemptLost unless this is the task's last attempt, in the agent's present session."""
    _require_session(task.robot, mine.session)
    if (task.attempt, task.session) != (mine.attempt, mine.session) or task.is_finished:
        _refuse(task)


def _refuse(task: Task) -> NoReturn:
    outcome = None if _is_unreported(task) else (task.reported or {}).get("outcome")
    raise AttemptLost({"attempt": task.attempt, "outcome": outcome, "status": task.status})


def _is_unreported(task: Task) -> bool:
    return (task.reported or {}).get("attempt") != task.attempt


def _get(robot: str, id: UUID) -> Task:
    task = Task.objects.find(id)
    if task is None or task.robot != robot or task.runs_on != "robot":
        raise UnknownTask
    return task


def log(robot: str, id: UUID, session: str, attempt: int, first: int, lines: list[str]) -> int:
    """Store lines of the log of an attempt, of which `first` is the number of the first; return the next number.

    Lines that are stored already are dropped, and so are those beyond MAX_LOG_LINES. Raises LinesMissing, UnknownTask,
    AttemptLost, SessionReplaced.
    """
    task = _get(robot, id)
    if (task.attempt, task.session) != (attempt, session) or (task.is_finished and _is_unreported(task)):
        mine = RobotAttempt(robot, id, attempt, session)
        if not _is_blocking(task, mine):
            _require_held(task, mine)
            _refuse(task)
    stored = LogLine.objects.numbered(id, attempt)
    if first > stored and stored < MAX_LOG_LINES:
        raise LinesMissing(stored)
    new = lines[stored - first :][: max(0, MAX_LOG_LINES - stored)]
    rows = [
        LogLine(id=new_id(), task=id, attempt=attempt, number=stored + place, text=encodable(shortened(text, MAX_LINE)))
        for place, text in enumerate(new)
    ]
    LogLine.objects.store_once(rows)
    return max(stored, first + len(lines))


# --- Its end ---------------------------------------------------------------------------------------------------------


def finish(
    robot: str,
    id: UUID,
    session: str,
    attempt: int,
    outcome: str,
    *,
    result: Any = None,
    error: dict[str, str] | None = None,
    retryable: bool = True,
) -> Task:
    """Store how an attempt ended, and return the task. The same again returns the task as it is.

    It is accepted while no later attempt has begun and the task is not over, also in a session before the present one:
    an agent that was started again sends the outcomes that it had on its disk. Raises UnknownTask, AttemptLost,
    AlreadyReported, SessionReplaced.
    """

    def end(mine: RobotAttempt, task: Task) -> bool:
        return _finish(mine, task, outcome, result, error, retryable)

    return _report(robot, id, session, attempt, outcome, end)


def _report(
    robot: str, id: UUID, session: str, attempt: int, outcome: str, end: Callable[[RobotAttempt, Task], bool]
) -> Task:
    task = _get(robot, id)
    while not _is_reported(task, attempt, outcome):
        mine = _attempt_to_end(task, session, attempt, outcome)
        if mine.stop_late(outcome) if task.is_finished else end(mine, task):
            ring_for_next(robot)
            return _get(robot, id)
        before = task
        task = _get(robot, id)
        if _state(before) == _state(task):
            _refuse(task)
    return task


def _state(task: Task) -> Any:
    return task.status, task.attempt, task.session, task.cancel_requested, task.reported


def _is_reported(task: Task, attempt: int, outcome: str) -> bool:
    """Return whether this outcome of the attempt is stored. Raises AlreadyReported if another one is."""
    stored = task.reported or {}
    if stored.get("attempt") != attempt:
        return False
    if stored["outcome"] != outcome:
        raise AlreadyReported(stored | {"status": task.status})
    return True


def _attempt_to_end(task: Task, session: str, attempt: int, outcome: str) -> RobotAttempt:
    """Return the attempt of which an outcome was reported, if that can be stored; else raise AttemptLost.

    If the task is over and the attempt blocks its lane, that is free then, whatever the outcome, and only what confirms
    the cancel is stored.
    """
    if session != task.session:
        _require_session(task.robot, session)
    if task.attempt != attempt or (task.is_finished and task.lane is None):
        _refuse(task)
    if task.is_finished and outcome not in ("cancelled", "released"):
        if task.free_lane(f"{outcome} on the robot after its end: its lane is free"):
            ring_for_next(task.robot)
        _refuse(task)
    return RobotAttempt(task.robot, task.pk, attempt, task.session).late(task)


def _finish(
    mine: RobotAttempt, task: Task, outcome: str, result: Any, error: dict[str, str] | None, retryable: bool
) -> bool:
    if outcome == "succeeded":
        try:
            plain = storable(result)
            handler_of(task.handler).check_result(plain)
        except (InvalidResult, ValueError) as invalid:
            return mine.fail(error_document("InvalidResult", str(invalid)), outcome)
        return mine.succeed(plain)
    asked = cancel_of(task)
    if outcome == "cancelled" and asked:
        return _confirm_cancel(mine, task, asked)
    if outcome == "cancelled":
        error = {"type": "Cancelled", "message": "Cancelled by the robot"}
    given = error or {}
    failed = error_document(given.get("type") or "Error", given.get("message") or "")
    logger.info("Task %s: attempt %d failed on the robot: %s", task.pk, task.attempt, failed["message"])
    counted = task.attempt - task.uncounted + (mine.uncounted_with_it is not None)
    if not retryable or counted >= task.max_attempts or (asked and asked.is_timeout):
        return mine.fail(failed, outcome)
    delay = handler_of(task.handler).retry.delay(counted)
    return mine.retry(failed, delay, outcome) or (
        task.cancel_requested and mine.stop("cancelled instead of tried again", outcome)
    )


def _confirm_cancel(mine: RobotAttempt, task: Task, asked: Cancel, outcome: str = "cancelled") -> bool:
    if asked.is_timeout:
        return mine.fail(timed_out(task), outcome)
    return mine.stop("stopped, as asked", outcome)


def release(robot: str, id: UUID, session: str, attempt: int, reason: str, delay: float) -> Task:
    """Give an attempt back, which does not count, to be started again after `delay` seconds; return the task.

    After MAX_RELEASED such attempts the task fails. The same again returns the task as it is. Raises UnknownTask,
    AttemptLost, AlreadyReported, SessionReplaced.
    """
    return _report(robot, id, session, attempt, "released", lambda mine, task: _release(mine, task, reason, delay))


def _release(mine: RobotAttempt, task: Task, reason: str, delay: float) -> bool:
    if asked := cancel_of(task):
        return _confirm_cancel(mine, task, asked, "released")
    if task.uncounted >= MAX_RELEASED and mine.uncounted_with_it is None:
        often = error_document("ReleasedTooOften", f"{MAX_RELEASED} attempts were given back before. {reason}")
        return mine.fail(often, "released")
    released = mine.release(f"{HANDED_BACK}{reason}", delay)
    if released and delay <= 0 and mine.uncounted_with_it is None:
        task.promote()
    return released
