"""What /metrics tells of tasks and robots, from `tasks.reports.queue_stats`."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from fmv.monitoring import counters
from tasks.reports import queue_stats

EVENTS = {
    "lost_workers": ("fmv_lost_workers", "Tasks taken from a worker that had stopped renewing its lease."),
    "renewal_failures": ("fmv_lease_renewal_failures", "Renewals of a lease that failed."),
    "doorbells_not_taken": ("fmv_doorbells_not_taken", "Messages that the broker did not take."),
}


def collect() -> Iterator[Metric]:
    yield from _unfinished()
    yield from _finished()
    yield GaugeMetricFamily(
        "fmv_queue_age_seconds", "Wait of the task queued longest, of a robot in service.", queue_stats.queue_age()
    )
    robots = GaugeMetricFamily("fmv_robots", "Robots in service, out of it, and running a task.", labels=["state"])
    for state, count in queue_stats.robots().items():
        robots.add_metric([state], count)
    yield robots
    counts = counters.read()
    for event, (name, help) in EVENTS.items():
        yield CounterMetricFamily(name, help, counts.get(event, 0))


def _unfinished() -> Iterator[Metric]:
    tasks = GaugeMetricFamily(
        "fmv_tasks",
        f"Unfinished tasks; of each status {queue_stats.CAP} at most are counted.",
        labels=["status", "handler"],
    )
    for (status, handler), count in queue_stats.unfinished().items():
        tasks.add_metric([status, handler], count)
    yield tasks


def _finished() -> Iterator[Metric]:
    """Only whole minutes, as tallied: a counter that went back when a robot is deleted would look like a restart."""
    labels = ["status", "handler"]
    tasks = CounterMetricFamily("fmv_tasks_finished", "Tasks that finished, by whole minutes.", labels=labels)
    attempts = CounterMetricFamily("fmv_task_attempts", "Attempts of those tasks that were begun.", labels=labels)
    seconds = CounterMetricFamily("fmv_task_seconds", "Seconds that their last attempts took.", labels=labels)
    for row in queue_stats.totals_of(queue_stats.latest_tally()).rows():
        of = [row["status"], row["handler"]]
        tasks.add_metric(of, row["count"])
        attempts.add_metric(of, row["attempts"])
        seconds.add_metric(of, row["seconds"])
    yield from (tasks, attempts, seconds)
