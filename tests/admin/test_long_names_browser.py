"""Lists and pages in a real browser with the longest names there may be: nothing is cut off, and rows stay low."""

import datetime as dt

import pytest

from fmv import audit
from fmv.mongodb.server import server_now
from tasks.models import Status
from tasks.queue import bulk, services
from tasks.reports import tallies
from tests.support.browser import assert_fine, assert_fits
from tests.support.factories import make_finished, make_robot, make_task, make_token, make_user
from tests.support.pages import robot_url, task_url

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]

LONG, CHINESE = "transport-robot-" * 4, "运输机器人" * 6
NAMES = (LONG, CHINESE, "R2")
LISTS = (
    "/admin/",
    "/admin/robots/robot/",
    "/admin/tasks/task/",
    "/admin/fmv/auditentry/",
    "/admin/tasks/bulk/",
    "/admin/fmv/apitoken/",
    "/admin/fmv/user/",
)

#: the boxes that hide a part of a table, and the rows that are too high
CUT_OFF = """() => [...document.querySelectorAll(".fmv-scroll, #changelist-form .results")]
  .filter((box) => !box.closest("details:not([open])"))
  .filter((box) => box.scrollWidth > box.clientWidth + 1)
  .map((box) => `${box.getAttribute("aria-label") ?? box.className}: ${box.scrollWidth} in ${box.clientWidth}`)"""
#: cells whose text lies over the next one
OVERLAPS = """() => [...document.querySelectorAll(".fmv-table :is(td, th)")]
  .filter((cell) => cell.scrollWidth > cell.clientWidth + 1)
  .map((cell) => `${cell.scrollWidth} in ${cell.clientWidth}: ${cell.innerText}`)"""
HIGH = """(most) => [...document.querySelectorAll("#result_list tbody tr, .fmv-rows tbody tr")]
  .filter((row) => row.offsetHeight > most).map((row) => `${row.offsetHeight}: ${row.innerText}`)"""


@pytest.fixture
def fleet():
    who = make_user("manager", is_superuser=True, username="operator-of-the-" * 4, name="W" * 64)
    for name in NAMES:
        robot = make_robot(name=name, location="Hall-" * 12, description="d" * 200, labels=["n" * 30])
        for status in Status:
            make_task(robot=robot, status=status, requested_by=who.username, labels=["n" * 64])
        make_task(robot=robot, requested_by=who.username)
        services.cancel(make_task(robot=robot), by=who.username)
        audit.record("robot.change", by=who.username, kind="robot", key=name, text="location: Lab")
    make_token(robot=LONG)
    make_token(who)
    bulk.start("cancel", by=who.username, conditions={"robot": LONG})
    return who


REPORTS = (
    "/admin/timeline/",
    f"/admin/timeline/robot/{LONG}/",
    "/admin/compare/",
    "/admin/compare/?by=robot",
    "/admin/handlers/",
    "/admin/handlers/http/",
)


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_no_list_is_cut_off_by_a_long_name(visit, fleet, width):
    page = visit(fleet, size="phone" if width == 390 else "desk")
    page.set_viewport_size({"width": width, "height": 900})
    pages = (robot_url(LONG), robot_url(LONG, "connect"), f"/admin/fmv/user/{fleet.pk}/change/")
    for address in (*LISTS, *pages):
        page.goto(address)
        assert_fits(page)
        assert page.evaluate(CUT_OFF) == [], address
        if width > 1000:
            assert page.evaluate(HIGH, 130) == [], address


def test_a_long_name_does_not_break_the_words_of_other_columns(visit, fleet):
    make_robot(name="Data", location="Enterprise")
    page = visit(fleet)
    page.goto("/admin/robots/robot/")
    cell = page.get_by_role("row").filter(has_text="Enterprise").locator("td", has_text="Enterprise")
    assert (
        cell.evaluate("""(cell) => {
      const words = document.createRange();
      words.selectNodeContents(cell);
      return words.getClientRects().length;
    }""")
        == 1
    )


@pytest.mark.parametrize("width", [1440, 1024, 390])
def test_no_table_of_a_report_is_cut_off(visit, width):
    for name in ("W" * 64, *NAMES):
        make_robot(name=name)
        for hours in (2, 3, 24, 24 * 7 + 3):
            make_finished(server_now() - dt.timedelta(hours=hours), "FAILURE", robot=name, took=3000)
        audit.record("robot.change", by="operator-of-the-" * 4, kind="robot", key=name, text="location: Lab")
    while tallies.roll_up_hours():
        pass
    page = visit("viewer", size="phone" if width == 390 else "desk")
    page.set_viewport_size({"width": width, "height": 900})
    for address in REPORTS:
        page.goto(address)
        assert page.locator(".fmv-rows tbody tr").count() > 1, address
        assert_fits(page)
        assert page.evaluate(CUT_OFF) == [], address
        assert page.evaluate(HIGH, 190 if width == 390 else 130) == [], address
        assert page.evaluate(OVERLAPS) == [], address


def test_the_audit_on_a_phone_shows_what_was_done_to_what(visit, fleet):
    page = visit(fleet, size="phone")
    page.goto("/admin/fmv/auditentry/")
    row = page.locator("#result_list tbody tr").filter(has_text="robot.change").first
    for part in ("when", "who", "action", "object"):
        box = row.locator(f".field-{part}").bounding_box()
        assert box["width"] > 0, part
        assert box["x"] + box["width"] <= 390, part
    assert_fine(page)


def test_pages_with_the_longest_names_are_fine(visit, fleet):
    task = make_task(robot=LONG, status="FAILURE")
    page = visit(fleet, size="phone")
    for address in (robot_url(LONG), robot_url(CHINESE, "run"), robot_url(LONG, "out"), task_url(task)):
        page.goto(address)
        assert_fine(page)


def test_a_page_is_printed_without_what_one_can_only_click(visit, fleet):
    page = visit(fleet)
    page.goto(robot_url("R2"))
    assert page.get_by_role("link", name="Run a task").is_visible()
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.get_by_role("link", name="Run a task").is_visible()
    assert not page.get_by_role("navigation", name="Main").is_visible()
    assert page.get_by_role("heading", name="R2").is_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "light"
    assert page.evaluate(CUT_OFF) == []


def test_lists_are_printed_as_tables_as_wide_as_the_paper(visit, fleet):
    page = visit(fleet)
    page.set_viewport_size({"width": 718, "height": 1000})  # A4 with a margin of 1 cm
    for address in (*LISTS[1:3], "/admin/timeline/"):
        page.emulate_media(media="screen")
        page.goto(address)
        page.emulate_media(media="print")
        assert_fits(page)
        assert page.locator("thead:visible").count(), address
