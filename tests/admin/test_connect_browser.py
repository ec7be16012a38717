""" "Connect this robot" in a real browser."""

import pytest

from robots import agents
from tests.support.api import Api
from tests.support.browser import assert_fine
from tests.support.factories import make_robot

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]


@pytest.mark.slow
@pytest.mark.parametrize("size", ["desk", "phone"])
def test_a_manager_connects_a_robot_and_the_page_goes_green_by_itself(visit, size):
    make_robot(name="Wall-E")
    page = visit("manager", size=size)
    page.goto("/admin/robots/robot/Wall-E/change/")
    page.get_by_role("link", name="Connect this robot").click()
    page.get_by_text("No agent of this robot has called yet.").wait_for()
    assert_fine(page)
    page.get_by_role("button", name="Create a token").click()
    secret = page.get_by_label("Token of Wall-E").input_value()
    page.get_by_text("No agent has used the new token yet.").wait_for()
    assert_fine(page)
    Api(None)("GET", "/robot/", headers={"Authorization": f"Bearer {secret}"})
    page.get_by_text("the robot has not reported yet").wait_for()
    session = agents.open_session("Wall-E", agent="fmv_agent.py", version="1.0.0", boot_id="1", handlers=["drive"])
    agents.report("Wall-E", session.id, {"battery": {"charge": 80.0, "charging": False}})
    page.get_by_text("The new token works.").wait_for()
    assert_fine(page)
    page.get_by_role("link", name="Back to Wall-E").click()
    page.get_by_role("heading", name="Wall-E").wait_for()
