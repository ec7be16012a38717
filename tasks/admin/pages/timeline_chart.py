"""The picture of a robot's timeline: pure geometry, in units of their own."""

import datetime as dt
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

from robots.models import Absence
from tasks.models import Status
from tasks.reports.timeline import Bar, Mark, Timeline

WIDTH = 1000
ROW, BAR, LINE = 20, 14, 3  # heights: of a row of attempts, of an attempt in it, of a wait below
ABSENCE = 10
MIN_WIDTH = 2.0
MAX_ROWS = 16  # a robot has no more lanes
MAX_WAITS = 8  # rows of tasks that wait and have not started in the span
KINDS = {Status.SUCCESS: "ok", Status.FAILURE: "failed", Status.RETRY: "retry", Status.STARTED: "runs"}


@dataclass(frozen=True)
class Rect:
    """A rectangle; `kind` is its CSS class. `of`: what it shows."""

    kind: str
    x: float
    y: float
    width: float
    height: float
    of: Bar | Absence | Mark


@dataclass(frozen=True)
class Chart:
    height: int
    rects: list[Rect]
    width: int = WIDTH


class Scale:
    """From times to units."""

    def __init__(self, begun: dt.datetime, until: dt.datetime, width: float = WIDTH) -> None:
        self._begun, self._length, self._width = begun, until - begun, width

    def place(self, begun: dt.datetime, ended: dt.datetime) -> tuple[float, float]:
        """Return x and width of what lasts from one time to another, cut to the span."""
        left, right = (
            min(self._width, max(0.0, self._width * ((at - self._begun) / self._length))) for at in (begun, ended)
        )
        left = min(left, self._width - MIN_WIDTH)
        return round(left, 1), round(max(MIN_WIDTH, right - left), 1)


def chart(found: Timeline) -> Chart:
    """Return the chart: absences at the top, then the attempts in rows, so that no two cover each other, then waits.

    A wait that ended in an attempt is a line below that attempt's row.
    """
    scale, now = Scale(found.begun, found.until), max(found.now, found.begun)
    rects, y = [], 0
    for kind in Absence.Kind.values:
        of_kind = [each for each in found.absences if each.kind == kind]
        rects += [_rect(kind, scale, each.begun, each.ended or now, y, ABSENCE - 2, each) for each in of_kind]
        y += ABSENCE if of_kind else 0
    row_of, rows = _rows(found.attempts, now, MAX_ROWS)
    for bar in found.attempts:
        top = y + ROW * row_of[bar]
        rects.append(_rect(KINDS.get(bar.outcome, "other"), scale, bar.begun, bar.ended or now, top, BAR, bar))
    y += ROW * max(1, rows)
    starts: dict[tuple[uuid.UUID, dt.datetime | None], int]
    starts = {(bar.task, bar.begun): row_of[bar] for bar in found.attempts}
    unmet = [wait for wait in found.waits if (wait.task, wait.ended) not in starts]
    for wait in found.waits:
        if (row := starts.get((wait.task, wait.ended))) is not None:
            top = y - ROW * (max(1, rows) - row) + BAR + 1
            rects.append(_rect("waits", scale, wait.begun, wait.ended or now, top, LINE, wait))
    wait_row, wait_rows = _rows(unmet, now, MAX_WAITS)
    for wait in unmet:
        top = y + (LINE + 2) * wait_row[wait]
        rects.append(_rect("waits", scale, wait.begun, wait.ended or now, top, LINE, wait))
    y += (LINE + 2) * wait_rows
    rects += [_rect("mark", scale, mark.at, mark.at, 0, y, mark) for mark in found.marks]
    return Chart(y, rects)


def _rect(
    kind: str, scale: Scale, begun: dt.datetime, ended: dt.datetime, y: float, height: float, of: Bar | Absence | Mark
) -> Rect:
    x, width = scale.place(begun, ended)
    return Rect(kind, x, y, width, height, of)


def _rows(bars: Sequence[Bar], now: dt.datetime, most: int) -> tuple[dict[Bar, int], int]:
    """Give each bar the first row that is free when it begins, or the last; return that and the number of rows."""
    free: list[dt.datetime] = []
    rows = {}
    for bar in bars:
        row = next((number for number, at in enumerate(free) if at <= bar.begun), len(free))
        if row == len(free) and row < most:
            free.append(bar.begun)
        row = min(row, most - 1)
        free[row] = max(free[row], bar.ended or now)
        rows[bar] = row
    return rows, len(free)
