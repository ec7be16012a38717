from argparse import ArgumentParser
from typing import Any

from fmv.cli import FmvCommand, Table, add_json
from tasks.models import Status
from tasks.reports import queue_stats

COUNTS = Table(handler=20, **{status.value: 9 for status in Status})


class Command(FmvCommand):
    help = """Print statistics of tasks and robots, as `GET /stats` does.

At most 100,000 tasks of each unfinished status are counted. Finished tasks are all counted, even purged ones."""
    examples = """
        stats
        stats --json | jq .queue_age
    """

    def add_arguments(self, parser: ArgumentParser) -> None:
        add_json(parser)

    def handle(self, *args: object, **options: Any) -> None:
        overview = queue_stats.overview()
        self.answer("\n".join(in_lines(overview)), **overview)


def in_lines(overview: dict[str, Any]) -> list[str]:
    handlers = {"all": overview["tasks"], **overview["handlers"]}
    robots, hour, behind = overview["robots"], overview["last_hour"], overview["behind"]
    return [
        COUNTS.head(),
        *(COUNTS.line({"handler": name, **counts}) for name, counts in handlers.items()),
        "",
        f"Longest wait in a queue: {overview['queue_age']:,.0f} s.",
        "Finished in the last hour: " + ", ".join(f"{count:,} {status}" for status, count in hour.items()) + ".",
        f"Robots: {robots['in_service']:,} in service, {robots['out_of_service']:,} out of service; "
        f"{robots['busy']:,} busy.",
        *([f"Finished tasks are not all counted: the last rollup was {behind:,.0f} s ago."] if behind else []),
    ]
