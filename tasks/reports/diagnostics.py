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
from robots import connections
from robots.models import Robot, look
from tasks.models import Bulk, LogLine, Submission, Task, WorkerProcess
from tasks.reports import mismatches, queue_stats
from tasks.reports.fleet import current_fleet, unknown_handlers

QUEUES = ("work", "maintenance")
BEAT_WARNING = (
    90.0  # seconds since the last maintenance run that was stored; of a step that finds nothing one a minute is
)
BEAT_ERROR = 300.0
WAITING_WARNING = 3600.0  # seconds
PROGRESS_TIMEOUT = dt.timedelta(minutes=5)  # for a submission to reach the queue, for a bulk run to make a step
MAX_COUNTED = 1000  # tasks, submissions, bulk runs
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
    text = f"{queue.name}: {found.message_count} messages, {found.consumer_count} workers."
    if not found.consumer_count:
        yield Error(text, f"Start a worker: celery -A fmv worker -Q {queue.name}")
    else:
        yield Warn(text, "Start more workers.") if found.message_count > MESSAGES_WARNING else Info(text)


# --- Workers and beat ------------------------------------------------------------------------------------------------


def workers() -> Iterator[CheckMessage]:
    fleet = current_fleet()
    for queue in QUEUES:
        alive = [worker for worker in fleet.workers if queue in worker.process.queues]
        if alive:
            busy = sum(worker.task is not None for worker in alive)
            yield Info(f"{queue}: {len(alive)} processes are alive, {busy} of them run a task.")
        else:
            yield Error(f"{queue}: no worker is alive.", f"Start a worker: celery -A fmv worker -Q {queue}")
    if fleet.lost:
        names = ", ".join(f"{process.name} ({process.seen_at:%F %T}Z)" for process in fleet.lost[:5])
        yield Warn(
            f"{len(fleet.lost)} processes were lost within a day, the latest: {names}.",
            "Their tasks have been recovered. Read the logs of their machines: out of memory?",
        )


def handlers() -> Iterator[CheckMessage]:
    """Check that workers know the handlers of the queued tasks, and the versions of their parameters."""
    hint = "Start or update workers with the code of the handler, or cancel these tasks: their robots wait for them."
    known = WorkerProcess.objects.known_handlers(server_now())
    if not known:
        yield Info("No worker is alive that knows a handler: see `workers`.")
        return
    unknown = unknown_handlers()
    for handler, count in sorted(unknown.items()):
        yield Error(f"No worker knows the handler {handler}: {count} tasks wait for one.", hint)
    queued = Task.objects.queued().order_by().values_list("handler", "params_version")[:MAX_COUNTED]
    others = {handler for handler, version in queued if version and f"{handler}@{version}" not in known}
    for handler in sorted(others - unknown.keys()):
        yield Warn(
            f"No worker knows the parameters of {handler} with which queued tasks were submitted.",
            f"A worker with other parameters takes those that are valid for it; the others wait. {hint}",
        )
    if not unknown and not others:
        yield Info("Workers know the handlers of all queued tasks.")


def agents() -> Iterator[CheckMessage]:
    """Check that no two agents take a robot's session from each other, that robots and FMV mean the same task, and that
    tasks for robots have an agent which knows them; and report how many agents are online.
    """
    if several := connections.several_agents():
        shown = ", ".join(f"{name!a} ({times} times)" for name, times in sorted(several.items())[:MAX_SHOWN_NAMES])
        more = f", and {len(several) - MAX_SHOWN_NAMES} more" if len(several) > MAX_SHOWN_NAMES else ""
        yield Warn(
            f"Agents' sessions were replaced more than once within an hour: {shown}{more}.",
            "Two agents use one token, or an agent starts again and again: read its log. Give each robot one agent.",
        )
    if wrong := mismatches.of_all():
        shown = ", ".join(f"{name!a}: {task['task_id']}" for name, task in sorted(wrong.items())[:MAX_SHOWN_NAMES])
        yield Warn(
            f"{len(wrong)} robots say that they run a task which is not running on them: {shown}.",
            "Look at what each robot does; start its agent again if it has lost its way.",
        )
    away, unknown = mismatches.unserved()
    if away:
        shown = ", ".join(map(ascii, away[:MAX_SHOWN_NAMES]))
        yield Warn(
            f"Tasks wait for {len(away)} robots whose agent is not online: {shown}.",
            "Start these agents; 'Connect this robot' on the robot's page shows how. Or cancel the tasks.",
        )
    for name, handler in unknown[:MAX_SHOWN_NAMES]:
        yield Warn(
            f"The agent of {name!a} does not know {handler}: tasks wait, and so do those behind them.",
            "Start the agent with that skill, or cancel these tasks.",
        )
    number = connections.counts()
    yield Info(f"{number['online']} robots are online, {number['offline']} with an agent are offline.")


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
    """Check that no task is stuck, and report the longest wait."""
    if count := Task.objects.stuck(server_now()).up_to(MAX_COUNTED):
        number = f"{count} or more" if count == MAX_COUNTED else str(count)
        hint = "The maintenance worker moves them: see `workers` and `beat` above. `list_tasks --stuck` lists them."
        yield Error(f"{number} tasks are stuck: their time has come, and they have not moved.", hint)
    else:
        yield Info("None is stuck.")
    if not (waiting := queue_stats.longest_waiting()):
        yield Info("None is queued for a robot in service.")
        return
    age = (server_now() - waiting.since).total_seconds()
    text = f"{waiting.robot}'s task {waiting.id} has waited longest: {dt.timedelta(seconds=round(max(0.0, age)))}."
    hint = "See `workers` above, and whether the robot has many tasks or a long one."
    yield Warn(text, hint) if age > WAITING_WARNING else Info(text)


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
        yield Info(f"The names of {len(seen):,} robots all look different.")


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
