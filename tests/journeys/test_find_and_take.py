"""The operators' day: find by a part of an id, of a name in any case, by a label (a submit, and Enter opens it); these
rows as a file (one click).
"""

import csv
import json
import os
import re

import pytest

from fmv.audit.models import AuditEntry
from fmv.mongodb.server import server_now
from tasks.models import Task, TaskEnding
from tasks.queue import services
from tests.conftest import wait_until
from tests.support.browser import SIZES, assert_fine
from tests.support.clicks import clicks, count_clicks
from tests.support.factories import make_robot, make_task, make_user
from tests.support.pages import task_url

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LONG = "Вальтер-" * 8  # 64 characters


@pytest.fixture
def leela(visit):
    def open_page(**options):
        page = visit(make_user("operator", username="leela"), **options)
        count_clicks(page)
        return page

    return open_page


def found(page, text):
    """Type the text into the box that the key / leads to, send it, and wait for what is found."""
    page.keyboard.press("/")
    page.keyboard.type(text)
    page.keyboard.press("Enter")
    page.wait_for_url("**/admin/find/?q=*")


@pytest.mark.parametrize("size", SIZES)
def test_whatever_an_operator_types_is_found_from_any_page_and_enter_opens_it(leela, size):
    make_robot(name="Crow T. Robot", labels=["lift 5 kg"]), make_robot(name=LONG)
    task = make_task(robot=LONG, labels=["night shift"])
    page = leela(size=size)
    page.goto("/admin/tasks/task/")
    end = page.get_by_text(str(task.pk)[-8:]).first.inner_text()
    robot = "**/admin/robots/robot/Crow*/change/"
    for start, text, goal in (
        ("/admin/", end, f"**{task_url(task)}"),
        ("/admin/tasks/task/", str(task.pk)[-6:], f"**{task_url(task)}"),
        ("/admin/fmv/auditentry/", "crow", robot),
        ("/admin/compare/", "LIFT 5", robot),
        ("/admin/handlers/", "night shift", "**/admin/tasks/task/?label=night*"),
        ("/admin/fmv/apitoken/", "prime", "**/admin/handlers/primes/"),
    ):
        page.goto(start)
        found(page, text)
        page.wait_for_function("() => document.activeElement.closest('.fmv-found') !== null")
        page.keyboard.press("Enter")
        page.wait_for_url(goal)
    assert clicks(page) == 0, "the keyboard is enough"
    found(page, "вальтер")
    assert_fine(page)


def test_without_a_keyboard_it_is_a_touch_into_the_box(leela):
    make_robot(name="Crow T. Robot")
    page = leela(size="phone")
    page.goto("/admin/")
    page.get_by_role("searchbox", name="Find").click()
    page.keyboard.type("crow")
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Crow T. Robot", exact=True).wait_for()
    assert clicks(page) == 1


def test_the_key_writes_a_slash_where_something_is_typed_and_the_box_works_without_javascript(browser, site, leela):
    page = leela()
    page.goto("/admin/tasks/task/")
    field = page.get_by_label("Label")
    field.click()
    page.keyboard.type("a/b")
    assert field.input_value() == "a/b"
    make_robot(name="Crow T. Robot")
    cookies = page.context.cookies()
    with browser.new_context(base_url=site, java_script_enabled=False) as plain:
        plain.add_cookies(cookies)
        page = plain.new_page()
        page.goto("/admin/")
        page.get_by_role("searchbox", name="Find").fill("crow")
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Crow T. Robot", exact=True).click()
        page.wait_for_url("**/admin/robots/robot/Crow*/change/")


def test_nothing_found_says_what_can_be_found(leela):
    page = leela()
    page.goto("/admin/")
    found(page, "swordfish")
    assert page.get_by_text("Nothing was found").is_visible()
    assert_fine(page)


def test_a_real_maintenance_worker_notes_the_ends_of_ids(site, maintenance, leela):
    task = services.submit({"robot": make_robot().name, "handler": "noop"}, by="fry")
    maintenance(os.environ["FMV_BROKER_URL"])
    wait_until(lambda: TaskEnding.objects.filter(pk=task.pk.hex[::-1]).exists(), 60)
    page = leela()
    page.goto("/admin/")
    found(page, str(task.pk)[-8:])
    page.keyboard.press("Enter")
    page.wait_for_url(f"**{task_url(task)}")


# --- These rows as a file --------------------------------------------------------------------------------------------


def store_tasks(count, **fields):
    about = {"robot": "Crow", "handler": "noop", "timeout": 1.0, "requested_by": "fry", "labels": ["night"]} | fields
    for begun in range(0, count, 500):
        Task.objects.bulk_create(Task(**about) for _ in range(min(500, count - begun)))


@pytest.mark.parametrize("size", SIZES)
def test_these_rows_as_csv_are_one_click_and_only_these(leela, size):
    store_tasks(120), store_tasks(3, labels=["day"])
    page = leela(size=size)
    page.goto("/admin/tasks/task/?label=night")
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV", exact=True).click()  # 1
    assert clicks(page) == 1
    file = download.value
    assert file.suggested_filename == f"fmv-tasks-{server_now():%Y-%m-%d}.csv"
    with open(file.path(), encoding="utf-8-sig", newline="") as sheet:
        assert {row["id"] for row in csv.DictReader(sheet)} == {
            str(id) for id in Task.objects.filter(labels__contains=["night"]).values_list("pk", flat=True)
        }
    page.get_by_text(f"120 rows saved as {file.suggested_filename}.").wait_for()
    page.get_by_text("About the files").click()
    assert_fine(page)


def test_every_list_is_one_click_away_from_its_json_lines(visit):
    make_robot(name="Crow")
    page = visit(make_user("", is_superuser=True, username="root"))
    count_clicks(page)
    lists = ("robots/robot", "fmv/auditentry", "tasks/bulk", "fmv/user", "fmv/apitoken")
    for number, model in enumerate(lists, start=1):
        page.goto(f"/admin/{model}/")
        with page.expect_download() as download:
            page.get_by_role("link", name="JSON lines", exact=True).click()
        assert clicks(page) == number
        page.get_by_text(re.compile("rows? saved as")).wait_for()
        assert_fine(page)
        with open(download.value.path()) as lines:
            assert all(json.loads(line) for line in lines)
    exported = AuditEntry.objects.filter(action="list.export", by="root").values_list("key", flat=True)
    assert {*exported} == {"robots", "audit", "bulk-runs", "users", "api-tokens"}


def test_a_long_file_shows_its_rows_as_they_come_and_can_be_cancelled(leela):
    store_tasks(20_000, message="x" * 500)  # more than the buffers between server and browser hold
    page = leela()
    page.goto("/admin/tasks/task/")
    network = page.context.new_cdp_session(page)
    slow = {"offline": False, "latency": 0, "downloadThroughput": 150_000, "uploadThroughput": -1}
    network.send("Network.emulateNetworkConditions", slow)
    page.get_by_role("link", name="CSV", exact=True).click()
    bar = page.get_by_role("progressbar", name="Rows that have come")
    page.wait_for_function("() => document.querySelector('.fmv-export-state progress')?.value > 0")
    assert bar.get_attribute("max") == "20000"
    assert page.get_by_text(re.compile("rows? of 20,000")).is_visible()
    assert_fine(page)
    page.get_by_role("button", name="Cancel", exact=True).click()
    page.get_by_text(re.compile("Cancelled after [0-9,]+ rows; nothing was saved.")).wait_for()
    wait_until(lambda: AuditEntry.objects.filter(action="list.export").exists(), 60)
    assert "rows as CSV, given up by the client" in AuditEntry.objects.get().text


def test_without_javascript_it_is_a_plain_download(browser, site, leela):
    store_tasks(3)
    cookies = leela().context.cookies()
    with browser.new_context(base_url=site, java_script_enabled=False) as context:
        context.add_cookies(cookies)
        page = context.new_page()
        page.goto("/admin/tasks/task/")
        with page.expect_download() as download:
            page.get_by_role("link", name="CSV", exact=True).click()
        assert download.value.suggested_filename.endswith(".csv")
        with open(download.value.path(), encoding="utf-8-sig", newline="") as sheet:
            assert len([*csv.DictReader(sheet)]) == 3


def test_who_is_signed_out_meanwhile_is_led_to_the_sign_in(leela):
    store_tasks(3)
    page = leela()
    page.goto("/admin/tasks/task/")
    page.context.clear_cookies()
    page.get_by_role("link", name="CSV", exact=True).click()
    page.get_by_role("heading", name="Sign in").wait_for()
