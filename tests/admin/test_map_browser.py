"""The page Map in a real browser: robots lie over the right pixels of the floor plan, and move by themselves."""

import math
import sys

import pytest

from robots import agents, floor_plans
from robots.models import RobotState
from robots.plan_files import Placement, read_picture
from tests.conftest import wait_until
from tests.support.agent_processes import AGENT
from tests.support.browser import assert_fine, session_of
from tests.support.factories import make_robot, make_task, make_token
from tests.support.plan_files import hall, map_yaml
from tests.support.probes import STARTED

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]

LONG, FOREIGN = "Automated-guided-vehicle-of-hall-17-aisle-23-near-the-north-gate", "搬送ロボット七号"
#: over which pixel of the picture, column and row, a dot's middle is
PIXEL = """([dot, picture]) => {
  const mark = dot.querySelector("use").getBoundingClientRect();
  const at = new DOMPoint(mark.x + mark.width / 2, mark.y + mark.height / 2);
  const { x, y } = at.matrixTransform(picture.getScreenCTM().inverse());
  return [x, y];
}"""


def put(name: str, x: float, y: float, *, map: str = "hall", theta: float | None = 0.5, **state) -> agents.Session:
    session = agents.open_session(make_robot(name=name).name, boot_id="1")
    agents.report(name, session.id, {"position": {"map": map, "x": x, "y": y, "theta": theta}} | state)
    return session


def move(session: agents.Session, x: float, y: float, theta: float = 0.5) -> None:
    RobotState.objects.filter(pk=session.robot).update(reported_at=None)
    agents.report(session.robot, session.id, {"position": {"map": "hall", "x": x, "y": y, "theta": theta}})


def pixel(page, name: str) -> list[float]:
    dot, picture = page.locator(f'[id="at-{name}"]'), page.locator(".fmv-map image").first
    return page.evaluate(PIXEL, [dot.element_handle(), picture.element_handle()])


@pytest.mark.parametrize("size", ["desk", "phone"])
@pytest.mark.parametrize("yaw", [0.0, math.pi / 2, -0.6])
def test_robots_lie_over_the_pixels_where_they_are(visit, size, yaw):
    """The picture of 400 by 200 pixels lies with its lower left corner at (-3, 1), turned by `yaw`."""
    floor_plans.store("hall", Placement(0.05, -3.0, 1.0, yaw), read_picture(hall()), by="fry")
    for name, column, row in (("Corner", 0, 200), ("Middle", 200, 100), ("Shelf", 350, 30)):
        right, up = column * 0.05, (200 - row) * 0.05  # metres from the corner, along the picture's sides
        x, y = -3 + right * math.cos(yaw) - up * math.sin(yaw), 1 + right * math.sin(yaw) + up * math.cos(yaw)
        put(name, x, y)
    page = visit("viewer", size=size)
    page.goto("/admin/map/")
    page.wait_for_function("document.querySelector('.fmv-map image').getBoundingClientRect().width > 100")
    for name, wanted in (("Corner", [0, 200]), ("Middle", [200, 100]), ("Shelf", [350, 30])):
        assert pixel(page, name) == pytest.approx(wanted, abs=1.5), name  # a pixel of the screen is more than one here
    assert_fine(page)


def test_a_robot_moves_by_itself_and_its_dot_leads_to_it(visit):
    floor_plans.store("hall", Placement(0.05, 0.0, 0.0, 0.0), read_picture(hall()), by="fry")
    session = put("R2-D2", 5.0, 5.0)
    make_task(robot=put("Busy", 10, 5).robot, status="STARTED", lane="Busy/0", **STARTED)
    page = visit("viewer")
    page.goto("/admin/map/")
    page.evaluate("document.querySelector('[id=\"at-R2-D2\"]').kept = true")
    assert pixel(page, "R2-D2") == pytest.approx([100, 100], abs=1)
    move(session, 15.0, 2.5)
    wait_until(lambda: pixel(page, "R2-D2") == pytest.approx([300, 150], abs=1))
    assert page.evaluate("document.querySelector('[id=\"at-R2-D2\"]').kept")  # the same element, so that it glides
    page.get_by_role("cell", name="15.00").wait_for()
    agents.close_session("R2-D2", session.id)
    page.locator(".fmv-dot.dot-offline.fmv-old").wait_for()
    assert_fine(page)
    page.locator('[id="at-R2-D2"] use').click()
    page.wait_for_url("**/admin/robots/robot/R2-D2/change/")
    page.locator(".fmv-map-near .fmv-dot").wait_for()
    assert_fine(page)
    page.get_by_role("link", name="Show it on the map hall").click()
    page.wait_for_url("**/admin/map/?map=hall#at-R2-D2")
    assert page.evaluate("document.querySelector(':target').id") == "at-R2-D2"


def test_a_dot_glides_unless_less_motion_is_wanted(visit):
    session = put("R2", 5.0, 5.0)
    put("Other", 15.0, 9.0)
    page = visit("viewer")
    page.goto("/admin/map/")
    seconds = "getComputedStyle(document.querySelector('[id=\"at-R2\"]')).transitionDuration"
    assert page.evaluate(seconds) == "0s"
    page.emulate_media(reduced_motion="no-preference")
    assert page.evaluate(seconds) == "2s"
    page.evaluate("addEventListener('transitionrun', ({ target }) => (document.title = `${target.id} glides`))")
    move(session, 12.0, 6.0)
    wait_until(lambda: page.title() == "at-R2 glides")  # wait_for_function needs eval, which the policy forbids


def test_the_page_works_without_javascript(browser, site):
    session = put("R2", 5.0, 5.0)
    context = browser.new_context(base_url=site, java_script_enabled=False)
    context.add_cookies([{"name": "sessionid", "value": session_of("viewer"), "url": site}])
    page = context.new_page()
    page.goto("/admin/map/")
    assert page.get_by_role("row", name="R2 idle 5.00 5.00 now").is_visible()
    move(session, 6.0, 5.0)
    wait_until(lambda: page.reload() and page.get_by_role("row", name="R2 idle 6.00 5.00 now").is_visible())
    context.close()


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_a_manager_adds_replaces_and_deletes_a_floor_plan(visit, size, tmp_path):
    (tmp_path / "hall.pgm").write_bytes(b"P5\n# map_saver\n400 200\n255\n" + bytes([205]) * 80_000)
    (tmp_path / "hall.png").write_bytes(hall())
    (tmp_path / "hall.yaml").write_bytes(map_yaml(0.05, -10, -5, 0))
    (tmp_path / "large.png").write_bytes(hall() + bytes(5 * 2**20))
    put("R2", 0, 0)
    page = visit("manager", size=size)
    page.goto("/admin/map/")
    assert_fine(page)
    page.get_by_role("link", name="Add a floor plan").click()
    page.get_by_label("Picture").set_input_files(tmp_path / "large.png")
    page.get_by_role("button", name="Store the floor plan").click()
    assert "At most 4,194,304 bytes are allowed." in page.get_by_label("Picture").evaluate("f => f.validationMessage")
    page.get_by_label("Picture").set_input_files(tmp_path / "hall.pgm")
    page.get_by_role("button", name="Store the floor plan").click()
    page.get_by_text("It should be a finite number.").wait_for()
    assert_fine(page)
    page.get_by_label("Picture").set_input_files(tmp_path / "hall.pgm")
    page.get_by_label("YAML file").set_input_files(tmp_path / "hall.yaml")
    page.get_by_role("button", name="Store the floor plan").click()
    page.get_by_text("The floor plan of hall is stored.").wait_for()
    assert pixel(page, "R2") == pytest.approx([200, 100], abs=1)
    assert_fine(page)
    page.get_by_role("link", name="Replace…").click()
    assert page.get_by_label("Metres per pixel").input_value() == "0.05"
    page.get_by_label("Picture").set_input_files(tmp_path / "hall.png")
    page.get_by_label("Metres per pixel").fill("0.1")
    page.get_by_role("button", name="Store the floor plan").click()
    page.get_by_text("Tick the box to replace it.").wait_for()
    assert_fine(page)
    page.get_by_label("Picture").set_input_files(tmp_path / "hall.png")
    page.get_by_label("Replace the floor plan").check()
    page.get_by_role("button", name="Store the floor plan").click()
    page.get_by_text("The floor plan of hall is stored.").wait_for()
    assert pixel(page, "R2") == pytest.approx([100, 150], abs=1)
    page.get_by_role("link", name="Delete…").click()
    assert_fine(page)
    page.get_by_role("button", name="Delete the floor plan").click()
    page.get_by_text("The floor plan of hall is deleted.").wait_for()
    assert page.locator(".fmv-map image").count() == 0


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_maps_fit_long_and_foreign_names_many_robots_and_none(visit, size):
    page = visit("viewer", size=size)
    page.goto("/admin/map/")
    page.get_by_text("No robot reports a position yet.").wait_for()
    assert_fine(page)
    for number, name in enumerate((LONG, FOREIGN, "<b>Bender</b>")):
        put(
            name, 3.0 * number, -2.0 * number, theta=None, errors=[{"type": "jam", "level": "fatal", "description": ""}]
        )
    put("Yard", 0, 0, map="y" * 200)
    page.goto("/admin/map/")
    page.get_by_role("link", name=LONG, exact=True).last.wait_for()
    assert_fine(page)
    page.get_by_role("link", name="y" * 200).click()
    page.get_by_role("heading", name="y" * 200).wait_for()
    assert_fine(page)
    for number in range(60):
        put(f"R{number}", number % 8, number // 8)
    page.goto("/admin/map/?map=hall")
    page.locator(".fmv-map-many").wait_for()
    assert_fine(page)


@pytest.mark.slow
def test_a_sample_robot_is_seen_moving(site, run_process, tmp_path, visit):
    make_robot(name="Bender")
    home = tmp_path / "agent"
    home.mkdir(mode=0o700)
    (home / "token").touch(0o600)
    (home / "token").write_text(make_token(robot="Bender").text)
    run_process(
        "agent", sys.executable, str(AGENT / "sample_robot.py"), site, "--home", str(home), "--stop-seconds", "2"
    )
    wait_until(lambda: RobotState.objects.filter(map="hall").exists(), seconds=60)
    page = visit("viewer")
    page.goto("/admin/map/")
    dot = page.locator("#at-Bender")
    before = dot.get_attribute("transform")
    wait_until(lambda: dot.get_attribute("transform") != before, seconds=60)
