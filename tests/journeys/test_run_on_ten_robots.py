"""A task with parameters on ten robots, in a real browser with a real worker: within four clicks."""

import os

import pytest

from tasks.models import Status, Task
from tests.conftest import wait_until
from tests.support.browser import assert_fine
from tests.support.clicks import clicks, count_clicks
from tests.support.factories import make_robot

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LONG, FOREIGN = "Automated-guided-vehicle-of-hall-17-aisle-23-near-the-north-gate", "搬送ロボット七号"
NAMES = [LONG, FOREIGN, *(f"AGV {number:02}" for number in range(8))]


@pytest.fixture
def fleet(site, worker):
    worker(os.environ["FMV_BROKER_URL"], processes=2)
    for name in NAMES:
        make_robot(name=name, labels=["night"])


def fill_in_and_run(page) -> None:
    """Choose the handler, fill in the form and send it: two clicks."""
    page.get_by_label("Handler").select_option("wait")
    page.get_by_role("button", name="Choose").click()
    page.get_by_label("seconds").first.fill("0.1")
    page.get_by_role("button", name="Run wait on 10 robots").click()
    page.get_by_role("heading", name="Its tasks").wait_for()


def all_have_run() -> bool:
    return Task.objects.filter(status=Status.SUCCESS).count() == 10


def test_ten_robots_by_their_boxes_in_four_clicks(fleet, visit):
    page = visit("operator")
    count_clicks(page)
    page.goto("/admin/robots/robot/")
    page.get_by_label("All on this page").check()
    page.get_by_role("button", name="Run a task on selected…").click()
    fill_in_and_run(page)
    assert clicks(page) == 4
    wait_until(all_have_run, seconds=60)
    assert sorted(Task.objects.values_list("robot", flat=True)) == sorted(NAMES)
    assert page.get_by_role("region", name="Its tasks").get_by_role("link", name=LONG).is_visible()
    assert_fine(page)
    page.go_back()  # leads to no form that would run it again
    page.wait_for_load_state()
    assert Task.objects.count() == 10


def test_ten_robots_by_a_filter_without_scripts(fleet, visit):
    make_robot(name="Another")
    page = visit("operator", java_script_enabled=False)
    page.goto("/admin/robots/robot/")
    page.get_by_label("Label").fill("night")
    page.get_by_label("Label").press("Enter")
    page.get_by_role("button", name="Run a task on all that match…").click()
    fill_in_and_run(page)
    assert Task.objects.count() == 10
    assert not Task.objects.filter(robot="Another").exists()


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_some_robots_by_their_boxes_and_a_mistake_in_the_form(fleet, visit, size):
    page = visit("operator", size=size)
    page.goto("/admin/robots/robot/")
    for name in (LONG, FOREIGN):
        page.get_by_label(f"Select {name}").check()
    assert_fine(page)
    page.wait_for_timeout(5000)  # the rows are refreshed meanwhile, and the ticks stay
    page.get_by_role("button", name="Run a task on selected…").click()
    page.get_by_role("heading", name="Run a task on 2 robots").wait_for()
    page.get_by_label("Handler").select_option("wait")
    page.get_by_role("button", name="Choose").click()
    page.get_by_label("seconds").first.fill("-1")
    assert_fine(page)
    page.get_by_role("button", name="Run wait on 2 robots").click()
    page.get_by_text("greater than or equal to 0").wait_for()
    assert not Task.objects.exists()
    page.reload()  # shows the answer again, and sends nothing
    page.get_by_text("greater than or equal to 0").wait_for()
    page.get_by_label("seconds").first.fill("0.1")
    page.get_by_role("button", name="Run wait on 2 robots").dblclick()
    page.get_by_role("heading", name="Its tasks").wait_for()
    assert_fine(page)
    wait_until(lambda: Task.objects.count() == 2, seconds=30)
