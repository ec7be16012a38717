"""One act on all tasks that match a filter, in small steps: cancel, retry, move.

A step is planned, carried out and counted, each in one conditional write of the run's document or in writes that can be
repeated. The plan names the tasks (for a retry: the whole new tasks, with their ids). So a process that finds the plan
after a crash, or at the same time as another, repeats the same writes and duplicates nothing. The outcome is read from
the tasks themselves, so it is counted correctly however often the step was carried out.

A retry's plan is to its tasks what a Submission is to those of a batch: both are put into the queue by
`submissions.store` and `doorbell.ring_for`.
"""

import datetime as dt
import random
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import bson

from fmv import audit
from fmv.errors import FmvError, InvalidInput
from fmv.http import request_id
from fmv.mongodb.expressions import Now
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import new_id
from robots.models import Robot
from tasks.models import FINISHED, UNFINISHED, WAITING, Bulk, Status, Task
from tasks.models.bulk import BulkStatus
from tasks.models.querysets import TaskQuerySet
from tasks.models.transitions import cancel_asked, moved_to
from tasks.queue import bulk_runs, submissions
from tasks.queue.doorbell import ring_all, ring_for, ring_for_bulks
from tasks.queue.errors import CannotMove, NothingToDo
from tasks.queue.new_task import new_task, options_of, repeat_of
from tasks.queue.targets import Targets
from tasks.queue.waiting import wake

STEP_SIZE = 200  # tasks of one step
MAX_PLAN_SIZE = 8 * 1024 * 1024  # bytes of BSON in a plan; MongoDB allows 16 MiB a document
MAX_ESTIMATE = 10_000  # tasks that an estimate counts at most
TIME_BUDGET = 1.0  # seconds that the periodic job works on runs each time; it runs every two seconds
CHOSEN_FIELDS = ("id", "request_id")  # of a run, to choose one: plans are large
MAX_FAILURES = 20  # skipped tasks for which a run keeps the reason

#: a step under way: {tasks, last, skipped, failures}, and of a move the `robots`, one for each task
Plan = dict[str, Any]

#: the statuses to which each action applies
APPLIES: dict[str, tuple[Status, ...]] = {"cancel": UNFINISHED, "retry": FINISHED, "move": WAITING, "run": ()}
MOMENTS = ("created_after", "created_before", "finished_after", "finished_before", "queued_before")


# --- Start and stop --------------------------------------------------------------------------------------------------


def start(
    action: str,
    *,
    by: str,
    conditions: Mapping[str, Any],
    why: str = "",
    to: str = "",
    label: str = "",
    again: bool = False,
    reason: str = "",
) -> Bulk:
    """Begin to cancel, retry or move the tasks that match and exist now; return the run.

    `conditions`: as `Task.objects.matching` takes them. `to`, `label`: where tasks move, see Targets. `again`: also
    retry tasks that were retried before. `why`: a text for the audit entry. `reason`: of a cancel, see
    `services.cancel`. The periodic job works on the run, unless the caller does so with `run`.

    Raises NothingToDo for a filter that no task can match; UnknownRobot, RobotOutOfService, CannotMove.
    """
    stored = storable(conditions)
    if not _statuses(action, stored):
        raise NothingToDo
    if action == "move":
        Targets(to=to, label=label).require()
    count, more = estimate(stored, action)
    options = {"to": to, "label": label, "again": again, "reason": reason}
    bulk = Bulk(
        id=new_id(),
        action=action,
        conditions=stored,
        options={name: value for name, value in options.items() if value},
        by=by,
        request_id=request_id.current.get(),
        expected=None if more else count,
        changed_at=server_now(),
    )
    bulk.save(force_insert=True)
    text = "; ".join(part for part in (in_words(bulk), why, reason) if part)
    audit.record("bulk.start", by=by, kind="bulk", key=bulk.pk, text=text)
    ring_for_bulks()
    return bulk


def stop(bulk: Bulk, *, by: str) -> bool:
    """Stop a run after the step under way. Returns False if it had ended already."""
    now = {"changed_at": Now(), "finished_at": Now()}
    stopped = bool(Bulk.objects.running().filter(pk=bulk.pk).advance(status=BulkStatus.STOPPED, **now))
    while step(bulk):
        pass
    if stopped:
        text = f"after {bulk.done} of the tasks it had found"
        audit.record("bulk.stop", by=by, kind="bulk", key=bulk.pk, text=text)
    return stopped


def how_many(count: int, more: bool = False) -> str:
    """Return an estimate in words: "1 task", "1,234 tasks", "more than 10,000 tasks"."""
    return f"{'more than ' if more else ''}{count:,} task{'' if count == 1 and not more else 's'}"


def estimate(conditions: Mapping[str, Any], action: str | None = None) -> tuple[int, bool]:
    """Return how many tasks match now and allow the action, at most MAX_ESTIMATE; and whether there are more."""
    count = int(_matching(action, storable(conditions)).up_to(MAX_ESTIMATE + 1))
    return min(count, MAX_ESTIMATE), count > MAX_ESTIMATE


def retried_before(conditions: Mapping[str, Any]) -> int:
    """Return how many of the finished tasks that match now were retried before, among the MAX_ESTIMATE newest."""
    newest = _matching("retry", storable(conditions)).newest_first().values_list("pk", flat=True)[:MAX_ESTIMATE]
    return len(Task.objects.already_retried(newest))


def storable(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """Return the conditions in a form that BSON can hold, without empty ones."""
    stored = {name: value for name, value in conditions.items() if value not in (None, "", False, (), [])}
    if "ids" in conditions and conditions["ids"] is not None:
        stored["ids"] = sorted(str(uuid.UUID(str(id))) for id in conditions["ids"])
    if "status" in stored:
        stored["status"] = [str(status) for status in stored["status"]]
    return stored


def in_words(bulk: Bulk) -> str:
    """Return what the run does to which tasks, as in "cancel tasks: status QUEUED, robot Wall-E"."""
    where = {"to": " to {}", "label": " to robots with the label {}"}
    to = "".join(text.format(bulk.options[name]) for name, text in where.items() if name in bulk.options)
    return f"{bulk.action} tasks{to}: {filter_in_words(bulk.conditions)}"


def filter_in_words(conditions: Mapping[str, Any]) -> str:
    """Return the conditions in words, as in "status QUEUED, robot Wall-E"."""
    said = {
        "status": lambda value: f"status {' or '.join(value)}",
        "stuck": lambda _: "stuck",
        "ids": lambda value: f"{len(value)} chosen one by one",
        "robots": lambda value: f"on {value:,} robot{'s' if value != 1 else ''}",
        "error": lambda value: f"error {value}",
        "requested_by": lambda value: f"requested by {value}",
        "request_id": lambda value: f"request id {value}",
        "queued_before": lambda value: f"waiting since before {_when(value)}",
        **{name: _moment_in_words(name) for name in MOMENTS[:4]},
    }
    words = [said[name](value) if name in said else f"{name} {value}" for name, value in conditions.items()]
    return ", ".join(words) or "all"


def _moment_in_words(name: str) -> Callable[[Any], str]:
    what, _, side = name.partition("_")
    return lambda value: f"{what} {'from' if side == 'after' else 'before'} {_when(value)}"


def _when(moment: dt.datetime) -> str:
    return f"{_aware(moment).astimezone(dt.UTC):%Y-%m-%d %H:%M:%S} UTC"


# --- Work ------------------------------------------------------------------------------------------------------------


def work_on_bulks(seconds: float = TIME_BUDGET) -> int:
    """Do steps of unfinished runs for about `seconds`; return how many steps."""
    steps, end = 0, time.monotonic() + seconds
    while time.monotonic() < end and (bulks := list(Bulk.objects.with_work().values(*CHOSEN_FIELDS)[:STEP_SIZE])):
        step(Bulk(**random.choice(bulks)))  # by chance, so that a run whose steps fail does not block the others
        steps += 1
    return steps


def run(bulk: Bulk, seconds: float = float("inf")) -> Bulk:
    """Work on the run in this process until it ends, or for about `seconds`; return it as it is then."""
    end = time.monotonic() + seconds
    while step(bulk) and time.monotonic() < end:
        pass
    return bulk


def step(bulk: Bulk) -> bool:
    """Do the next step of the run and refresh `bulk`. Returns False if the run has ended."""
    token = request_id.current.set(bulk.request_id)
    try:
        bulk.refresh_from_db()
        if not bulk.open or (bulk.plan is None and not _plan(bulk)):
            return False
        if bulk.plan is not None:
            _carry_out(bulk)
    except Bulk.DoesNotExist:  # deleted meanwhile, because it had ended
        return False
    finally:
        request_id.current.reset(token)
    return True


def _write(bulk: Bulk, **values: Any) -> bool:
    """Write to the run, unless another process has done so since it was read. `bulk` is refreshed either way."""
    written = bool(Bulk.objects.at(bulk).advance(**values, changed_at=Now()))
    bulk.refresh_from_db()
    return written


def _plan(bulk: Bulk) -> bool:
    """Store the plan of the next step. Returns False if nothing is left to do: then the run ends."""
    plan = ACTIONS[bulk.action].plan(bulk, _next(bulk)) if bulk.status == BulkStatus.RUNNING else None
    if plan is not None:
        _write(bulk, plan=plan)
        return True
    over = {"status": BulkStatus.DONE, "finished_at": Now()} if bulk.status == BulkStatus.RUNNING else {}
    _write(bulk, open=False, **over)
    return bulk.open


def _carry_out(bulk: Bulk) -> None:
    plan: Plan = bulk.plan or {}
    action = ACTIONS[bulk.action]
    action.do(bulk, plan)
    undone = action.undone(bulk, plan)
    failures = plan["failures"] + [{"task": id, "text": text} for id, text in undone.items()]
    done, skipped = len(plan["tasks"]) - len(undone), plan["skipped"] + len(undone)
    _write(
        bulk,
        plan=None,
        last=plan["last"],
        found=bulk.found + done + skipped,
        done=bulk.done + done,
        skipped=bulk.skipped + skipped,
        failures=(bulk.failures + failures)[:MAX_FAILURES],
    )


def _next(bulk: Bulk) -> TaskQuerySet:
    """Return the tasks of the next step, oldest first, among those that existed when the run began."""
    found = _matching(bulk.action, bulk.conditions).filter(id__lt=bulk.pk)
    return (found.filter(id__gt=bulk.last) if bulk.last else found).order_by("id")[:STEP_SIZE]


def _matching(action: str | None, conditions: Mapping[str, Any]) -> TaskQuerySet:
    moments = {name: _aware(conditions[name]) for name in MOMENTS if name in conditions}
    statuses = _statuses(action, conditions)
    if not statuses:
        return Task.objects.none()
    status = statuses if len(statuses) < len(Status) else ()
    return Task.objects.matching(**{**conditions, **moments, "status": status})


def _statuses(action: str | None, conditions: Mapping[str, Any]) -> list[str]:
    """Return the statuses that the conditions name (none: all statuses), if the action applies to them."""
    wanted = conditions.get("status") or tuple(Status)
    return [status.value for status in (APPLIES[action] if action else Status) if status in wanted]


def _aware(moment: dt.datetime) -> dt.datetime:
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment


# --- The actions -----------------------------------------------------------------------------------------------------


class Action(NamedTuple):
    #: returns the plan for these tasks; None if there are none
    plan: Callable[[Bulk, TaskQuerySet], Plan | None]
    #: carries the plan out; doing so again does no harm
    do: Callable[[Bulk, Plan], None]
    #: returns the tasks of the plan on which it was not carried out, each with the reason
    undone: Callable[[Bulk, Plan], dict[str, str]]


def plan_ids(bulk: Bulk, tasks: TaskQuerySet) -> Plan | None:
    ids = [str(id) for id in tasks.values_list("pk", flat=True)]
    return {"tasks": ids, "last": ids[-1], "skipped": 0, "failures": []} if ids else None


def _still_matching(bulk: Bulk, ids: list[str]) -> TaskQuerySet:
    """Return the planned tasks that still match: a task may have moved on since the plan was made."""
    return _matching(bulk.action, bulk.conditions).filter(pk__in=ids)


def cancel(bulk: Bulk, plan: Plan) -> None:
    tasks, note = _still_matching(bulk, plan["tasks"]), _cancel_note(bulk)
    while tasks.filter(cancel_requested=False).exists():  # a task may start, or be released, in between
        tasks.revoke(note)
        tasks.request_cancel(note)


def not_cancelled(bulk: Bulk, plan: Plan) -> dict[str, str]:
    note, reason = _cancel_note(bulk), "It had ended, was being cancelled already, or no longer matched"
    return dict.fromkeys(_without_note(plan["tasks"], lambda text: text == note), reason)


def _cancel_note(bulk: Bulk) -> str:
    return cancel_asked(_author(bulk), bulk.options.get("reason", ""))


def plan_moves(bulk: Bulk, tasks: TaskQuerySet) -> Plan | None:
    """Return the plan: the tasks and their new robots, and the reasons for skipping those that can run on none."""
    found = [Task(**values) for values in tasks.values("id", "robot", "handler", "runs_on", "priority")]
    targets = Targets(to=bulk.options.get("to", ""), label=bulk.options.get("label", ""))
    plan: Plan = {"tasks": [], "robots": [], "skipped": 0, "failures": []}
    for task in sorted(found, key=lambda task: -task.priority):  # so that each robot gets some of the urgent ones
        try:
            plan["robots"].append(targets.choose(task))
        except CannotMove as error:
            plan["skipped"] += 1
            plan["failures"].append({"task": str(task.pk), "text": str(error)})
        else:
            plan["tasks"].append(str(task.pk))
    return plan | {"last": str(found[-1].pk)} if found else None


def move(bulk: Bulk, plan: Plan) -> None:
    for robot in Robot.objects.filter(pk__in=set(plan["robots"])):
        ids = [id for id, name in zip(plan["tasks"], plan["robots"], strict=True) if name == robot.name]
        if _still_matching(bulk, ids).reassign(robot.name, _author(bulk)) and robot.starts_tasks:
            ring_all({robot.name: robot.lanes})
            wake(robot.name)


def not_moved(bulk: Bulk, plan: Plan) -> dict[str, str]:
    ends = {id: moved_to(name, _author(bulk)) for id, name in zip(plan["tasks"], plan["robots"], strict=True)}
    reason = "It had started, had ended, was there already, or no longer matched"
    return {id: reason for id, notes in _notes(ends).items() if not any(note.endswith(ends[id]) for note in notes)}


def _author(bulk: Bulk) -> str:
    return f"{bulk.by}, bulk run {bulk.pk}"


def _without_note(ids: Iterable[str], is_it: Callable[[str], bool]) -> list[str]:
    """Return the tasks that have no such line in their history."""
    return [id for id, notes in _notes(ids).items() if not any(map(is_it, notes))]


def _notes(ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the notes in the history of each of these tasks; none for one that was deleted."""
    histories = dict(Task.objects.filter(pk__in=list(ids)).values_list("pk", "history"))
    return {id: [line["note"] for line in histories.get(uuid.UUID(id), ())] for id in ids}


def plan_retries(bulk: Bulk, tasks: TaskQuerySet) -> Plan | None:
    """Return the plan: new tasks, as many as fit into one document, and the reasons for skipping old ones."""
    old = list(tasks.repeatable())
    robots = {robot.name: robot for robot in Robot.objects.filter(pk__in={task.robot for task in old})}
    retried = set() if bulk.options.get("again") else Task.objects.already_retried(task.pk for task in old)
    plan: Plan = {"tasks": [], "last": None, "skipped": 0, "failures": []}
    size = 0
    for task in old:
        try:
            new = _repeat(task, robots, retried, bulk.by).as_submitted()
        except FmvError as error:
            plan["skipped"] += 1
            plan["failures"].append({"task": str(task.pk), "text": str(error)})
        else:
            size += len(bson.encode(new))
            if plan["tasks"] and size > MAX_PLAN_SIZE:
                break
            plan["tasks"].append(new)
        plan["last"] = str(task.pk)
    return plan if old else None


def _repeat(task: Task, robots: Mapping[str, Robot], retried: set[uuid.UUID], by: str) -> Task:
    if task.pk in retried:
        raise NothingToDo("It was retried already")
    if task.robot not in robots:
        raise NothingToDo(f"The robot {task.robot} was deleted")
    try:
        return new_task(robots[task.robot], by=by, **options_of(repeat_of(task)))
    except InvalidInput as error:
        raise NothingToDo(f"It can no longer run: {error}") from None


def enqueue(bulk: Bulk, plan: Plan) -> None:
    tasks = [Task.submitted(values) for values in plan["tasks"]]
    submissions.store(tasks)
    ring_for(tasks)


ACTIONS = {
    "cancel": Action(plan_ids, cancel, not_cancelled),
    "move": Action(plan_moves, move, not_moved),
    "retry": Action(plan_retries, enqueue, lambda bulk, plan: {}),
    "run": Action(bulk_runs.plan, enqueue, lambda bulk, plan: {}),
}
