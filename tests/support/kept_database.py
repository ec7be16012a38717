"""Databases as each release of FMV left them, which a test upgrades: tests/mongodb/kept/<version>.json.gz.

`python -m fmv.devstack.stack with_database .venv/bin/python -m tests.support.kept_database 1.1.0` makes one of the code
that is checked out. It is never made anew afterwards.
"""

import gzip
import os
import sys
from pathlib import Path
from typing import Any

from bson import json_util

KEPT = Path(__file__).resolve().parents[1] / "mongodb" / "kept"
JSON = json_util.CANONICAL_JSON_OPTIONS


def main() -> int:
    os.environ |= {"DJANGO_SETTINGS_MODULE": "fmv.settings", "FMV_DEBUG": "1"}
    import django
    from django.core.management import call_command
    from django.db import connection

    django.setup()
    [version] = sys.argv[1:]
    call_command("migrate", verbosity=0)
    fill()
    with gzip.GzipFile(KEPT / f"{version}.json.gz", "xb", mtime=0) as file:
        file.write(json_util.dumps(dump(connection.database), json_options=JSON).encode())
    return 0


def fill() -> None:
    """Store something of every kind that FMV stores."""
    from fmv import audit
    from fmv.http.throttle import Window
    from fmv.monitoring import counters
    from tasks.queue import bulk, services
    from tests.support import demo_data, factories

    demo_data.store_demo_data(40)
    services.submit({"robot": "Bender", "handler": "wait", "params": {"seconds": 1}}, by="fry", key="once")
    bulk.start("retry", by="fry", conditions={"robot": "Gort"})
    counters.note("renewal_failures")
    counters.store()
    user = factories.make_user("operator", username="leela")
    factories.make_session(user)
    factories.make_token(user)
    factories.make_process("host/1")
    Window.now("address 127.0.0.1", "write", "10/minute").add()
    demo_data.LogLine.objects.create(task=demo_data.Task.objects.latest("id").pk, attempt=1, text="a line")
    audit.record("robot.change", by="leela", kind="robot", key="Bender", text="lanes: 1 → 2")


def dump(database: Any) -> dict[str, Any]:
    """Return the indexes and the documents of each collection."""
    from fmv.mongodb.migration_state import LOCK_COLLECTION

    return {
        name: {"indexes": [*database[name].list_indexes()], "documents": [*database[name].find()]}
        for name in sorted(set(database.list_collection_names()) - {LOCK_COLLECTION})
    }


def load(file: Path, database: Any) -> dict[str, int]:
    """Store what `dump` has returned; return how many documents each collection has."""
    kept = json_util.loads(gzip.decompress(file.read_bytes()), json_options=JSON)
    for name, collection in kept.items():
        database.create_collection(name)
        for index in collection["indexes"]:
            options = {key: value for key, value in index.items() if key not in ("key", "name", "v", "ns")}
            if index["name"] != "_id_":
                database[name].create_index([*index["key"].items()], name=index["name"], **options)
        if collection["documents"]:
            database[name].insert_many(collection["documents"])
    return {name: len(collection["documents"]) for name, collection in kept.items()}


if __name__ == "__main__":
    sys.exit(main())
