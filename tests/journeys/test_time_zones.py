"""People in several time zones: each sees and types times in their own, and links mean the same to all."""

import datetime as dt

import pytest

from fmv import local_time
from fmv.accounts.models import User
from fmv.mongodb.server import server_now
from tasks.models import Task
from tests.support.browser import assert_fine
from tests.support.clicks import clicks, count_clicks
from tests.support.factories import PASSWORD, make_finished, make_robot, make_user

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.django_db(transaction=True)]

HOUR = dt.timedelta(hours=1)
TOKYO, BERLIN = "Asia/Tokyo", "Europe/Berlin"


def zone_of(page) -> str:
    return page.locator("#footer a").inner_text()


def test_times_are_the_browser_s_from_the_first_page_after_the_sign_in(site, visit):
    page = visit(timezone_id=TOKYO)
    page.goto("/admin/")
    page.get_by_label("User name").fill(make_user("viewer", username="leela").username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("heading", name="Dashboard").wait_for()
    assert zone_of(page) == TOKYO
    assert page.evaluate("performance.getEntriesByType('navigation')[0].type") == "navigate"  # it was not loaded twice


def test_a_browser_that_goes_to_another_zone_has_the_page_loaded_once_more(site, visit):
    task = make_finished(dt.datetime(2026, 11, 26, 20, tzinfo=dt.UTC))
    page = visit("viewer", timezone_id=TOKYO)
    loads = []
    page.on("load", lambda _: loads.append(page.url))
    page.goto(f"/admin/tasks/task/{task.pk}/change/")
    page.locator("#footer").get_by_text(TOKYO).wait_for()
    shown = page.locator("time", has_text="2026-11-27 05:00:00").first
    assert shown.get_attribute("title") == "2026-11-26 20:00:00.000 UTC"
    page.goto("/admin/tasks/task/")
    assert zone_of(page) == TOKYO
    page.wait_for_load_state("load")
    assert len(loads) <= 3, loads


def test_without_scripts_times_are_in_the_server_s_zone_and_the_setting_works(site, visit):
    page = visit("viewer", timezone_id=TOKYO, java_script_enabled=False)
    page.goto("/admin/")
    assert zone_of(page) == "UTC"
    page.get_by_role("link", name="Your settings").click()
    page.get_by_label("Time zone").fill("europe/berlin")
    page.get_by_role("button", name="Save").click()
    assert zone_of(page) == BERLIN


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_choosing_a_zone_by_a_part_of_its_name(site, visit, size):
    user = make_user("viewer", password=None)
    page = visit(user, size=size, timezone_id=TOKYO)
    page.goto("/admin/")
    if size == "phone":
        page.get_by_role("button", name="Menu").click()
    page.get_by_role("link", name="Your settings").click()
    assert_fine(page)
    assert page.get_by_text(TOKYO).first.is_visible()
    page.get_by_label("Time zone").fill("Berlin")
    page.get_by_role("button", name="Save").click()
    page.get_by_text("There is no time zone 'Berlin'. Did you mean Europe/Berlin?").wait_for()
    assert_fine(page)
    assert User.objects.get(pk=user.pk).time_zone is None
    page.get_by_label("Time zone").fill(BERLIN)
    page.get_by_role("button", name="Save").click()
    page.get_by_text("Times are shown in Europe/Berlin.").wait_for()
    assert zone_of(page) == BERLIN
    assert page.locator("#zones option").count() > 400


def test_what_a_robot_did_yesterday_at_two_by_the_reader_s_clock_in_two_clicks(site, visit):
    make_robot(name="Marvin")
    yesterday = local_time.day_of(server_now(), -1, local_time.find(TOKYO))
    asked = make_finished(yesterday + 14.5 * HOUR, "FAILURE", robot="Marvin", took=600)
    make_finished(yesterday + 16.5 * HOUR, robot="Marvin")
    page = visit(make_user("viewer", time_zone=TOKYO, password=None))
    count_clicks(page)
    page.goto("/admin/robots/robot/Marvin/change/")
    page.get_by_role("main").get_by_role("link", name="Timeline", exact=True).click()
    day = yesterday.astimezone(local_time.find(TOKYO))
    page.get_by_role("link", name=f"14:00 to 15:00, {day:%a %d %b}").click()
    row = page.get_by_role("row").filter(has=page.get_by_text("FAILURE"))
    assert row.get_by_text("10 min").is_visible()
    assert row.get_by_text(f"{day:%Y-%m-%d} 14:20:00").is_visible()
    assert page.get_by_label(f"From ({TOKYO})").input_value() == f"{day:%Y-%m-%d} 14:00"
    assert clicks(page) == 2
    assert_fine(page)
    colleague = visit(make_user("viewer", time_zone=BERLIN, password=None))
    colleague.goto(page.url)
    assert colleague.get_by_role("row").filter(has=colleague.get_by_text("FAILURE")).get_by_text("10 min").is_visible()
    assert asked.finished_at.strftime("%H:%M") not in colleague.get_by_label(f"From ({BERLIN})").input_value()


def test_typing_a_span_leads_to_an_address_that_holds_utc(site, visit):
    make_robot(name="Marvin")
    page = visit(make_user("viewer", time_zone=BERLIN, password=None))
    page.goto("/admin/timeline/robot/Marvin/")
    page.get_by_label("From (Europe/Berlin)").fill("2026-10-25 02:30")
    page.get_by_label("To (Europe/Berlin)").fill("2026-10-25 04:00")
    page.get_by_role("button", name="Show").click()
    page.get_by_text("2026-10-25 02:30 comes twice in Europe/Berlin").wait_for()
    assert_fine(page)
    page.get_by_label("From (Europe/Berlin)").fill("2026-10-25 02:30+01:00")
    page.get_by_label("To (Europe/Berlin)").fill("2026-10-25 04:00")
    page.get_by_role("button", name="Show").click()
    page.get_by_text("Nothing happened in this span.").wait_for()
    assert page.url.endswith("from=2026-10-25+02%3A30%2B01%3A00&to=2026-10-25T03%3A00Z")
    assert page.get_by_label("From (Europe/Berlin)").input_value() == "2026-10-25 02:30+01:00"


def test_a_task_for_a_time_that_comes_twice(site, visit):
    make_robot(name="Marvin")
    page = visit(make_user("operator", time_zone=BERLIN, password=None))
    page.goto("/admin/robots/robot/Marvin/run/?handler=wait")
    page.get_by_label("seconds").first.fill("1")
    page.get_by_text("Options: priority").click()
    page.get_by_label("Run at (Europe/Berlin)").fill("2036-10-26T02:30:00")
    page.get_by_role("button", name="Run wait on Marvin").click()
    page.get_by_text("comes twice in Europe/Berlin").wait_for()
    assert not Task.objects.exists()
    assert_fine(page)
    page.get_by_label("Run at (Europe/Berlin)").fill("2036-10-26 02:30+01:00")
    page.get_by_role("button", name="Run wait on Marvin").click()
    page.get_by_text("The task waits for its time.").wait_for()
    assert Task.objects.get().run_at == dt.datetime(2036, 10, 26, 1, 30, tzinfo=dt.UTC)
    assert page.get_by_text("2036-10-26 02:30:00+01:00").first.is_visible()
