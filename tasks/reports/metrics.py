"""The metrics of tasks and robots at /metrics."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fmv.monitoring import counters
from tasks.reports import queue_stats, tallies
from tasks.reports.attention import of_robots
from tasks.reports.fleet import unknown_handlers

EVENTS = {
    "lost_workers": (
        "fmv_lost_workers",
        "Tasks that were recovered from a worker that had stopped renewing its lease.",
    ),
    "clock_jumps": ("fmv_mongodb_clock_jumps", "Jumps of MongoDB's clock that a maintenance process has noticed."),
    "renewal_failures": ("fmv_lease_renewal_failures", "Failed renewals of a lease."),
    "sessions_replaced": (
        "fmv_sessions_replaced",
        "Sessions of agents that seemed to live, ended by newer ones: restarts, or two agents with one token.",
    ),
    "agent_leases_lost": ("fmv_agent_leases_lost", "Attempts on robots that fell silent for their lease."),
    "doorbells_not_taken": ("fmv_doorbells_not_taken", "Messages that could not be sent to the broker."),
}


def collect() -> Iterator[Metric]:
    yield from _unfinished()
    yield from _finished()
    yield GaugeMetricFamily(
        "fmv_queue_age_seconds",
        "Seconds since the task queued longest for a robot in service was queued.",
        queue_stats.queue_age(),
    )
    unknown = GaugeMetricFamily(
        "fmv_tasks_without_worker", "Queued tasks whose handler no living worker knows.", labels=["handler"]
    )
    for handler, count in unknown_handlers().items():
        unknown.add_metric([handler], count)
    yield unknown
    robots = GaugeMetricFamily(
        "fmv_robots",
        "Robots in service, out of service, running a task; with an agent that is online or offline; online with less "
        "than 20 % of charge, or with errors that they report.",
        labels=["state"],
    )
    for state, count in queue_stats.robots().items():
        robots.add_metric([state], count)
    yield robots
    alarms = GaugeMetricFamily(
        "fmv_robot_alarms",
        "Robots that two agents seem to share, that say they run another task, or whose agent does not know a task's "
        "handler.",
        labels=["alarm"],
    )
    for alarm, count in of_robots.alarms().items():
        alarms.add_metric([alarm], count)
    yield alarms
    counts = counters.read()
    for event, (name, help) in EVENTS.items():
        yield CounterMetricFamily(name, help, counts.get(event, 0))


def _unfinished() -> Iterator[Metric]:
    tasks = GaugeMetricFamily(
        "fmv_tasks",
        f"Unfinished tasks; at most {queue_stats.MAX_COUNTED} of each status are counted.",
        labels=["status", "handler"],
    )
    for (status, handler), count in queue_stats.unfinished().items():
        tasks.add_metric([status, handler], count)
    yield tasks


def _finished() -> Iterator[Metric]:
    """Yield counters of whole minutes, from the latest tally.

    Counting tasks would make a counter decrease when a robot is deleted, which Prometheus would take for a restart.
    """
    labels = ["status", "handler"]
    tasks = CounterMetricFamily("fmv_tasks_finished", "Finished tasks, updated once a minute.", labels=labels)
    attempts = CounterMetricFamily("fmv_task_attempts", "Attempts of finished tasks.", labels=labels)
    seconds = CounterMetricFamily(
        "fmv_task_seconds", "Seconds that the last attempts of finished tasks took.", labels=labels
    )
    for row in tallies.totals_of(tallies.latest_tally()).rows():
        of = [row["status"], row["handler"]]
        tasks.add_metric(of, row["count"])
        attempts.add_metric(of, row["attempts"])
        seconds.add_metric(of, row["seconds"])
    yield from (tasks, attempts, seconds)
