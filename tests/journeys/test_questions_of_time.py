"""Operators' questions about time, answered in a real browser within so many clicks."""

import datetime as dt

import pytest

from fmv.mongodb.server import server_now
from tasks.reports import spans, tallies
from tasks.reports.spans import DAY, HOUR
from tests.support.browser import assert_fine
from tests.support.factories import make_finished, make_robot

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LONG, FOREIGN = "Automated-guided-vehicle-of-hall-17-aisle-23-near-the-north-gate", "搬送ロボット七号"


class Clicks:
    """Counts what an operator clicks on a page."""

    def __init__(self, page) -> None:
        self.page, self.count = page, 0

    def on(self, link) -> None:
        link.click()
        self.count += 1
        self.page.wait_for_load_state()


def store_two_weeks() -> dt.datetime:
    """Store tasks of the last 14 days, those of the last 7 slower; return the last full hour."""
    for name in ("Marvin", LONG, FOREIGN):
        make_robot(name=name, location="Hall 1", labels=["night"])
    until = spans.hour_of(server_now() - dt.timedelta(minutes=1))
    for day in range(14):
        for number, name in enumerate(("Marvin", LONG, FOREIGN)):
            at = until - 30 * tallies.MINUTE - day * DAY
            make_finished(
                at, robot=name, took=300 if day < 7 else 60, status="FAILURE" if number + day == 3 else "SUCCESS"
            )
    while spans.roll_up(until):
        pass
    return until


def test_slower_than_last_week_in_one_click(site, visit):
    store_two_weeks()
    page = visit("viewer")
    page.goto("/admin/")
    clicks = Clicks(page)
    clicks.on(page.get_by_role("link", name="Compare", exact=True))
    assert page.locator("#verdict").get_by_text("run longer than before").is_visible()
    assert clicks.count == 1
    assert_fine(page)
    clicks.on(page.get_by_role("link", name="1 failed").first)
    assert page.get_by_role("heading", name="1 task matches").is_visible()
    assert clicks.count == 2


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_comparing_fits_long_and_foreign_names_and_an_empty_fleet(site, visit, size):
    page = visit("viewer", size=size)
    page.goto("/admin/compare/")
    page.get_by_text("No task finished in either span.").wait_for()
    assert_fine(page)
    store_two_weeks()
    for query in ("by=robot", "by=location&span=day", "by=label&span=month"):
        page.goto(f"/admin/compare/?{query}")
        assert_fine(page)


def test_what_a_robot_did_yesterday_at_two_in_two_clicks(site, visit):
    make_robot(name="Marvin")
    yesterday = spans.day_of(server_now()) - DAY
    asked = make_finished(yesterday + 14.5 * HOUR, "FAILURE", robot="Marvin", took=600)
    make_finished(yesterday + 16.5 * HOUR, robot="Marvin")
    page = visit("viewer")
    page.goto("/admin/robots/robot/Marvin/change/")
    clicks = Clicks(page)
    clicks.on(page.get_by_role("main").get_by_role("link", name="Timeline", exact=True))
    assert_fine(page)
    clicks.on(page.get_by_role("link", name=f"14:00 to 15:00, {yesterday:%a %d %b}"))
    assert clicks.count == 2
    row = page.get_by_role("row").filter(has=page.get_by_text("FAILURE"))
    assert row.get_by_text("10 min").is_visible()
    assert page.get_by_role("region", name="What happened").get_by_role("row").count() == 2  # and the head
    assert_fine(page)
    page.reload()  # the address holds the span
    assert page.get_by_role("region", name="What happened").get_by_role("row").count() == 2
    clicks.on(page.locator("svg.fmv-spans a").first)
    page.wait_for_url(f"**/admin/tasks/task/{asked.pk}/change/")


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_timelines_fit_long_and_foreign_names_and_an_empty_fleet(site, visit, size):
    page = visit("viewer", size=size)
    page.goto("/admin/timeline/")
    page.get_by_text("There are no robots.").wait_for()
    assert_fine(page)
    store_two_weeks()
    page.goto("/admin/timeline/")
    assert_fine(page)
    page.get_by_role("link", name="Week", exact=True).click()
    page.get_by_role("link", name=LONG, exact=True).wait_for()
    assert_fine(page)
    page.get_by_role("link", name=LONG, exact=True).click()
    page.get_by_role("heading", name=f"Timeline of {LONG}").wait_for()
    assert_fine(page)
