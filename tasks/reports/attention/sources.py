"""What needs a person: the dashboard, `GET /attention` and `manage.py doctor` show the same list.

SOURCES is the list in code. A source is a function that looks at one kind of trouble and yields a line for each robot,
task, handler or worker that has it. To add a kind, write such a function and add its Source.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from tasks.reports.attention.lines import Line, Look, Source
from tasks.reports.attention.of_fleet import FLEET
from tasks.reports.attention.of_robots import ROBOTS
from tasks.reports.attention.of_tasks import TASKS
from tasks.reports.fleet import Fleet

#: all kinds of trouble, in the order in which they are shown
SOURCES: tuple[Source, ...] = (*FLEET, *ROBOTS, *TASKS)
MAX_COUNTED = 1000  # lines of a source that are counted


@dataclass(frozen=True)
class Found:
    """The first lines of a source, and the number of the others: at most MAX_COUNTED."""

    source: Source
    lines: list[Line] = field(default_factory=list)
    more: int = 0


def found(shown: int, sources: Iterable[Source] = SOURCES, fleet: Fleet | None = None) -> list[Found]:
    """Return what needs a person, by source, without sources that have nothing; of each the first `shown` lines.

    `fleet`: the fleet, if the caller has just read it. The number of queries is fixed, and each is bounded.
    """
    look = Look(shown, fleet)
    answers = []
    for source in sources:
        lines = iter(source.find(look))
        if first := list(islice(lines, shown)):
            answers.append(Found(source, first, sum(1 for _ in islice(lines, MAX_COUNTED))))
    return answers
