"""The report: tables for the terminal, and JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.simulation.figures import constants


def write(path: Path, options: argparse.Namespace, runs: Sequence[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {"options": vars(options), "constants": constants(), "runs": runs}
    path.write_text(json.dumps(whole, indent=2) + "\n")


def tables(options: argparse.Namespace, runs: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"Tasks of {options.seconds:g} s ({options.distribution}), seed {options.seed}; the report holds the spans."
    steady = [run for run in runs if run["scenario"] == "steady"]
    yield "\nWaiting: from queued to STARTED, and from runnable (its robot's lane is free) to STARTED"
    head = ["robots", "load", "processes", "machines", "tasks/s", "busy", "queued: median", "p99", "runnable: median"]
    yield from aligned([*head, "p99"], map(waiting, steady))
    yield "\nServers: commands and messages a second, and the cores of MongoDB that they keep busy"
    head = ["robots", "load", "MongoDB commands", "its cores", "messages", "maintenance busy"]
    yield from aligned(head, map(servers, steady))
    yield "\nPeriodic steps at the highest load: their largest pass, and the mean share of a maintenance process"
    yield from aligned(
        ["robots", "job", "every", "documents read", "written", "messages", "seconds", "share"],
        (periodic_step(run, name) for run in at_highest_load(steady) for name in run["periodic_steps"]),
    )
    yield "\nFaults at the middle load: until the last affected robot or task has started again"
    yield from aligned(
        ["robots", "load", "fault", "affected", "median", "p99", "last"],
        (fault(run) for run in runs if run["scenario"] != "steady"),
    )


def at_highest_load(steady: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [*{run["robots"]: run for run in sorted(steady, key=lambda run: run["load"])}.values()]


def waiting(run: dict[str, Any]) -> list[str]:
    fleet = [f"{run[key]:,}" for key in ("processes", "machines")]
    rates = [f"{run['tasks_a_second']:,.1f}", percent(run["busy"])]
    return [*of(run), *fleet, *rates, *waits(run["queued_to_started"]), *waits(run["runnable_to_started"])]


def servers(run: dict[str, Any]) -> list[str]:
    commands, cores = f"{run['mongodb_commands_a_second']:,.0f}", f"{run['mongodb_cores']:.2f}"
    return [*of(run), commands, cores, f"{run['messages_a_second']:,.0f}", percent(run["maintenance_busy"])]


def of(run: dict[str, Any]) -> list[str]:
    return [f"{run['robots']:,}", percent(run["load"])]


def periodic_step(run: dict[str, Any], name: str) -> list[str]:
    job = run["periodic_steps"][name]
    numbers = [f"{job[key]:,}" for key in ("read", "written", "messages")]
    return [
        f"{run['robots']:,}",
        name,
        f"{job['period']:g} s",
        *numbers,
        time(job["seconds"]),
        percent(job["share"], 1),
    ]


def fault(run: dict[str, Any]) -> list[str]:
    affected = run["restarts"] if run["scenario"] == "a machine dies" else run["repairs"]
    times = [time(affected[key]) for key in ("median", "p99", "max")]
    return [*of(run), run["scenario"], f"{affected['count']:,}", *times]


def waits(spread: dict[str, float | None]) -> list[str]:
    return [time(spread["median"]), time(spread["p99"])]


def time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.1f} ms" if seconds < 1 else f"{seconds:,.1f} s"


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"


def aligned(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    lines = [list(head), *map(list, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield "  ".join(f"{cell:>{width}}" for cell, width in zip(line, widths, strict=True))
