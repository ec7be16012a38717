"""Twenty robots from a spreadsheet, in a real browser: choose it, see what it does, confirm."""

import pytest

from robots.models import Robot
from tests.support.browser import assert_fine
from tests.support.clicks import clicks, count_clicks
from tests.support.factories import make_robot

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LONG, FOREIGN = "Automated-guided-vehicle-of-hall-17-aisle-23-near-the-north-gate", "搬送ロボット七号"
NAMES = [LONG, FOREIGN, *(f"AGV {number:02}" for number in range(18))]


def file(rows: list[str], name: str = "fleet.csv", end: str = "\r\n") -> dict:
    text = "\N{BOM}" + end.join(["name;location;description;labels", *rows]) + end
    return {"name": name, "mimeType": "text/csv", "buffer": text.encode()}


def choose(page, content: dict) -> None:
    """Click on the field and choose the file, as a person does."""
    with page.expect_file_chooser() as chooser:
        page.get_by_label("File", exact=True).click()
    chooser.value.set_files(content)


def test_twenty_robots_in_three_clicks(site, visit):
    page = visit("manager")
    page.goto("/admin/robots/robot/")
    count_clicks(page)
    page.reload()
    page.get_by_role("link", name="Add robots from a file").click()
    choose(page, file([f"{name};Hall 1;;night" for name in NAMES]))
    page.get_by_role("heading", name="Nothing is stored yet").wait_for()
    assert page.get_by_text("new", exact=True).count() == 20
    assert not Robot.objects.exists()
    page.get_by_role("button", name="Add 20 robots").click()
    page.get_by_text("Robots: 20 added.").wait_for()
    assert clicks(page) == 3
    assert set(Robot.objects.values_list("name", flat=True)) == set(NAMES)
    page.go_back()  # what was stored is not stored again
    page.get_by_text("Choose the file again").wait_for()


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_faults_are_shown_by_line_and_a_corrected_file_is_chosen_again(site, visit, size):
    make_robot(name="AGV 01", location="Hall 2")
    page = visit("manager", size=size)
    page.goto("/admin/robots/robot/import/")
    assert_fine(page)
    choose(page, {"name": "fleet.xlsx", "mimeType": "x", "buffer": b"PK\x03\x04"})
    page.get_by_text("The file is a workbook.").wait_for()
    assert_fine(page)
    rows = [f"{name};{'' if name == 'AGV 07' else 'Hall 1'};;night" for name in NAMES]
    choose(page, file(rows))
    fault = page.get_by_role("region", name="What is wrong").get_by_role("row").nth(1)
    assert [cell.strip() for cell in fault.inner_text().split("\t")][:2] == ["11", "location"]
    assert page.get_by_text("location: Hall 2 → Hall 1").is_visible()
    assert_fine(page)
    page.get_by_role("link", name="Choose another file").click()
    choose(page, file([f"{name};Hall 1;;night" for name in NAMES]))
    page.get_by_label("Change them as the file says").check()
    page.get_by_role("button", name="Store").click()
    page.get_by_text("Robots: 19 added, 1 changed.").wait_for()
    assert Robot.objects.get(pk="AGV 01").location == "Hall 1"


def test_a_file_that_is_too_large_is_not_sent_and_scripts_are_not_needed(site, visit):
    page = visit("manager")
    page.goto("/admin/robots/robot/import/")
    choose(page, {"name": "fleet.csv", "mimeType": "text/csv", "buffer": b"x" * (2 * 1024 * 1024)})
    assert "at most 1024 KB" in page.locator("#id_file").evaluate("input => input.validationMessage")
    assert page.url.endswith("/import/")
    page = visit("manager", java_script_enabled=False)
    page.goto("/admin/robots/robot/import/")
    page.get_by_label("File", exact=True).set_input_files(file(["R2;Hall 1;;"]))
    page.get_by_role("button", name="Check").click()
    page.get_by_role("button", name="Add 1 robot").click()
    page.get_by_text("Robots: 1 added.").wait_for()
