"""The operators' day: re-run last night's failures of a handler, of any span, in three clicks."""

import datetime as dt
import re

import pytest

from fmv.mongodb.server import server_now
from tasks.models import Bulk, Status, Task
from tasks.reports import tallies
from tests.support.browser import SIZES, assert_fine
from tests.support.clicks import clicks, count_clicks
from tests.support.factories import make_robot, make_task

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.django_db(transaction=True)]

HOUR = dt.timedelta(hours=1)


def failed(ago: float, handler: str = "wait", **fields) -> Task:
    end = server_now() - ago * HOUR
    return make_task(
        **{"robot": "Wall-E", "handler": handler, "status": Status.FAILURE, "attempt": 1} | fields,
        params={"seconds": 1} if handler == "wait" else {},
        started_at=end,
        finished_at=end,
    )


@pytest.fixture
def night() -> list[Task]:
    """Failures of last night, which are not the only ones, and two that somebody has retried."""
    make_robot(name="Wall-E")
    tasks = [failed(8 + number / 10) for number in range(6)]
    failed(8, handler="noop"), failed(50), failed(8, status=Status.SUCCESS)
    for task in tasks[:2]:
        make_task(robot="Wall-E", handler="wait", retry_of=task.pk)
    tallies.roll_up()
    return tasks


def operator(visit, size="desk"):
    page = visit("operator", size=size)
    count_clicks(page)
    page.goto("/admin/")
    return page


@pytest.mark.parametrize("size", SIZES)
def test_last_night_s_failures_of_a_handler_run_again_with_three_clicks(site, visit, night, size):
    page = operator(visit, size)
    page.locator("#failed-by-handler").get_by_role("link", name="wait 6").click()  # 1
    page.get_by_role("heading", name="6 tasks match, newest first").wait_for()
    page.get_by_role("button", name="Retry all that match").click()  # 2
    page.get_by_role("heading", name="Retry 4 tasks?").wait_for()
    assert page.get_by_text("and 2 that were retried before").is_visible()
    assert_fine(page)
    page.get_by_role("button", name="Retry 4 tasks", exact=True).click()  # 3
    page.get_by_text("DONE").first.wait_for()
    assert clicks(page) == 3
    assert_fine(page)
    run = Bulk.objects.get()
    new = set(Task.objects.filter(request_id=run.request_id).values_list("pk", "retry_of"))
    assert {of for _, of in new} == {task.pk for task in night[2:]}
    page.get_by_role("link", name="4 new tasks").click()
    page.get_by_role("heading", name="4 tasks match, newest first").wait_for()
    assert_fine(page)
    rows = page.locator("#fmv-rows").get_by_role("link", name="wait", exact=True)
    assert {row.get_attribute("href").split("/")[-3] for row in rows.all()} == {str(pk) for pk, _ in new}


def test_failures_of_any_span_run_again_with_three_clicks(site, visit, night):
    page = operator(visit)
    page.get_by_role("link", name="Failed in the last 24 hours").click()  # 1
    begun, until = (f"{server_now() - ago * HOUR:%Y-%m-%dT%H:%MZ}" for ago in (51, 8.25))
    page.get_by_label("Handler", exact=True).fill("wait")
    page.get_by_label(re.compile("^Finished after")).fill(begun)
    page.get_by_label(re.compile("^Finished before")).fill(until)
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="4 tasks match, newest first").wait_for()
    page.get_by_role("button", name="Retry all that match").click()  # 2
    page.get_by_role("button", name="Retry 4 tasks", exact=True).click()  # 3
    page.get_by_role("link", name="4 new tasks").wait_for()
    assert clicks(page) == 3


def test_back_counts_those_that_were_just_retried_no_more(site, visit, night):
    page = operator(visit)
    page.goto("/admin/tasks/task/?status=FAILURE&handler=wait")
    page.get_by_role("button", name="Retry all that match").click()
    page.get_by_role("button", name="Retry 5 tasks", exact=True).click()
    page.get_by_role("link", name="5 new tasks").wait_for()
    page.goto("/admin/tasks/task/?status=FAILURE&handler=wait")
    page.get_by_role("button", name="Retry all that match").click()
    page.get_by_role("heading", name="Retry 7 tasks again?").wait_for()
    assert page.get_by_text("All of these were retried before.").is_visible()
    assert_fine(page)
    page.get_by_role("button", name="Retry 7 tasks again").click()
    page.get_by_role("link", name="7 new tasks").wait_for()
