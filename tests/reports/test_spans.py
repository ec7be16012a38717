"""Totals of finished tasks by hour and day, robot and handler: tasks.reports.spans."""

import datetime as dt
import random

import pytest

from fmv.mongodb.server import server_now
from tasks import jobs
from tasks.models import SpanTally, Task
from tasks.reports import histogram, spans, tallies
from tasks.reports.spans import DAY, FLEET, HOUR
from tests.support.factories import make_finished
from tests.support.probes import listening

pytestmark = pytest.mark.django_db

MIDNIGHT = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)
LATE = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)


@pytest.fixture(autouse=True)
def _time_enough(monkeypatch):
    monkeypatch.setattr(spans, "BUDGET", 60.0)


def hours(hour: float):
    return MIDNIGHT + hour * HOUR


def all_of(robot, begun=MIDNIGHT, until=LATE, **options):
    return list(spans.between(begun, until, [robot], **options))


# --- Durations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("percent", [50, 95])
def test_a_percentile_is_within_its_error(percent):
    chance = random.Random(1)
    for _ in range(200):
        durations = sorted(10 ** chance.uniform(-2, 5.9) for _ in range(chance.randint(1, 60)))
        counts = {}
        for each in durations:
            counts[histogram.bucket(each)] = counts.get(histogram.bucket(each), 0) + 1
        real = durations[-(-len(durations) * percent // 100) - 1]
        found = histogram.percentile(counts, percent)
        assert abs(found - real) / real <= histogram.ERROR / 100 + 1e-9
    assert histogram.ERROR < 10


def test_durations_beyond_the_buckets_are_counted_in_the_first_or_last():
    assert [histogram.bucket(each) for each in (-1, 0, 0.001, 0.01)] == [0] * 4
    assert histogram.bucket(10**9) == histogram.BUCKETS - 1
    assert histogram.percentile({}, 50) is None


# --- Rolling up ------------------------------------------------------------------------------------------------------


def test_an_hour_is_rolled_up_by_robot_and_handler_when_it_is_over():
    (
        make_finished(hours(8.2)),
        make_finished(hours(8.9), "FAILURE"),
        make_finished(hours(8.5), robot="C3", handler="primes"),
    )
    make_finished(hours(8.5), "REVOKED", started_at=None, attempt=0, history=[])
    assert spans.roll_up(hours(8.99)) == 0
    assert spans.roll_up(hours(9)) == 1
    assert spans.roll_up(hours(9)) == 0
    [of_robot] = all_of("R2")
    assert (of_robot.begun, of_robot.hours) == (hours(8), 1)
    sums = of_robot.handlers["wait"]
    assert (sums.succeeded, sums.failed, sums.cancelled) == (1, 1, 1)
    assert sums.waits == {histogram.bucket(5): 2}
    assert sums.runs == {histogram.bucket(60): 1}  # of successes only
    [of_fleet] = all_of(FLEET)
    assert {name: each.succeeded for name, each in of_fleet.handlers.items()} == {"wait": 1, "primes": 1}


def test_the_periodic_step_rolls_up_the_hours_too():
    make_finished(server_now() - 2 * HOUR)
    tallies.roll_up()
    assert SpanTally.objects.filter(hours=1).count() == 2


def test_the_last_hour_of_a_quiet_fleet_is_rolled_up_too(trusted_clock):
    make_finished(server_now() - 2 * HOUR)
    jobs.forget_runs()
    assert SpanTally.objects.filter(hours=1).count() == 2


def test_what_was_purged_stays_counted():
    make_finished(hours(8.2))
    spans.roll_up(hours(9))
    Task.objects.all().delete()
    assert all_of("R2")[0].handlers["wait"].succeeded == 1


def test_an_hour_that_is_rolled_up_again_is_replaced():
    make_finished(hours(8.2)), make_finished(hours(8.3), robot="C3")
    spans.roll_up(hours(9))
    SpanTally.objects.filter(robot=FLEET).delete()  # as after a crash: the mark of the hour is written last
    assert spans.roll_up(hours(9)) == 1
    assert [span.handlers["wait"].succeeded for span in (*all_of("R2"), *all_of(FLEET))] == [1, 2]


def test_a_day_is_added_up_when_the_next_one_begins():
    for hour in (1.5, 8.5, 8.6, 23.5, 25.5):
        make_finished(hours(hour))
    make_finished(hours(2.5), "FAILURE", robot="C3")
    assert spans.roll_up(hours(24)) == 4
    assert not SpanTally.objects.filter(hours=24).exists()
    assert spans.roll_up(hours(26)) == 1
    assert {tally.robot for tally in SpanTally.objects.filter(hours=24)} == {"R2", "C3", FLEET}
    assert [(span.begun, span.hours) for span in all_of("R2")] == [(hours(0), 24), (hours(25), 1)]
    assert [span.hours for span in all_of("R2", by_day=False)] == [1, 1, 1, 1]
    for options in ({}, {"by_day": False}):
        assert sum(span.handlers["wait"].succeeded for span in all_of("R2", **options)) == 5
    assert [span.begun for span in all_of("R2", hours(2), hours(26))] == [hours(8), hours(23), hours(25)]


def test_a_run_ends_in_time_and_the_next_goes_on(monkeypatch):
    for hour in range(3):
        make_finished(hours(hour + 0.5))
    monkeypatch.setattr(spans, "BUDGET", 0)
    assert [spans.roll_up(hours(40)) for _ in range(4)] == [1, 1, 1, 0]


def test_hours_are_kept_for_a_year():
    old = MIDNIGHT - spans.RETENTION - DAY
    for length in (1, 24):
        SpanTally.objects.create(id=f"old/{length}", robot="R2", hours=length, begun=old)
    make_finished(hours(8.2))
    spans.roll_up(hours(9))
    assert not SpanTally.objects.filter(begun=old).exists()


def test_an_idle_run_asks_twice():
    for limit in (hours(8.5), hours(9), hours(9.5), hours(12)):
        spans.roll_up(limit)
        with listening() as commands:
            spans.roll_up(limit)
        assert len(commands.sent) == 2, commands.sent
        make_finished(hours(8.2))
