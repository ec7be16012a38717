"""What needs a person at the workers: none runs, one was lost, or none knows a handler."""

from collections.abc import Iterator

from tasks.reports.attention.lines import Line, Look, Source
from tasks.reports.fleet import unknown_handlers
from tasks.reports.remedies import Remedy

START = "Start a worker: celery -A fmv worker -Q {}"
WITHOUT = {
    "work": "No worker is running: tasks wait until one is started",
    "maintenance": "No maintenance worker is running: due, lost and expired tasks stay as they are until then",
}


def missing_workers(look: Look) -> Iterator[Line]:
    for queue, text in WITHOUT.items():
        if not look.fleet.serves(queue):
            yield Line(text, is_error=True, hint=START.format(queue))


def lost_workers(look: Look) -> Iterator[Line]:
    for process in look.fleet.lost:
        yield Line(
            "Nothing is heard from it, and its tasks were recovered",
            process.seen_at,
            worker=process.name,
            remedy=Remedy("show_workers"),
        )


def handlers_unknown(look: Look) -> Iterator[Line]:
    """Yield handlers of queued tasks that no worker knows, or not in this version. Without any worker, none."""
    known = look.fleet.known_handlers
    if not known:
        return
    on_robots = {queued.handler for queued in look.queued if queued.runs_on == "robot"}
    unknown = {name: count for name, count in unknown_handlers(known).items() if name not in on_robots}
    for handler, count in sorted(unknown.items()):
        remedy = Remedy("show_queued", handler=handler)
        tasks = "1 task waits" if count == 1 else f"{count} tasks wait"
        yield Line(f"No worker knows this handler: {tasks}", handler=handler, remedy=remedy, is_error=True)
    others = {
        queued.handler
        for queued in look.queued
        if queued.runs_on == "worker"
        and queued.params_version
        and f"{queued.handler}@{queued.params_version}" not in known
    }
    for handler in sorted(others - unknown.keys()):
        yield Line(
            "No worker knows the parameters with which queued tasks of this handler were submitted",
            handler=handler,
            remedy=Remedy("show_queued", handler=handler),
            hint="A worker with other parameters takes those that are valid for it; the others wait. Start workers "
            "with the code of the handler, or cancel these tasks.",
        )


FLEET = (
    Source("no_worker", "Workers that are missing", missing_workers, "workers", START.format("work")),
    Source(
        "handler_unknown",
        "Handlers that no worker knows",
        handlers_unknown,
        "handlers",
        "Start or update workers with the code of the handler, or cancel these tasks: their robots wait for them.",
    ),
    Source(
        "worker_lost",
        "Workers lost within a day",
        lost_workers,
        "workers",
        "Read the log of its machine: was it out of memory?",
    ),
)
