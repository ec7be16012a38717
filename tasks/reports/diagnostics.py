"""The checks of `manage.py doctor` that concern the queue: messages, workers, beat, stuck tasks."""

import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

from amqp.exceptions import NotFound, PreconditionFailed
from django.conf import settings
from django.core.checks import CheckMessage, Error, Info
from django.core.checks import Warning as Warn
from django.db.models import QuerySet
from django_celery_results.models import TaskResult
from kombu import Queue
from uuid_utils.compat import uuid7

from fmv.celery import app
from fmv.mongodb.server import server_now
from fmv.monitoring.diagnostics import Check
from fmv.monitoring.servers import ask_mongodb, rabbitmq
from fmv.templatetags.display import many
from robots import connections
from robots.models import Robot, look
from tasks.models import Bulk, LogLine, Submission, Task, WorkerProcess
from tasks.reports import queue_stats
from tasks.reports.attention import sources
from tasks.reports.fleet import current_fleet

QUEUES = ("work", "maintenance")
BEAT_WARNING = (
    90.0  # seconds since the last maintenance run that was stored; of a step that finds nothing one a minute is
)
BEAT_ERROR = 300.0
PROGRESS_TIMEOUT = dt.timedelta(minutes=5)  # for a submission to reach the queue, for a bulk run to make a step
MAX_COUNTED = 1000  # submissions, bulk runs
MAX_SHOWN_LINES = 5  # of what needs attention, of a kind
MAX_SHOWN_NAMES = 5  # pairs
MESSAGES_WARNING = 10_000  # in one queue


# --- Messages --------------------------------------------------------------------------------------------------------


def queues() -> Iterator[CheckMessage]:
    """Check that each queue exists, has the type of FMV_QUEUE_TYPE, and has consumers."""
    if not app.conf.broker_url.startswith("amqp"):
        yield Info("Valkey carries the messages: it has no queues to check.")
        return
    with rabbitmq() as connection:
        for queue in settings.CELERY_TASK_QUEUES:
            yield from _check_queue(queue, connection)


def _check_queue(queue: Queue, connection: Any) -> Iterator[CheckMessage]:
    try:
        with connection.channel() as channel:
            found = channel.queue_declare(queue.name, passive=True)
    except NotFound:
        yield Error(f"The queue {queue.name} does not exist.", f"Start a worker: celery -A fmv worker -Q {queue.name}")
        return
    try:
        with connection.channel() as channel:  # a refusal closes it
            channel.queue_declare(queue.name, durable=True, auto_delete=False, arguments=queue.queue_arguments)
    except PreconditionFailed as refusal:
        yield Error(
            f"The queue {queue.name} is not of the type {settings.ENVIRONMENT.queue_type}: {refusal.reply_text}",
            f"Stop the workers, run `rabbitmqctl delete_queue {queue.name}`, start the workers. This loses no task.",
        )
        return
    text = f"{queue.name}: {many(found.message_count, 'message')}, {many(found.consumer_count, 'worker')}."
    if not found.consumer_count:
        yield Error(text, f"Start a worker: celery -A fmv worker -Q {queue.name}")
    else:
        yield Warn(text, "Start more workers.") if found.message_count > MESSAGES_WARNING else Info(text)


# --- Workers and beat ------------------------------------------------------------------------------------------------


def attention(check: str) -> Iterator[CheckMessage]:
    """Yield what needs a person, of the sources that belong to this check."""
    for found in sources.found(MAX_SHOWN_LINES, [each for each in sources.SOURCES if each.check == check]):
        for line in found.lines:
            kind = Error if line.is_error else Warn
            yield kind(line.sentence, line.hint or found.source.hint)
        if found.more:
            number = f"{found.more} or more" if found.more == sources.MAX_COUNTED else str(found.more)
            yield Warn(f"{found.source.title}: and {number} more.", found.source.hint)


def workers() -> Iterator[CheckMessage]:
    fleet = current_fleet()
    for queue in QUEUES:
        alive = [worker for worker in fleet.workers if queue in worker.process.queues]
        if alive:
            busy = sum(worker.task is not None for worker in alive)
            yield Info(f"{queue}: processes that are alive: {len(alive)}; of them busy: {busy}.")
    yield from attention("workers")


def handlers() -> Iterator[CheckMessage]:
    """Check that workers know the handlers of the queued tasks, and the versions of their parameters."""
    if not WorkerProcess.objects.known_handlers(server_now()):
        yield Info("No worker is alive that knows a handler: see `workers`.")
        return
    unknown = list(attention("handlers"))
    yield from unknown or [Info("Workers know the handlers of all queued tasks.")]


def agents() -> Iterator[CheckMessage]:
    """Check that robots and their agents need nobody; and report how many agents are online."""
    yield from attention("agents")
    number = connections.counts()
    yield Info(f"Robots that are online: {number['online']}; that had an agent and are offline: {number['offline']}.")


def beat() -> Iterator[CheckMessage]:
    """Check that maintenance steps run: the latest stored one is at most a minute old, unless the worker is busy."""
    hint = "Start one: celery -A fmv worker -Q maintenance -c 1 -B"
    last = TaskResult.objects.order_by("-date_done").values_list("date_done", flat=True).first()
    if last is None:
        yield Error("No maintenance step ran within the last hour.", hint)
        return
    age = max(0.0, (server_now() - last).total_seconds())
    text = f"The last maintenance step ended {age:.0f} s ago."
    yield Error(text, hint) if age > BEAT_ERROR else Warn(text, hint) if age > BEAT_WARNING else Info(text)


# --- Tasks -----------------------------------------------------------------------------------------------------------


def tasks() -> Iterator[CheckMessage]:
    """Check that no task is stuck, fails again and again, or waits for long, and report the longest wait."""
    found = list(attention("tasks"))
    yield from found or [Info("None is stuck.")]
    if waiting := queue_stats.longest_waiting():
        age = dt.timedelta(seconds=round(max(0.0, (server_now() - waiting.since).total_seconds())))
        yield Info(f"{waiting.robot}'s task {waiting.id} has waited longest: {age}.")
    else:
        yield Info("None is queued for a robot in service.")


def submits() -> Iterator[CheckMessage]:
    """Check that accepted submissions are in the queue, and that bulk runs make progress."""
    limit = server_now() - PROGRESS_TIMEOUT
    hint = "The maintenance worker continues them: see `workers` and `beat` above."
    left = Submission.objects.unqueued(limit)[:MAX_COUNTED].count()
    halted = list(Bulk.objects.with_work().filter(changed_at__lt=limit).values_list("action", "id")[:MAX_COUNTED])
    if left:
        yield Error(f"{left} accepted submissions are not in the queue.", hint)
    if halted:
        named = ", ".join(f"{action} {id}" for action, id in halted[:5])
        yield Error(f"{len(halted)} bulk runs make no progress: {named}.", hint)
    if not left and not halted:
        yield Info("All accepted submissions are in the queue, and all bulk runs make progress.")


# --- Queries ---------------------------------------------------------------------------------------------------------


def hot_queries() -> dict[str, QuerySet[Any]]:
    """Return the most frequent queries by name."""
    now, id = server_now(), uuid7()
    return {
        "a robot's next task": Task.objects.queued().of_robot("Bender").next_first()[:1],
        "the tasks of a robot": Task.objects.of_robot("Bender").newest_first()[:100],
        "the latest tasks": Task.objects.newest_first()[:100],
        "the tasks of a status": Task.objects.matching(status=["FAILURE"]).newest_first()[:100],
        "the tasks that are due": Task.objects.due(now).order_by()[:100],
        "the tasks of lost workers": Task.objects.lost(now).order_by()[:100],
        "what changed": Task.objects.changed_since(now).order_by()[:100],
        "a task's log": LogLine.objects.filter(task=id)[:100],
    }


def queries() -> Iterator[CheckMessage]:
    """Check by MongoDB's query plans that the most frequent queries use indexes."""
    if "secantusVersion" in ask_mongodb().build:
        yield Info("The embedded server does not explain its plans as MongoDB does.")
        return
    slow = {name: stages for name, query in hot_queries().items() if (stages := expensive(json.loads(query.explain())))}
    for name, stages in slow.items():
        yield Warn(f"To find {name}, MongoDB does {' and '.join(sorted(stages))}.", "See `indexes` above.")
    if not slow:
        yield Info("The most frequent queries use indexes.")


def expensive(plan: Any) -> set[str]:
    """Return the stages of an explained plan that read or sort a whole collection."""
    if isinstance(plan, list):
        return {stage for part in plan for stage in expensive(part)}
    if not isinstance(plan, dict):
        return set()
    own = {plan["stage"]} & {"COLLSCAN", "SORT"} if isinstance(plan.get("stage"), str) else set()
    return own | {stage for name, part in plan.items() if name != "rejectedPlans" for stage in expensive(part)}


def names() -> Iterator[CheckMessage]:
    """Check that no two robots' names look the same. Reads all names."""
    seen: dict[str, str] = {}
    alike = []
    for name in Robot.objects.order_by("name").values_list("name", flat=True).iterator(1000):
        first = seen.setdefault(look(name), name)
        alike += [(first, name)] if first != name else []
    if alike:
        said = ", ".join(f"{first!a} and {name!a}" for first, name in alike[:MAX_SHOWN_NAMES])
        more = f", and {len(alike) - MAX_SHOWN_NAMES} more" if len(alike) > MAX_SHOWN_NAMES else ""
        text = f"Names of robots that look the same, or differ by case only: {said}{more}."
        yield Warn(text, "Create robots with other names, move their tasks with `move_tasks`, and delete the old ones.")
    else:
        yield Info(f"The names of all robots look different: {len(seen):,} names.")


def retention() -> Iterator[CheckMessage]:
    days = settings.ENVIRONMENT.retention_days
    if days:
        yield Info(f"Finished tasks are kept for {days:g} days.")
    else:
        yield Info("Finished tasks are kept for ever.", "To free space, set FMV_RETENTION_DAYS or run `purge_tasks`.")


CHECKS = [
    Check("queues", queues, needs="broker"),
    Check("workers", workers, needs="mongodb"),
    Check("handlers", handlers, needs="mongodb"),
    Check("agents", agents, needs="mongodb"),
    Check("beat", beat, needs="mongodb"),
    Check("tasks", tasks, needs="mongodb"),
    Check("submits", submits, needs="mongodb"),
    Check("queries", queries, needs="mongodb"),
    Check("names", names, needs="mongodb"),
    Check("retention", retention),
]
