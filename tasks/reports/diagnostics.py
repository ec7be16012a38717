"""What the doctor looks at of the queue: messages, workers, beat, tasks that do not move."""

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

from amqp.exceptions import NotFound, PreconditionFailed
from django.conf import settings
from django.db.models import QuerySet
from django_celery_results.models import TaskResult
from kombu import Queue
from uuid_utils.compat import uuid7

from fmv.backup.dump import database
from fmv.mongodb.server import server_now
from fmv.monitoring.diagnostics import Check, Finding, error, fine, warning
from fmv.monitoring.servers import rabbitmq
from tasks.models import Bulk, LogLine, Submission, Task
from tasks.reports import queue_stats
from tasks.worker import heartbeat

QUEUES = ("work", "maintenance")
BEAT_LATE = 30.0  # seconds since the last maintenance run
BEAT_GONE = 300.0
WAITING_LONG = 3600.0  # seconds
LEFT_BEHIND = dt.timedelta(minutes=5)  # a submission not in the queue, a bulk run that has not moved
MOST = 1000  # tasks, submissions that are counted
PILE = 10_000  # messages


def checks() -> list[Check]:
    return [
        Check("queues", queues, needs="broker"),
        Check("workers", workers, needs="mongodb"),
        Check("beat", beat, needs="mongodb"),
        Check("tasks", tasks, needs="mongodb"),
        Check("submits", submits, needs="mongodb"),
        Check("queries", queries, needs="mongodb"),
        Check("retention", retention),
    ]


# --- Messages --------------------------------------------------------------------------------------------------------


def queues() -> Iterator[Finding]:
    """Whether the queues are there, of the right type, and read."""
    if settings.CELERY_BROKER_URL.startswith("mongodb"):
        yield fine("MongoDB carries the messages: it has no queues to look at.")
        return
    with rabbitmq() as connection:
        for queue in settings.CELERY_TASK_QUEUES:
            yield from _look_at(queue, connection)


def _look_at(queue: Queue, connection: Any) -> Iterator[Finding]:
    try:
        with connection.channel() as channel:
            found = channel.queue_declare(queue.name, passive=True)
    except NotFound:
        yield error(f"The queue {queue.name} is not there.", f"Start a worker: celery -A fmv worker -Q {queue.name}")
        return
    try:
        with connection.channel() as channel:  # it closes with the refusal
            channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=queue.queue_arguments)
    except PreconditionFailed as refusal:
        yield error(
            f"The queue {queue.name} is not of the type {settings.ENVIRONMENT.queue_type}: {refusal.reply_text}",
            f"Stop the workers, `rabbitmqctl delete_queue {queue.name}`, start them again. No task is lost by that.",
        )
        return
    text = f"{queue.name}: {found.message_count} messages, {found.consumer_count} workers read it."
    if not found.consumer_count:
        yield error(text, f"Start a worker: celery -A fmv worker -Q {queue.name}")
    else:
        yield warning(text, "Start more workers.") if found.message_count > PILE else fine(text)


# --- Workers and beat ------------------------------------------------------------------------------------------------


def workers() -> Iterator[Finding]:
    fleet = heartbeat.fleet()
    for queue in QUEUES:
        alive = [worker for worker in fleet.workers if queue in worker.process.queues]
        if alive:
            busy = sum(worker.task is not None for worker in alive)
            yield fine(f"{queue}: {len(alive)} processes are alive, {busy} of them run a task.")
        else:
            yield error(f"{queue}: nobody works.", f"Start a worker: celery -A fmv worker -Q {queue}")
    if fleet.lost:
        names = ", ".join(f"{process.name} ({process.seen_at:%F %T}Z)" for process in fleet.lost[:5])
        yield warning(
            f"{len(fleet.lost)} processes were lost within a day, at last: {names}.",
            "Their tasks were taken from them. See their machines' logs: out of memory?",
        )


def beat() -> Iterator[Finding]:
    """Whether the maintenance steps run: the latest is a second old at most, unless the worker has much to do."""
    hint = "Start one: celery -A fmv worker -Q maintenance -c 1 -B"
    last = TaskResult.objects.order_by("-date_done").values_list("date_done", flat=True).first()
    if last is None:
        yield error("No maintenance step ran within the last hour.", hint)
        return
    age = max(0.0, (server_now() - last).total_seconds())
    text = f"The last maintenance step ended {age:.0f} s ago."
    yield error(text, hint) if age > BEAT_GONE else warning(text, hint) if age > BEAT_LATE else fine(text)


# --- Tasks -----------------------------------------------------------------------------------------------------------


def tasks() -> Iterator[Finding]:
    """Whether any ought to have moved and did not, and how long they wait."""
    if count := Task.objects.stuck(server_now()).up_to(MOST):
        number = f"{count} or more" if count == MOST else str(count)
        hint = "The maintenance worker moves them: see what `workers` and `beat` say. `list_tasks --stuck` lists them."
        yield error(f"{number} tasks ought to have moved and did not.", hint)
    else:
        yield fine("None is stuck.")
    if not (waiting := queue_stats.longest_waiting()):
        yield fine("None waits for a robot in service.")
        return
    age = (server_now() - waiting.since).total_seconds()
    text = f"{waiting.robot}'s task {waiting.id} has waited longest: {dt.timedelta(seconds=round(max(0.0, age)))}."
    hint = "See what `workers` says, and whether the robot has much to do or a task that takes long."
    yield warning(text, hint) if age > WAITING_LONG else fine(text)


def submits() -> Iterator[Finding]:
    """Whether what was accepted together is in the queue, and bulk runs move."""
    limit = server_now() - LEFT_BEHIND
    hint = "The maintenance worker does that: see what `workers` and `beat` say."
    left = Submission.objects.left_behind(limit)[:MOST].count()
    halted = list(Bulk.objects.with_work().filter(changed_at__lt=limit).values_list("action", "id")[:MOST])
    if left:
        yield error(f"{left} accepted submits are not in the queue.", hint)
    if halted:
        named = ", ".join(f"{action} {id}" for action, id in halted[:5])
        yield error(f"{len(halted)} bulk runs stand still: {named}.", hint)
    if not left and not halted:
        yield fine("All that was accepted is in the queue, and no bulk run stands still.")


# --- Queries ---------------------------------------------------------------------------------------------------------


def hot_queries() -> dict[str, QuerySet[Any]]:
    """Return what is asked all day."""
    now, id = server_now(), uuid7()
    return {
        "a robot's next task": Task.objects.queued().of_robot("Bender").next_first()[:1],
        "the tasks of a robot": Task.objects.of_robot("Bender").newest_first()[:100],
        "the latest tasks": Task.objects.newest_first()[:100],
        "the tasks of a status": Task.objects.narrowed(status=["FAILURE"]).newest_first()[:100],
        "the tasks that are due": Task.objects.due(now).order_by()[:100],
        "the tasks of lost workers": Task.objects.lost(now).order_by()[:100],
        "what changed": Task.objects.changed_since(now).order_by()[:100],
        "a task's log": LogLine.objects.filter(task=id)[:100],
    }


def queries() -> Iterator[Finding]:
    """Whether MongoDB answers what is asked all day from an index, by its own plan."""
    if database().command("serverStatus").get("process") == "secantus":
        yield fine("The embedded server does not tell how MongoDB would answer.")
        return
    slow = {name: stages for name, query in hot_queries().items() if (stages := expensive(json.loads(query.explain())))}
    for name, stages in slow.items():
        yield warning(f"To find {name}, MongoDB does {' and '.join(sorted(stages))}.", "See what `indexes` says.")
    if not slow:
        yield fine("What is asked all day is answered from indexes.")


def expensive(plan: Any) -> set[str]:
    """Return which stages of an explained plan read or sort a whole collection."""
    if isinstance(plan, list):
        return {stage for part in plan for stage in expensive(part)}
    if not isinstance(plan, dict):
        return set()
    own = {plan["stage"]} & {"COLLSCAN", "SORT"} if isinstance(plan.get("stage"), str) else set()
    return own | {stage for name, part in plan.items() if name != "rejectedPlans" for stage in expensive(part)}


def retention() -> Iterator[Finding]:
    days = settings.FMV_RETENTION_DAYS
    if days:
        yield fine(f"Finished tasks are kept for {days:g} days.")
    else:
        yield fine("Finished tasks are kept for ever.", "FMV_RETENTION_DAYS, or `purge_tasks` by hand, makes room.")
