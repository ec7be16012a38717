"""What the doctor looks at of FMV itself: MongoDB and what it holds, the broker, the settings."""

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
from django.db import DatabaseError, connection, models
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from kombu.exceptions import KombuError
from pymongo.errors import OperationFailure, PyMongoError

from fmv.backup import dump, restore
from fmv.mongodb.plan import planned_indexes
from fmv.mongodb.server import server_now
from fmv.monitoring.diagnostics import Check, Finding, OutOfReach, error, fine, warning
from fmv.monitoring.servers import ask_broker, reason

OLDEST_MONGODB = (6, 0)
OLDEST_RABBITMQ = [3, 10]
MEMBERS = 3  # of a replica set, so that two still have the majority when one is gone
SKEW_WARNING = 1.0  # seconds
SKEW_ERROR = 5.0
UNUSED_FOR = dt.timedelta(days=1)  # an index that no query has used for so long is told
DISK_WARNING = 0.85  # part of the file system that is used
DISK_ERROR = 0.95
SHOWN = 4  # collections whose size is told

#: indexes of other packages' models that our migrations add
ADDED = {"django_celery_results_taskresult": [{"name": "by_task_id", "key": {"task_id": 1}}]}


def checks() -> list[Check]:
    return [
        Check("mongodb", mongodb),
        Check("broker", broker),
        Check("settings", configuration),
        Check("clock", clock, needs="mongodb"),
        Check("migrations", migrations, needs="mongodb"),
        Check("indexes", indexes, needs="mongodb"),
        Check("index use", index_use, needs="mongodb"),
        Check("storage", storage, needs="mongodb"),
        Check("restore", interrupted_restore, needs="mongodb"),
    ]


# --- MongoDB ---------------------------------------------------------------------------------------------------------


def mongodb() -> Iterator[Finding]:
    """Which server it is, and whether it may fail over."""
    try:
        hello, build = dump.database().command("hello"), dump.database().command("buildInfo")
    except (PyMongoError, DatabaseError) as trouble:
        hint = "See whether it runs, and whether MONGODB_URI names it, its user and its password."
        raise OutOfReach(f"It cannot be reached: {reason(trouble)}", hint) from trouble
    version = f"MongoDB {build['version']}"
    if tuple(build["versionArray"]) < OLDEST_MONGODB:
        yield error(f"{version} is too old.", "Upgrade to MongoDB 6 or later.")
    if hello.get("msg") == "isdbgrid":
        yield fine(f"{version}, a sharded cluster.")
    elif "setName" in hello:
        yield _replica_set(version, hello)
    else:
        yield _in_production(
            f"{version}, a standalone server: nobody takes its place when it is gone, and backups have no snapshot.",
            f"Make it a replica set of {MEMBERS} members.",
        )


def _replica_set(version: str, hello: dict[str, Any]) -> Finding:
    members = sum(len(hello.get(kind, ())) for kind in ("hosts", "passives", "arbiters"))
    text = f"{version}, the replica set {hello['setName']} of {members}."
    return fine(text) if members >= MEMBERS else _in_production(text, f"With {MEMBERS} members one may be gone.")


def _in_production(message: str, hint: str) -> Finding:
    return fine(message) if settings.ENVIRONMENT.debug else warning(message, hint)


def clock() -> Iterator[Finding]:
    """Whether this machine's clock is MongoDB's: ids and their order come from here, leases from there."""
    before = timezone.now()
    theirs = server_now()
    after = timezone.now()
    skew = (before + (after - before) / 2 - theirs).total_seconds()
    text = f"This machine's clock is {abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} MongoDB's."
    hint = "Let NTP keep both, and the other machines' too: ids, and so the order of tasks, come from web servers."
    if abs(skew) < SKEW_WARNING:
        yield fine(f"This machine's clock is MongoDB's to within {max(0.1, abs(skew)):.1f} s.")
    else:
        yield (error if abs(skew) >= SKEW_ERROR else warning)(text, hint)


def migrations() -> Iterator[Finding]:
    executor = MigrationExecutor(connection)
    missing = [str(migration) for migration, _ in executor.migration_plan(executor.loader.graph.leaf_nodes())]
    known = set(executor.loader.disk_migrations)
    newer = sorted(f"{app}.{name}" for app, name in set(executor.loader.applied_migrations) - known)
    if missing:
        yield error(f"Not applied: {', '.join(missing)}.", "Run `python manage.py migrate`.")
    if newer:
        yield warning(f"Applied, but unknown here: {', '.join(newer)}.", "Is this FMV older than the database?")
    if not missing and not newer:
        yield fine(f"All {len(known)} are applied.")


# --- Indexes ---------------------------------------------------------------------------------------------------------


def stored_models() -> list[type[models.Model]]:
    found = [model for model in apps.get_models(include_auto_created=True) if model._meta.managed]
    return [*{model._meta.db_table: model for model in found}.values()]


def indexes() -> Iterator[Finding]:
    """Whether MongoDB has the indexes that the models ask for, as they ask for them."""
    healthy, extra, troubles = 0, [], []
    for model in stored_models():
        name = model._meta.db_table
        there = {index["name"]: _shape(dict(index)) for index in dump.database()[name].list_indexes()}
        for planned in (*planned_indexes(model), *ADDED.get(name, ())):
            found = there.pop(planned["name"], None)
            if found == _shape(planned):
                healthy += 1
            else:
                troubles.append(_trouble(name, planned, missing=found is None))
        extra += [f"{index} of {name}" for index in there if index != "_id_"]
    yield from troubles
    if not troubles:
        yield fine(f"All {healthy} are there.")
    if extra:
        yield fine(f"Not FMV's: {', '.join(sorted(extra))}.", "Each costs time at every write.")


def _shape(index: dict[str, Any]) -> tuple[Any, ...]:
    part = bson.decode(bson.encode(dict(index.get("partialFilterExpression", {}))))
    return [*index["key"].items()], bool(index.get("unique")), part


def _trouble(name: str, planned: dict[str, Any], *, missing: bool) -> Finding:
    options = {key: value for key, value in planned.items() if key != "key"}
    collection = f"db.getCollection({json.dumps(name)})"
    drop = "" if missing else f"{collection}.dropIndex({json.dumps(planned['name'])}); "
    build = f"{collection}.createIndex({json.dumps(dict(planned['key']))}, {_in_mongosh(options)})"
    verb = "is missing" if missing else "is not as it should be"
    return error(
        f"{planned['name']} of {name} {verb}.",
        f"Run `python manage.py migrate`; where all migrations are applied, in mongosh: {drop}{build}",
    )


def _in_mongosh(value: dict[str, Any]) -> str:
    text = json_util.dumps(value)
    return f"EJSON.parse({json.dumps(text)})" if '"$date"' in text else text


def index_use() -> Iterator[Finding]:
    """Which indexes no query has used, as far as the server counts that: since its start, on the member asked."""
    unused: list[str] = []
    counted = False
    for model in stored_models():
        for index in dump.database()[model._meta.db_table].aggregate([{"$indexStats": {}}]):
            since = index["accesses"]["since"]
            counted = counted or since is not None
            if since is not None and _is_idle(index, since):
                unused.append(f"{index['name']} of {model._meta.db_table}")
    if not counted:
        yield fine("This server does not tell.")
    elif unused:
        yield fine(f"Not used for a day or more: {', '.join(sorted(unused))}.", "Other members may have used them.")
    else:
        yield fine("Every index that counts for a day has been used.")


def _is_idle(index: dict[str, Any], since: Any) -> bool:
    age = server_now() - dt.datetime.fromtimestamp(int(since) / 1000, dt.UTC)
    enforces = index["name"] == "_id_" or index.get("spec", {}).get("unique", False)
    return not enforces and index["accesses"]["ops"] == 0 and age >= UNUSED_FOR


# --- What it holds ---------------------------------------------------------------------------------------------------


def storage() -> Iterator[Finding]:
    sizes = {model._meta.db_table: _size(model._meta.db_table) for model in stored_models()}
    largest = sorted(sizes.items(), key=lambda item: item[1][::-1], reverse=True)[:SHOWN]
    yield fine(", ".join(f"{name}: {count:,} documents, {megabytes(size)}" for name, (count, size) in largest) + ".")
    total = dump.database().command("dbStats")
    if not total.get("fsTotalSize"):
        yield fine("This server does not tell how full its disk is.")
        return
    part = total["fsUsedSize"] / total["fsTotalSize"]
    kind = error if part >= DISK_ERROR else warning if part >= DISK_WARNING else fine
    hint = "" if kind is fine else "Make room: `python manage.py purge_tasks`."
    yield kind(f"MongoDB's disk is {part:.0%} full.", hint)


def _size(name: str) -> tuple[int, int]:
    """Return the documents, and their and their indexes' bytes on disk; of a collection that is not there none."""
    try:
        [stats] = dump.database()[name].aggregate([{"$collStats": {"storageStats": {}}}])
    except (OperationFailure, ValueError):
        return 0, 0
    found = stats["storageStats"]
    return int(found["count"]), int(found["storageSize"] + found["totalIndexSize"])


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


def interrupted_restore() -> Iterator[Finding]:
    found = restore.mark()
    if found is None:
        yield fine("None is under way or was interrupted.")
    elif found.is_alive:
        yield warning(str(found), "Wait for it to end.")
    elif found.switching:
        yield error(str(found), "Restore again.")
    else:
        yield warning(str(found), "Restore again, or drop what it left: `python manage.py restore --clear`.")


# --- The broker ------------------------------------------------------------------------------------------------------


def broker() -> Iterator[Finding]:
    try:
        version = ask_broker()
    except (KombuError, PyMongoError, OSError) as trouble:
        hint = "Tasks are accepted and wait. See whether it runs, and whether FMV_BROKER_URL names it and its user."
        raise OutOfReach(f"It cannot be reached: {reason(trouble)}", hint) from trouble
    if settings.CELERY_BROKER_URL.startswith("mongodb"):
        yield _in_production(
            "MongoDB carries the messages, which is for development.", "Set FMV_BROKER_URL to RabbitMQ."
        )
    elif [int(part) for part in re.findall("[0-9]+", version)[:2]] < OLDEST_RABBITMQ:
        yield warning(f"{version} is older than what FMV was tested with.", "Upgrade to RabbitMQ 3.10 or later.")
    else:
        yield fine(f"{version}.")


# --- Settings --------------------------------------------------------------------------------------------------------


def configuration() -> Iterator[Finding]:
    """What Django and FMV check before a deployment; with FMV_DEBUG on, which is no deployment, only that."""
    if settings.ENVIRONMENT.debug:
        yield warning("FMV_DEBUG is on: this is for development.", "In production leave FMV_DEBUG unset.")
        return
    found = django_checks.run_checks(include_deployment_checks=True)
    told = [message for message in found if message.level >= django_checks.WARNING and not message.is_silenced()]
    for message in told:
        kind = error if message.level >= django_checks.ERROR else warning
        yield kind(f"{message.id}: {message.msg}", message.hint or "")
    if not told:
        yield fine("Fit for production.")
