"""Comparing a span with the one before: tasks.reports.comparison, the API's route and the admin's page."""

import datetime as dt
import re
from unittest.mock import patch

import pytest

from tasks.models import SpanTally
from tasks.reports import comparison, histogram, spans
from tasks.reports.comparison import NO_LABEL, NO_LOCATION, Asked, compare
from tasks.reports.spans import DAY, HOUR
from tests.support.api import Api, assert_refused
from tests.support.factories import make_finished, make_robot
from tests.support.pages import admin, text
from tests.support.probes import listening

pytestmark = pytest.mark.django_db

UNTIL = dt.datetime(2026, 11, 26, 14, tzinfo=dt.UTC)  # a Thursday
MORNING = UNTIL.replace(hour=0)


def fill():
    """Store two weeks: this one has a day with failures, and longer runs; all of it is rolled up."""
    make_robot(name="R2", location="Hall 1", labels=["heavy", "night"])
    make_robot(name="C3", location="Hall 2")
    for day in range(14):
        at = UNTIL - 2 * HOUR - day * DAY
        make_finished(at, took=100 if day < 7 else 50)
        make_finished(at, robot="C3", handler="primes", waited=20)
    make_finished(UNTIL - 3 * HOUR - 2 * DAY, "FAILURE")
    make_finished(UNTIL - 3 * HOUR - 2 * DAY, robot="Gone")
    while spans.roll_up(UNTIL):
        pass


def near(seconds):
    return pytest.approx(seconds, rel=histogram.ERROR / 100)


def asked(**words):
    return compare(Asked(until=UNTIL, **words))


def by_name(found):
    return {group.name: (group.now.finished, group.before.finished) for group in found.groups}


def test_a_week_is_today_so_far_and_six_days_against_the_same_a_week_earlier():
    fill()
    found = asked()
    assert (found.now.begun, found.now.until) == (MORNING - 6 * DAY, UNTIL)
    assert (found.before.begun, found.before.until) == (MORNING - 13 * DAY, UNTIL - 7 * DAY)
    assert by_name(found) == {"wait": (9, 7), "primes": (7, 7)}
    group = found.groups[0]
    assert group.now.success_rate == pytest.approx(100 * 8 / 9)
    assert (group.now.run_p95, group.before.run_p95) == (near(100), near(50))
    assert found.groups[1].now.wait_p50 == near(20)
    assert group.now.per_hour == pytest.approx(9 / (6 * 24 + 14))
    assert [column.figures.finished for column in found.columns] == [2] * 11 + [4, 2, 2]
    assert [column.period.hours for column in found.columns] == [24] * 6 + [14] + [24] * 6 + [14]


def test_a_day_is_24_hours_against_the_24_before():
    fill()
    found = asked(span="day")
    assert by_name(found) == {"wait": (1, 1), "primes": (1, 1)}
    assert len(found.columns) == 48
    assert found.columns[-2].figures.finished == 2


def test_a_span_that_ends_at_midnight_has_whole_days():
    [now, before] = Asked(until=MORNING).periods()
    assert (now.begun, now.until, before.until) == (MORNING - 7 * DAY, MORNING, MORNING - 7 * DAY)
    [now, _] = Asked(span="month", until=UNTIL).periods()
    assert now.begun == MORNING - 27 * DAY


def test_rows_by_robot_location_and_label():
    fill()
    assert by_name(asked(by="robot")) == {"R2": (8, 7), "C3": (7, 7), "Gone": (1, 0)}
    assert by_name(asked(by="location")) == {"Hall 1": (8, 7), "Hall 2": (7, 7), NO_LOCATION: (1, 0)}
    assert by_name(asked(by="label")) == {"heavy": (8, 7), "night": (8, 7), NO_LABEL: (8, 7)}


def test_rows_of_a_handler_a_robot_a_location_a_label():
    fill()
    assert by_name(asked(by="robot", handler="primes")) == {"C3": (7, 7)}
    assert by_name(asked(robot="C3")) == {"primes": (7, 7)}
    assert by_name(asked(location="Hall 1")) == {"wait": (8, 7)}
    assert by_name(asked(label="night", by="robot")) == {"R2": (8, 7)}
    assert by_name(asked(label="night", robot="C3")) == {}
    assert asked(robot="C3").total.now.finished == 7


def test_it_costs_the_same_with_many_tasks_and_says_when_it_stops():
    fill()
    with listening() as commands:
        asked(by="robot")
    assert set(commands.sent) == {"aggregate tasks_spantally", "find tasks_spantally"}
    assert len(commands.sent) <= 8
    assert asked(by="robot").complete
    with patch.object(comparison, "MAX_SPANS", 5):
        assert not asked(by="robot").complete


def test_a_fleet_without_tasks():
    found = compare(Asked())
    assert (found.groups, found.total.now.success_rate, found.total.now.run_p95) == ([], None, None)


# --- The API ---------------------------------------------------------------------------------------------------------


def test_programs_get_the_same():
    fill()
    answer = Api("viewer")("GET", "/compare?by=robot&until=2026-11-26T14:59:00Z")
    assert answer.status_code == 200
    found = answer.json()
    assert found["now"] == {"begin": "2026-11-20T00:00:00.000Z", "end": "2026-11-26T14:00:00.000Z"}
    assert found["before"]["end"] == "2026-11-19T14:00:00.000Z"
    assert [group["name"] for group in found["groups"]] == ["R2", "C3", "Gone"]
    assert found["groups"][0]["now"] == {
        "succeeded": 7, "failed": 1, "cancelled": 0, "success_rate": 87.5, "per_hour": pytest.approx(8 / 158),
        "wait_p50": near(5), "wait_p95": near(5), "run_p50": near(100), "run_p95": near(100),
    }  # fmt: skip
    assert (found["total"]["now"]["failed"], found["complete"]) == (1, True)


def test_the_api_refuses_what_it_does_not_know():
    api = Api("viewer")
    years = [f"until={year}T23:00:00Z&span={span}" for year in ("0001-01-01", "9999-12-31") for span in ("day", "week")]
    for query in ("by=colour", "span=year", "until=yesterday", "zzz=1", "robot=", *years):
        answer = api("GET", f"/compare?{query}")
        assert_refused(answer, 422)
        assert answer.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


# --- The page --------------------------------------------------------------------------------------------------------

PAGE = "/admin/compare/?until=2026-11-26T14:00Z"


def test_the_page_says_what_changed():
    fill()
    page = text(admin("viewer").get(PAGE))
    assert "Tasks wait as long as before (95 % at most" in page
    assert "and run longer than before (95 % at most" in page
    assert "93.8 % succeed (before: 100.0 %)." in page
    assert "In UTC." in page


def test_a_bad_day_is_one_click_from_its_tasks():
    fill()
    failed = make_finished(UNTIL - 3 * HOUR - 2 * DAY, "FAILURE", handler="http")
    other = make_finished(UNTIL - 3 * HOUR - 3 * DAY, "FAILURE", handler="http")
    client = admin("viewer")
    page = text(client.get(PAGE))
    [link] = re.findall('<a href="([^"]*)" aria-label="1 failed, Tue 24 Nov">', page)
    listed = text(client.get(link.replace("&amp;", "&")))
    assert str(failed.pk) in listed
    assert str(other.pk) not in listed
    assert 'value="2026-11-24 00:00"' in listed


def test_each_row_leads_to_what_is_within_it():
    fill()
    client = admin("viewer")
    for by, name, within in (("handler", "wait", "R2"), ("robot", "R2", "wait"), ("location", "Hall 1", "R2")):
        page = text(client.get(f"{PAGE}&by={by}"))
        [link] = re.findall(f'<th scope="row" class="fmv-name"><a href="([^"]*)">{name}</a>', page)
        rows = re.findall(
            'class="fmv-name"><a [^>]*>([^<]*)</a>', text(client.get(f"/admin/compare/{link.replace('&amp;', '&')}"))
        )
        assert within in rows


def test_the_page_refuses_what_it_does_not_know():
    client = admin("viewer")
    for query in ("by=colour", "span=year", "until=yesterday", "zzz=1", "robot=%00", "until=0001-01-01T00:00%2B14:00"):
        page = text(client.get(f"/admin/compare/?{query}"))
        assert "The address is not valid." in page, query


def test_who_may_see_the_page():
    assert admin("").get("/admin/compare/").status_code in (302, 403)
    assert "No task finished in either span." in text(admin("viewer").get("/admin/compare/"))


def test_a_long_name_and_one_like_html_are_shown_as_they_are():
    for name in ("<b>R2</b>", "車" * 64):
        make_finished(UNTIL - 2 * HOUR, robot=name)
    spans.roll_up(UNTIL)
    assert SpanTally.objects.filter(robot="<b>R2</b>").exists()
    page = text(admin("viewer").get(f"{PAGE}&by=robot"))
    assert "&lt;b&gt;R2&lt;/b&gt;" in page
    assert "<b>R2</b>" not in page
    assert "車" * 64 in page
