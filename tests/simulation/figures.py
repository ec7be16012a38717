"""The figures of a run, as the report has them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings

from tasks.queue import periodic
from tasks.worker import claim, heartbeat
from tests.simulation.model import Fleet
from tests.simulation.periodic import Maintenance, Pass

WRITES = ("insert", "update", "findAndModify", "delete")


def constants() -> dict[str, Any]:
    """Return the values that the simulation takes from FMV's code and settings."""
    return {
        "beat": {name: job["schedule"].seconds for name, job in settings.CELERY_BEAT_SCHEDULE.items()},
        "lease_seconds": settings.ENVIRONMENT.lease_seconds,
        "renew_seconds": settings.ENVIRONMENT.renew_seconds,
        "prefetch_multiplier": settings.CELERY_WORKER_PREFETCH_MULTIPLIER,
        "time_slice_seconds": claim.TIME_SLICE,
        "heartbeat_seconds": heartbeat.INTERVAL,
        "ring_step": periodic.MAX_ROBOTS_RUNG,
        "recover_step": periodic.STEP_SIZE,
    }


def figures(fleet: Fleet, maintenance: Maintenance) -> dict[str, Any]:
    """Return the figures since `fleet.measure()`, times in seconds, rates per second."""
    plan, span = fleet.plan, fleet.env.now - fleet.begun
    busy, queued = fleet.busy.mean / plan.processes, fleet.queued.mean  # now, before the calls below change the fleet
    heartbeats = (plan.processes + plan.maintenance) / heartbeat.INTERVAL
    commands = {name: count / span for name, count in sorted(fleet.commands.items())}
    commands["heartbeat: update tasks_workerprocess"] = heartbeats
    jobs = {name: job_figures(name, maintenance.passes_of(name)) for name in settings.CELERY_BEAT_SCHEDULE}
    documents = sum(job["document_seconds"] for job in jobs.values())
    return {
        "robots": plan.robots,
        "load": plan.load,
        "processes": plan.processes,
        "machines": plan.machines,
        "span": span,
        "tasks": len(fleet.waits),
        "tasks_a_second": plan.rate,
        "busy": busy,
        "queued": queued,
        "queued_to_started": spread([queued for queued, _ in fleet.waits]),
        "runnable_to_started": spread([runnable for _, runnable in fleet.waits]),
        "mongodb_commands": commands,
        "mongodb_commands_a_second": sum(commands.values()),
        "mongodb_cores": documents + sum(rate * cpu(name, fleet) for name, rate in commands.items()),
        "messages_a_second": fleet.messages / span,
        "periodic_steps": jobs,
        "maintenance_busy": sum(job["share"] for job in jobs.values()) / plan.maintenance,
        "maintenance_skipped": maintenance.skipped,
        "repairs": spread(fleet.repairs),
        "restarts": spread(fleet.restarts),
    }


def cpu(command: str, fleet: Fleet) -> float:
    """Return the seconds of a core that MongoDB needs for the command."""
    verb = command.rpartition(": ")[2].split()[0]
    return fleet.costs.write_cpu if verb in WRITES else fleet.costs.read_cpu


def job_figures(name: str, passes: Sequence[Pass]) -> dict[str, Any]:
    """Return the job's largest numbers of one pass, and its mean share of one process's time."""
    period = settings.CELERY_BEAT_SCHEDULE[name]["schedule"].seconds
    return {
        "period": period,
        "read": max(each.read for each in passes),
        "written": max(each.written for each in passes),
        "messages": max(each.messages for each in passes),
        "seconds": max(each.seconds for each in passes),
        "share": sum(each.seconds for each in passes) / len(passes) / period,
        "document_seconds": sum(each.document_seconds for each in passes) / len(passes) / period,
    }


def spread(values: Sequence[float]) -> dict[str, float | None]:
    """Return the number of values, their median, 99th percentile and maximum."""
    ordered = sorted(values)

    def at(share: float) -> float | None:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    return {"count": len(ordered), "median": at(0.5), "p99": at(0.99), "max": at(1)}
