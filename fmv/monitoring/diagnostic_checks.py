"""The checks of `manage.py doctor` that concern FMV itself: MongoDB and its collections, the broker, the settings."""

import datetime as dt
import json
import re
from collections.abc import Iterator
from typing import Any

import bson
from bson import json_util
from django.apps import apps
from django.conf import settings
from django.core import checks as django_checks
from django.core.checks import CheckMessage, Error, Info
from django.core.checks import Warning as Warn
from django.db import models
from pymongo.errors import OperationFailure

from fmv.accounts.models import ApiToken
from fmv.backup import restore
from fmv.celery import app
from fmv.mongodb.counting import collection
from fmv.mongodb.migration_state import migration_state
from fmv.mongodb.plan import planned_indexes
from fmv.mongodb.server import database, server_now
from fmv.monitoring.diagnostics import UNAUTHORIZED, Check
from fmv.monitoring.servers import MongoDB, ask_broker, ask_mongodb, clock_skew, skew_text

OLDEST_MONGODB = (6, 0)
OLDEST_RABBITMQ = [3, 10]
MEMBERS = 3  # of a replica set, so that a majority remains when one fails
SKEW_WARNING = 1.0  # seconds
SKEW_ERROR = 5.0
UNUSED_AGE = dt.timedelta(days=1)  # an index that no query has used for this long is reported
DISK_WARNING = 0.85  # used part of the file system
DISK_ERROR = 0.95
TOKEN_WARNING = dt.timedelta(days=14)  # before the last token of a robot expires
MAX_SHOWN_ROBOTS = 5
LARGEST_COLLECTIONS = 4  # whose size is printed

#: indexes that FMV's migrations add to models of other packages
ADDED = {"django_celery_results_taskresult": [{"name": "by_task_id", "key": {"task_id": 1}}]}


# --- MongoDB ---------------------------------------------------------------------------------------------------------


def mongodb() -> Iterator[CheckMessage]:
    """Check MongoDB's version, and that it can fail over."""
    server = ask_mongodb()
    if tuple(server.build["versionArray"]) < OLDEST_MONGODB:
        yield Error(f"{server} is too old.", hint="Upgrade to MongoDB 6 or later.")
    if server.hello.get("msg") == "isdbgrid":
        yield Info(f"{server}, a sharded cluster.")
    elif "setName" in server.hello:
        yield _replica_set(server)
    else:
        yield _in_production(
            f"{server}, a standalone server: it has no failover, and backups have no snapshot.",
            f"Make it a replica set of {MEMBERS} members.",
        )


def _replica_set(server: MongoDB) -> CheckMessage:
    members = sum(len(server.hello.get(kind, ())) for kind in ("hosts", "passives", "arbiters"))
    text = f"{server}, the replica set {server.hello['setName']} of {members}."
    return Info(text) if members >= MEMBERS else _in_production(text, f"With {MEMBERS} members one may fail.")


def _in_production(message: str, hint: str) -> CheckMessage:
    return Info(message) if settings.ENVIRONMENT.debug else Warn(message, hint=hint)


def clock() -> Iterator[CheckMessage]:
    """Compare this machine's clock, which dates log lines, with MongoDB's, which decides what is due, late or old."""
    skew = clock_skew()
    if abs(skew) < SKEW_WARNING:
        yield Info(f"This machine's clock differs from MongoDB's by less than {max(0.1, abs(skew)):.1f} s.")
        return
    kind = Error if abs(skew) >= SKEW_ERROR else Warn
    hint = "Run NTP on both. If MongoDB's clock is the wrong one, tasks start and expire at wrong times."
    yield kind(f"This machine's clock is {skew_text(skew)}.", hint=hint)


def migrations() -> Iterator[CheckMessage]:
    state = migration_state()
    if state.missing:
        yield Error(f"Not applied: {', '.join(state.missing)}.", hint="Run `python manage.py migrate`.")
    if state.unknown:
        yield Warn(
            f"Applied, but unknown here: {', '.join(state.unknown)}.", hint="Is this FMV older than the database?"
        )
    if not state.missing and not state.unknown:
        yield Info(f"All {state.known} are applied.")


# --- Indexes ---------------------------------------------------------------------------------------------------------


def stored_models() -> list[type[models.Model]]:
    found = [model for model in apps.get_models(include_auto_created=True) if model._meta.managed]
    return [*{model._meta.db_table: model for model in found}.values()]


def indexes() -> Iterator[CheckMessage]:
    """Check that MongoDB has each index of the models, and that it is defined as the model says."""
    healthy, extra, problems = 0, [], []
    for model in stored_models():
        name = model._meta.db_table
        there = {index["name"]: _shape(dict(index)) for index in collection(model).list_indexes()}
        for planned in (*planned_indexes(model), *ADDED.get(name, ())):
            found = there.pop(planned["name"], None)
            if found == _shape(planned):
                healthy += 1
            else:
                problems.append(_index_problem(name, planned, missing=found is None))
        extra += [f"{index} of {name}" for index in there if index != "_id_"]
    yield from problems
    if not problems:
        yield Info(f"All {healthy} exist.")
    if extra:
        yield Info(f"Not FMV's: {', '.join(sorted(extra))}.", hint="Each slows down every write.")


def _shape(index: dict[str, Any]) -> tuple[Any, ...]:
    part = bson.decode(bson.encode(dict(index.get("partialFilterExpression", {}))))
    return [*index["key"].items()], bool(index.get("unique")), part


def _index_problem(name: str, planned: dict[str, Any], *, missing: bool) -> CheckMessage:
    options = {key: value for key, value in planned.items() if key != "key"}
    in_shell = f"db.getCollection({json.dumps(name)})"
    drop = "" if missing else f"{in_shell}.dropIndex({json.dumps(planned['name'])}); "
    create = f"{in_shell}.createIndex({json.dumps(dict(planned['key']))}, {_in_mongosh(options)})"
    verb = "is missing" if missing else "has another definition"
    return Error(
        f"{planned['name']} of {name} {verb}.",
        hint=f"Run `python manage.py migrate`. If all migrations are applied, run in mongosh: {drop}{create}",
    )


def _in_mongosh(value: dict[str, Any]) -> str:
    text = json_util.dumps(value)
    return f"EJSON.parse({json.dumps(text)})" if '"$date"' in text else text


def index_use() -> Iterator[CheckMessage]:
    """List indexes that no query has used since the server's start, as the members that are asked have counted."""
    idle: dict[str, bool] = {}  # on every shard
    for model in stored_models():
        for index in collection(model).aggregate([{"$indexStats": {}}]):
            if since := index["accesses"]["since"]:
                name = f"{index['name']} of {model._meta.db_table}"
                idle[name] = idle.get(name, True) and _is_idle(index, since.replace(tzinfo=dt.UTC))
    unused = [name for name, is_idle in idle.items() if is_idle]
    if not idle:
        yield Info("This server does not count the use of indexes.")
    elif unused:
        yield Info(f"Unused for a day or more: {', '.join(sorted(unused))}.", hint="Other members may have used them.")
    else:
        yield Info("Every index has been used within a day, or has not been counted for a day yet.")


def _is_idle(index: dict[str, Any], since: dt.datetime) -> bool:
    enforces = index["name"] == "_id_" or index.get("spec", {}).get("unique", False)
    return not enforces and index["accesses"]["ops"] == 0 and server_now() - since >= UNUSED_AGE


# --- Storage ---------------------------------------------------------------------------------------------------------


def storage() -> Iterator[CheckMessage]:
    sizes = {model._meta.db_table: _size(model) for model in stored_models()}
    largest = sorted(sizes.items(), key=lambda item: item[1][::-1], reverse=True)[:LARGEST_COLLECTIONS]
    yield Info(", ".join(f"{name}: {count:,} documents, {megabytes(size)}" for name, (count, size) in largest) + ".")
    total = database().command("dbStats")
    if not total.get("fsTotalSize"):
        yield Info("This server does not report how full its disk is.")
        return
    part = total["fsUsedSize"] / total["fsTotalSize"]
    text = f"MongoDB's disk is {part:.0%} full."
    if part < DISK_WARNING:
        yield Info(text)
    else:
        yield (Error if part >= DISK_ERROR else Warn)(text, hint="Free space: `python manage.py purge_tasks`.")


def _size(model: type[models.Model]) -> tuple[int, int]:
    """Return the number of documents, and their and their indexes' bytes on disk, on all shards; zeros without a
    collection.
    """
    try:
        found = [shard["storageStats"] for shard in collection(model).aggregate([{"$collStats": {"storageStats": {}}}])]
    except OperationFailure as error:
        if error.code == UNAUTHORIZED:
            raise
        return 0, 0
    size = sum(stats["storageSize"] + stats["totalIndexSize"] for stats in found)
    return sum(int(stats["count"]) for stats in found), int(size)


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def interrupted_restore() -> Iterator[CheckMessage]:
    found = restore.unfinished()
    if found is None:
        yield Info("None is under way or was interrupted.")
    elif found.is_alive:
        yield Warn(str(found), hint="Wait for it to end.")
    elif found.switching:
        yield Error(str(found), hint="Restore again.")
    else:
        yield Warn(str(found), hint="Restore again, or drop what it has loaded: `python manage.py restore --clear`.")


# --- The broker ------------------------------------------------------------------------------------------------------


def broker() -> Iterator[CheckMessage]:
    version = ask_broker()
    if not app.conf.broker_url.startswith("amqp"):
        yield _in_production(
            "Valkey carries the messages, which is for development.", "Set FMV_BROKER_URL to RabbitMQ."
        )
    elif [int(part) for part in re.findall("[0-9]+", version)[:2]] < OLDEST_RABBITMQ:
        yield Warn(
            f"{version} is older than the versions FMV is tested with.", hint="Upgrade to RabbitMQ 3.10 or later."
        )
    else:
        yield Info(f"{version}.")


# --- Settings --------------------------------------------------------------------------------------------------------


def configuration() -> Iterator[CheckMessage]:
    """Run Django's and FMV's deployment checks, except on a development stack, which is insecure on purpose."""
    if settings.ENVIRONMENT.debug:
        yield Info("FMV_DEBUG is on, which is for development only: the settings are not checked.")
        return
    found = django_checks.run_checks(include_deployment_checks=True)
    problems = [message for message in found if message.level >= django_checks.WARNING and not message.is_silenced()]
    for message in problems:
        kind = Error if message.level >= django_checks.ERROR else Warn
        yield kind(f"{message.id}: {message.msg}", hint=message.hint)
    if not problems:
        yield Info("Fit for production.")


def tokens() -> Iterator[CheckMessage]:
    """Check that no robot's agent loses its last token within TOKEN_WARNING, because it would take the robot along."""
    usable = ApiToken.objects.filter(robot__gt="").usable().order_by("expires_at").values_list("robot", "expires_at")
    last = dict(usable)  # of each robot the token that lasts longest
    soon = server_now() + TOKEN_WARNING
    ending = [robot for robot, expires_at in last.items() if expires_at < soon]
    if not ending:
        yield Info(f"Robots with a token: {len(last)}; each is valid for {TOKEN_WARNING.days} days or more.")
        return
    shown = ", ".join(f"{robot!a} on {last[robot]:%Y-%m-%d}" for robot in ending[:MAX_SHOWN_ROBOTS])
    more = f", and of {len(ending) - MAX_SHOWN_ROBOTS} more" if len(ending) > MAX_SHOWN_ROBOTS else ""
    yield Warn(
        f"The tokens of these robots' agents expire within {TOKEN_WARNING.days} days: {shown}{more}.",
        hint="Create a second token on the robot's page or by `tokens create --robot NAME`, and give it to its agent.",
    )


CHECKS = [
    Check("mongodb", mongodb, hint="Check that it runs, and the host, user and password in MONGODB_URI."),
    Check(
        "broker",
        broker,
        hint="Tasks are accepted and wait meanwhile. Check that it runs, the host and user in FMV_BROKER_URL, and "
        "`rabbitmq-diagnostics alarms`.",
    ),
    Check("settings", configuration),
    Check("clock", clock, needs="mongodb"),
    Check("migrations", migrations, needs="mongodb"),
    Check("indexes", indexes, needs="mongodb"),
    Check("index use", index_use, needs="mongodb", right="indexStats"),
    Check("storage", storage, needs="mongodb"),
    Check("restore", interrupted_restore, needs="mongodb"),
    Check("tokens", tokens, needs="mongodb"),
]
