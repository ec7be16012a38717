"""What is read off a run, as it stands in the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings

from tasks.queue import periodic
from tasks.worker import attempt, heartbeat
from tests.simulation.model import Fleet
from tests.simulation.sweepers import Maintenance, Pass

WRITES = ("insert", "update", "findAndModify", "delete")


def constants() -> dict[str, Any]:
    """Return what the simulation has from FMV's own code and settings."""
    return {
        "beat": {name: job["schedule"] for name, job in settings.CELERY_BEAT_SCHEDULE.items()},
        "lease_seconds": settings.FMV_LEASE_SECONDS,
        "renew_seconds": settings.FMV_RENEW_SECONDS,
        "prefetch_multiplier": settings.CELERY_WORKER_PREFETCH_MULTIPLIER,
        "turn_seconds": attempt.TURN,
        "heartbeat_seconds": heartbeat.EVERY,
        "ring_step": periodic.RING_STEP,
        "recover_step": periodic.STEP,
    }


def figures(fleet: Fleet, sweepers: Maintenance) -> dict[str, Any]:
    """Return the figures of the time since the fleet measures; times are seconds, rates are a second's."""
    plan, span = fleet.plan, fleet.env.now - fleet.begun
    busy, queued = fleet.busy.mean / plan.processes, fleet.queued.mean  # before anything else moves
    heartbeats = (plan.processes + plan.maintenance) / heartbeat.EVERY
    commands = {name: count / span for name, count in sorted(fleet.commands.items())}
    commands["heartbeat: update tasks_workerprocess"] = heartbeats
    jobs = {name: job_figures(name, sweepers.passes_of(name)) for name in settings.CELERY_BEAT_SCHEDULE}
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
        "sweepers": jobs,
        "maintenance_busy": sum(job["share"] for job in jobs.values()) / plan.maintenance,
        "maintenance_skipped": sweepers.skipped,
        "repairs": spread(fleet.repairs),
        "restarts": spread(fleet.restarts),
    }


def cpu(command: str, fleet: Fleet) -> float:
    """Return the seconds of a core that MongoDB needs for such a command."""
    verb = command.rpartition(": ")[2].split()[0]
    return fleet.costs.write_cpu if verb in WRITES else fleet.costs.read_cpu


def job_figures(name: str, passes: Sequence[Pass]) -> dict[str, Any]:
    """`read`, `written`, `messages`, `seconds`: of its largest pass; `share`: of one process's time, in the mean."""
    period = settings.CELERY_BEAT_SCHEDULE[name]["schedule"]
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
    """Return how many there are, their median, 99th percentile and greatest."""
    ordered = sorted(values)

    def at(share: float) -> float | None:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

    return {"count": len(ordered), "median": at(0.5), "p99": at(0.99), "max": at(1)}
