"""A bulk run's page in a real browser: it moves by itself, and can be stopped."""

import pytest

from tasks.models import Bulk, Status
from tasks.models.bulk import BulkStatus
from tasks.queue import bulk
from tests.conftest import wait_until
from tests.support.browser import assert_accessible
from tests.support.factories import make_robot
from tests.support.probes import make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    monkeypatch.setattr(bulk, "STEP_SIZE", 2)


def begin(count=6):
    robot = make_robot(name="Wall-E").name
    for _ in range(count):
        make_task_in(Status.QUEUED, robot=robot)
    return bulk.start("cancel", by="amy", conditions={"robot": robot})


@pytest.mark.slow
def test_its_progress_moves_without_reloading(visit):
    run, page = begin(), visit("viewer")
    page.goto(f"/admin/tasks/bulk/{run.pk}/change/")
    page.evaluate("document.body.dataset.same = 'page'")
    assert page.locator("progress").get_attribute("max") == "6"
    assert page.get_by_role("button", name="Stop").count() == 0
    assert_accessible(page)
    bulk.step(run)
    page.locator('progress[value="2"]').wait_for()
    bulk.run(run)
    page.locator(".status-DONE").wait_for()
    assert page.locator("progress").count() == 0
    assert page.evaluate("document.body.dataset.same") == "page"


def test_an_operator_stops_it(visit):
    run, page = begin(), visit("operator", size="phone", theme="dark")
    bulk.step(run)
    page.goto("/admin/tasks/bulk/")
    page.get_by_role("link", name="cancel tasks: robot Wall-E").click()
    page.get_by_role("button", name="Stop").click()
    page.get_by_text("Tasks that it changed stay changed").wait_for()
    wait_until(lambda: Bulk.objects.get(pk=run.pk).status == BulkStatus.STOPPED)
    assert page.get_by_role("button", name="Stop").count() == 0
    assert_accessible(page)
