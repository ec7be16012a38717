"""How pages show moments, durations, sizes."""

import datetime as dt

import pytest
from django.utils import timezone

from fmv.templatetags.display import ago, lasting, pretty, timestamp, weight
from tasks.admin.charts import CHART_HEIGHT, CHART_WIDTH, MAX_BARS, MIN_BAR_HEIGHT, task_bars
from tasks.models import Task
from tasks.templatetags.fleet import duration

NOON = dt.datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s"),
        (0.04, "0.0 s"),
        (0.25, "0.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min"),
        (61, "1 min 1 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h"),
        (3725, "1 h 2 min"),
        (86_400 * 3 + 3600 * 4, "3 d 4 h"),
        (-5, "0 s"),
        (dt.timedelta(minutes=2), "2 min"),
        (None, "\N{EN DASH}"),
    ],
)
def test_how_long_something_took(seconds, shown):
    assert lasting(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(2, "2 s ago"), (119, "1 min ago"), (7300, "2 h ago"), (200_000, "2 d ago"), (-90, "in 1 min")],
)
def test_how_long_ago_something_was(seconds, shown):
    assert f">{shown}</time>" in ago(timezone.now() - dt.timedelta(seconds=seconds, milliseconds=100))


def test_a_moment_is_shown_in_utc_with_its_milliseconds_in_the_title():
    there = NOON.astimezone(dt.timezone(dt.timedelta(hours=5)))
    assert 'title="2026-11-23 12:00:00.250 UTC">2026-11-23 12:00:00</time>' in timestamp(there)
    assert timestamp(None) == ago(None) == "\N{EN DASH}"


def test_json_is_shown_over_lines_and_cut_when_it_is_long():
    assert pretty({"ä": 1}) == '{\n  "ä": 1\n}'
    assert pretty("x" * 200_000).endswith("… cut here; the API returns all of it")
    assert (weight({"ä": 1}), weight("x" * 2000)) == ("8 bytes", "2.0 KiB")


def task(status="SUCCESS", seconds=1.0, **fields):
    return Task(status=status, started_at=NOON, finished_at=NOON + dt.timedelta(seconds=seconds), **fields)


def test_how_long_a_task_took():
    assert duration(task(seconds=3)) == dt.timedelta(seconds=3)
    assert duration(Task(status="REVOKED", finished_at=NOON)) is None
    assert duration(Task(status="RETRY", started_at=NOON)) is None
    assert duration(Task(status="STARTED", started_at=timezone.now() - dt.timedelta(hours=1))).total_seconds() >= 3600


def test_the_chart_has_the_latest_at_the_right_and_the_longest_highest():
    short, long, never = task(seconds=1), task("FAILURE", seconds=10), Task(status="REVOKED", finished_at=NOON)
    drawn = task_bars([short, long, never])
    assert [bar.kind for bar in drawn] == ["ok", "failed", "other"]
    assert [bar.height for bar in drawn] == [CHART_HEIGHT / 10, CHART_HEIGHT, MIN_BAR_HEIGHT]
    assert drawn[0].x > drawn[1].x > drawn[2].x
    assert all(bar.y + bar.height == pytest.approx(CHART_HEIGHT) for bar in drawn)
    full = task_bars([short] * MAX_BARS)
    assert 0 <= full[-1].x < full[0].x + full[0].width <= CHART_WIDTH
    few = task_bars([short] * 6)  # fill the chart, too
    assert few[-1].x < CHART_WIDTH / 60
    assert task_bars([]) == []
