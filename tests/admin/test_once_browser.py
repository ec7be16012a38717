"""A hasty operator in a real browser: double clicks, and the way back."""

import pytest

from tasks.models import Task
from tests.support.browser import assert_accessible
from tests.support.factories import make_robot, make_task
from tests.support.pages import task_url

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]


def test_a_double_click_sends_a_form_once(visit):
    task, page = make_task(robot=make_robot(name="R2"), status="FAILURE"), visit("operator")
    page.goto(task_url(task))
    page.get_by_role("button", name="Retry").dblclick()
    page.get_by_text("Retried: this is the new task").wait_for()
    assert str(task.pk) not in page.url
    assert Task.objects.filter(retry_of=task.pk).count() == 1


def test_one_may_go_back_to_what_was_asked_before_many_are_cancelled(visit):
    task, page = make_task(robot="R2"), visit("operator")
    page.goto("/admin/tasks/task/?robot=R2")
    page.get_by_role("button", name="Cancel all that match").click()
    page.get_by_role("heading", name="Cancel 1 task?").wait_for()
    assert_accessible(page)
    page.go_back()
    page.get_by_role("link", name=task.handler, exact=True).wait_for()
    page.go_forward()
    page.get_by_role("button", name="Cancel 1 task").click()
    page.get_by_role("heading", name="Progress").wait_for()
    page.go_back()  # no form is sent a second time
    page.get_by_text("No tasks were changed").wait_for()
    assert Task.objects.get().status == "REVOKED"
