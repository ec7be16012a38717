"""The form that runs a task in a real browser, which changes line ends and numbers in its own ways."""

import json

import pytest

from tasks.models import Task
from tests.support.browser import assert_fine
from tests.support.factories import make_robot, make_task
from tests.support.pages import robot_url

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]

TEXTS = ["", " ", "plain", "\n\ntwo\nlines\n", "a\r\nb\rc", "\t", "\x1b[2J\u202e", "<b>&amp;", "123", "🤖" * 30]
NUMBERS = [0.0, 5e-324, 1e22, 2.0**63, 1.7976931348623157e308, 0.1]
WHOLE = [0, -1, 2**63 - 1, -(2**63), 2**53 + 1]


@pytest.mark.slow
def test_a_repeated_task_has_the_same_parameters(visit):
    make_robot(name="R2")
    page = visit("operator")
    for number, text in enumerate(TEXTS):
        seconds, fail = NUMBERS[number % len(NUMBERS)], WHOLE[number % len(WHOLE)]
        params = {
            "file": text,
            "seconds": seconds,
            "blocks": bool(number % 2),
            "fail": fail,
            "kill": 0,
            "permanent": False,
        }
        first = make_task(robot="R2", handler="mark", params=params)
        page.goto(f"{robot_url('R2', 'run')}?like={first.pk}")
        page.get_by_role("button", name="Run mark on R2").click()
        page.get_by_text("Submitted.").wait_for()
        again = Task.objects.newest_first().first()
        assert again.pk != first.pk
        assert json.dumps(again.params) == json.dumps(params)


def test_lines_are_typed_as_lines(visit):
    make_robot(name="R2")
    page = visit("operator", size="phone")
    page.goto(f"{robot_url('R2', 'run')}?handler=mark")
    page.get_by_label("file", exact=True).fill("one\ntwo")
    page.get_by_label("file", exact=True).press("Enter")
    assert_fine(page)
    page.get_by_role("button", name="Run mark on R2").click()
    page.get_by_text("Submitted.").wait_for()
    assert Task.objects.get().params["file"] == "one\ntwo\n"
