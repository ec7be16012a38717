"""Memory: how much processes hold after requests and tasks, and how much a finished task takes in MongoDB."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import bson

from fmv.devstack import stack
from tests.bench.figures import Figure, Size, figure, say
from tests.bench.requests import prepare, routes
from tests.bench.stage import Stage
from tests.bench.tasks import by_fmv, start_workers, throughput
from tests.chaos.world import descendants

SMALL = 2048  # bytes that a small finished task may take, including its index entries


def measure(stage: Stage, size: Size) -> list[Figure]:
    stage.environment["FMV_WEB_PROCESSES"] = "1"
    task = prepare()
    url = stage.serve("fmv", *stack.WEB)
    pages = [f"{url}/api/v1{route.path}" for route in routes(task) if route.method == "GET"]
    web = _growth(stage, size, "fmv", lambda: _call_all(stage, pages, size.load))
    stage.stop("fmv")
    start_workers(stage)
    marks = stage.directory / "marks"
    worker = _growth(stage, size, "work1", lambda: throughput(marks, size.load, by_fmv))
    task_bytes = [small_task() / SMALL]
    return [
        figure(f"web process: memory after {2 * size.load} ÷ {size.load} requests", stage.engine, "≤ 1.05", web),
        figure(f"worker: memory after {2 * size.load} ÷ {size.load} tasks", stage.engine, "≤ 1.05", worker),
        figure("a small finished task and its index entries ÷ 2 KiB", stage.engine, "≤ 1", task_bytes),
    ]


def _call_all(stage: Stage, urls: list[str], requests: int) -> None:
    """Make at least this many requests, calling one URL after the other for a second each, up to a minute."""
    made = 0.0
    for number in range(60):
        made += stage.call(urls[number % len(urls)], 1).rate
        if made >= requests:
            return
    say(f"  only {made:.0f} requests in a minute")


def _growth(stage: Stage, size: Size, name: str, load: Callable[[], object]) -> list[float]:
    """Return the memory after twice the load ÷ after the load: one ratio, because memory once grown stays."""
    at_rest = resident(stage.up[name].pid)
    load()
    once = resident(stage.up[name].pid)
    load()
    twice = resident(stage.up[name].pid)
    say(f"  {name}: {at_rest} MiB at rest, {once} MiB after {size.load}, {twice} MiB after {2 * size.load}")
    return [twice / once]


def resident(pid: int) -> float:
    """Return the MiB of a process and its descendants, with shared pages counted once (PSS)."""
    kib = 0
    for each in (pid, *descendants(pid)):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            lines = Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
            kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return round(kib / 1024, 1)


def small_task() -> int:
    """Return the bytes of BSON of a finished no-op task and of its entries in all indexes."""
    from fmv.mongodb.counting import collection
    from fmv.mongodb.plan import planned_indexes
    from tasks.models import Task

    document = collection(Task).find_one({"status": "SUCCESS"})
    return len(bson.encode(document)) + sum(entry_size(document, index) for index in [ID, *planned_indexes(Task)])


ID = {"key": {"_id": 1}, "name": "_id_"}


def entry_size(document: dict[str, Any], index: dict[str, Any]) -> int:
    """Return the bytes of BSON of a document's entries in an index; 0 when a partial index leaves the document out."""
    only = index.get("partialFilterExpression", {})
    if not all(_holds(_value(document, path), wanted) for path, wanted in only.items()):
        return 0
    values = [_value(document, path) for path in index["key"]]
    entries = max([1, *(len(value) for value in values if isinstance(value, list))])
    return entries * len(
        bson.encode({"": [value[0] if value and isinstance(value, list) else value for value in values]})
    )


def _value(document: dict[str, Any], path: str) -> Any:
    name, _, part = path.partition(".")
    value = document.get(name)
    return (value or {}).get(part) if part else value


def _holds(value: Any, wanted: Any) -> bool:
    """Return whether a partial index with this condition holds a document with this value."""
    return value == wanted["$eq"] if "$eq" in wanted else value is not None
