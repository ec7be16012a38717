"""The dashboard and the handlers' pages in a real browser."""

import datetime as dt
import re

import pytest

from fmv.mongodb.server import server_now
from tasks.models import Status, Task, WorkerProcess
from tasks.models.error_document import error_document
from tasks.reports import tallies
from tests.support.browser import SIZES, assert_fine
from tests.support.factories import make_robot, make_task

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]


def number(page, status: str) -> str:
    return page.locator(f"#figure-{status} .fmv-figure").inner_text()


def failed(robot="R2", message="It broke") -> Task:
    at = server_now() - dt.timedelta(minutes=5)
    error = error_document("ValueError", message, "line 1")
    return make_task(robot=robot, status="FAILURE", attempt=1, started_at=at, finished_at=at, error=error)


def a_fleet() -> Task:
    """A bit of everything; returns the task that runs."""
    now = server_now()
    make_robot(name="R2"), make_robot(name="off", enabled=False)
    late, lost = now + dt.timedelta(hours=1), now - dt.timedelta(hours=1)
    for name, queues, seen in (
        ("host/1", ["work"], late),
        ("host/2", ["maintenance"], late),
        ("host/3", ["work"], lost),
    ):
        WorkerProcess.objects.create(name=name, node="node@host", queues=queues, started_at=seen, seen_at=seen)
    failed(message="<b>A sentence</b> " * 20)
    make_task(robot="R2"), make_task(robot="R2", status="RETRY", run_at=now - dt.timedelta(minutes=9))
    tallies.roll_up()
    fields = {"started_at": now, "attempt": 1, "progress": 40.0, "lease_expires_at": now + dt.timedelta(hours=1)}
    return make_task(robot="R2", status="STARTED", lane="R2/0", worker="host/1", **fields)


@pytest.mark.slow
def test_it_moves_without_being_loaded_again(visit):
    page = visit("viewer")
    page.goto("/admin/")
    assert number(page, "QUEUED") == "0"
    page.evaluate("window.loaded = 'once'")
    task = make_task(robot=make_robot(name="Wall-E"))
    page.wait_for_selector("#figure-QUEUED .fmv-figure:text-is('1')")
    page.wait_for_selector("#dashboard-now >> text=for Wall-E")
    error = error_document("RobotOnFire", "It burns")
    Task.objects.filter(pk=task.pk).update(status=Status.FAILURE, finished_at=server_now(), error=error)
    page.wait_for_selector("#figure-FAILURE .fmv-alarming:text-is('1')")
    page.wait_for_selector("#dashboard-rest >> text=RobotOnFire: It burns")
    assert number(page, "QUEUED") == "0"
    assert page.evaluate("window.loaded") == "once"


@pytest.mark.slow
def test_what_a_worker_runs_moves_along(visit):
    task = a_fleet()
    page = visit("viewer")
    page.goto("/admin/")
    page.wait_for_selector("#dashboard-rest progress[value='40.0']")
    Task.objects.filter(pk=task.pk).update(progress=75.5)
    page.wait_for_selector("#dashboard-rest progress[value='75.5']")


def test_from_the_last_failure_to_its_task_is_one_click(visit):
    task = failed()
    page = visit("viewer")
    page.goto("/admin/")
    page.get_by_role("link", name=re.compile("wait for R2")).click()
    page.wait_for_url(f"**/{task.pk}/change/")
    page.goto("/admin/")
    page.get_by_role("link", name="Failed in the last 24 hours").click()
    page.wait_for_url("**/admin/tasks/task/?show=failed")
    assert "R2" in page.locator("#result_list, main").first.inner_text()


def test_the_chart_has_a_table_beside_it(visit):
    failed()
    tallies.roll_up()
    page = visit("viewer")
    page.goto("/admin/")
    page.get_by_text("Show as a table").click()
    assert page.locator("#dashboard-day tbody tr").count() == 48
    assert page.get_by_role("img", name="Tasks that failed").count() == 1


@pytest.mark.parametrize("size", SIZES)
def test_it_is_fine_without_anything_in_it(size, visit):
    page = visit("viewer", size=size)
    page.goto("/admin/")
    assert_fine(page)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_fine_with_all_there_can_be(size, visit):
    a_fleet()
    page = visit("manager", size=size)
    page.goto("/admin/")
    page.get_by_text("Show as a table").click()
    assert_fine(page)


@pytest.mark.parametrize("size", SIZES)
def test_the_handlers_pages_are_fine(size, visit):
    failed()
    page = visit("operator", size=size)
    page.goto("/admin/handlers/")
    assert_fine(page)
    page.get_by_role("link", name="wait", exact=True).click()
    page.get_by_text("JSON Schema").click()
    assert_fine(page)


def test_a_handler_is_run_on_a_robot_by_way_of_its_page(visit):
    make_robot(name="Crow T. Robot")
    page = visit("operator")
    page.goto("/admin/handlers/wait/")
    page.get_by_label("Run on robot").fill("Crow T. Robot")
    page.get_by_role("button", name="Choose parameters").click()
    page.wait_for_url("**/run/?handler=wait*")
    assert "Crow T. Robot" in page.locator("h1").inner_text()
