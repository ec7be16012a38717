"""Forms in a real browser: the way back from each, sent twice, and when the session has ended meanwhile."""

import pytest

from fmv.accounts.models import ApiToken
from fmv.accounts.sessions import Session
from robots.models import Robot
from tasks.models import Bulk, Task
from tests.support.browser import assert_fine
from tests.support.factories import PASSWORD, make_robot, make_task, make_user
from tests.support.pages import robot_url

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.browser]

SECONDS = "seconds"
RUN = "Run wait on R2"


@pytest.fixture
def page(visit):
    """The form that runs a task on R2, of the operator leela."""
    make_robot(name="R2")
    page = visit(make_user("operator", username="leela"), allow={403})
    page.goto(f"{robot_url('R2', 'run')}?handler=wait")
    return page


def field(page):
    return page.get_by_label(SECONDS, exact=True)


def send(page):
    page.get_by_role("button", name=RUN).click()


def sign_in(page):
    page.get_by_label("User name").fill("leela")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def test_the_way_back_from_a_task_is_its_form_which_submits_no_second_task(page):
    field(page).fill("-1")
    send(page)
    page.get_by_text("greater than or equal to 0").wait_for()
    assert field(page).input_value() == "-1"
    assert_fine(page)
    field(page).fill("1")
    send(page)
    page.get_by_text("Submitted.").wait_for()
    task = page.url
    page.go_back()
    page.get_by_text("This form was sent before").wait_for()
    assert page.get_by_text("No task was submitted").count() == 0
    field(page).fill("1")
    send(page)
    page.get_by_text("It submitted this task, and no other").wait_for()
    assert page.url == task
    assert Task.objects.count() == 1


def test_the_form_that_was_refused_is_shown_again_by_reload_and_by_the_way_back(page):
    field(page).fill("-1")
    send(page)
    page.get_by_text("greater than or equal to 0").wait_for()
    page.reload()
    page.get_by_text("greater than or equal to 0").wait_for()
    assert field(page).input_value() == "-1"
    page.goto("/admin/")
    page.go_back()
    page.get_by_text("greater than or equal to 0").wait_for()


def test_other_values_in_a_form_that_was_sent_ask_before_they_submit_another_task(page):
    field(page).fill("1")
    send(page)
    page.get_by_text("Submitted.").wait_for()
    page.go_back()
    page.get_by_text("This form was sent before").wait_for()
    field(page).fill("2")
    send(page)
    page.get_by_text("Send it again to submit another").wait_for()
    assert Task.objects.count() == 1
    send(page)
    page.get_by_text("Submitted.").wait_for()
    assert Task.objects.count() == 2


@pytest.mark.parametrize(
    ("address", "button", "wrong"),
    [
        ("/admin/robots/robot/add/", "Save", "Correct the error"),
        ("/admin/robots/robot/R2/edit/", "Save", "Correct the error"),
        ("/admin/robots/robot/R2/out/", "Take out of service", "Name the robot to which the queue moves"),
        ("/admin/robots/robot/R2/connect/", "Create a token", "at most"),
        ("/admin/fmv/apitoken/add/", "Save", "Correct the error"),
        ("/admin/fmv/user/add/", "Save", "Correct the error"),
        ("/admin/password_change/", "Change my password", "Correct the error"),
    ],
)
def test_the_way_back_to_every_form_that_was_refused_sends_nothing(visit, address, button, wrong):
    make_robot(name="R2")
    page = visit(make_user("manager", is_superuser=True, username="leela"))
    page.goto(address)
    page.evaluate("for (const form of document.forms) form.noValidate = true")
    if "out" in address:
        page.get_by_label("Move the tasks in its queue to another robot").check()
    if "connect" in address:
        page.get_by_label("Days until it expires").fill("99999")
    if "edit" in address:
        page.get_by_label("Location").fill("")
    page.get_by_role("button", name=button, exact=True).click()
    page.wait_for_url("**answer=**")
    page.goto("/admin/handlers/")
    page.go_back()
    assert page.get_by_role("button", name=button, exact=True).is_visible()
    assert_fine(page)


def test_what_is_filled_in_when_the_session_ends_is_kept_and_sent_after_the_sign_in(page):
    field(page).fill("7")
    Session.objects.all().delete()
    send(page)
    page.get_by_text("You are signed out").wait_for()
    assert_fine(page)
    page.get_by_label("User name").fill("leela")
    page.get_by_label("Password").fill("swordfish")
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_text("correct username and password").wait_for()
    sign_in(page)
    page.get_by_role("heading", name="Your form was not sent").wait_for()
    assert page.get_by_text("params.seconds").is_visible()
    assert_fine(page)
    assert not Task.objects.exists()
    page.get_by_role("button", name="Send the form").click()
    page.get_by_text("Submitted.").wait_for()
    assert Task.objects.get().params["seconds"] == 7
    page.go_back(wait_until="commit")  # the page that asked is gone, and sends nothing
    page.get_by_role("heading", name="Dashboard").wait_for()
    assert Task.objects.count() == 1


def test_what_is_filled_in_is_kept_when_somebody_signs_in_anew_in_another_tab(page):
    field(page).fill("7")
    other = page.context.new_page()
    other.goto("/admin/")
    other.get_by_role("button", name="Sign out").click()
    other.get_by_role("link", name="Sign in again").click()
    sign_in(other)
    other.get_by_role("heading", name="Dashboard").wait_for()
    send(page)
    page.get_by_role("heading", name="Your form was not sent").wait_for()
    page.get_by_role("button", name="Send the form").click()
    page.get_by_text("Submitted.").wait_for()
    assert Task.objects.get().params["seconds"] == 7


def test_a_wrong_form_that_was_kept_is_shown_to_be_corrected(page):
    field(page).fill("-7")
    Session.objects.all().delete()
    send(page)
    sign_in(page)
    page.get_by_role("button", name="Send the form").click()
    page.get_by_text("greater than or equal to 0").wait_for()
    assert field(page).input_value() == "-7"


def test_the_form_of_another_site_is_not_kept(page):
    """Its user must not send with one click what somebody else has prepared."""
    for origin in ("https://evil.example", "null"):
        answer = page.request.post(
            robot_url("R2", "run"), form={"params.seconds": "1"}, headers={"Origin": origin, "Accept": "text/html"}
        )
        assert answer.status == 403
        assert "params.seconds" not in answer.text()


def test_a_confirmation_that_is_sent_twice_starts_one_bulk_run(visit):
    make_task(robot=make_robot(name="R2"), status="FAILURE")
    page = visit("operator")
    page.goto("/admin/tasks/task/?robot=R2")
    page.get_by_role("button", name="Retry all that match").click()
    page.get_by_role("button", name="Retry 1 task").click()
    page.get_by_role("heading", name="Progress").wait_for()
    page.go_back()
    page.get_by_role("button", name="Retry 1 task").click()
    page.get_by_text("This form was sent before").wait_for()
    assert Bulk.objects.count() == 1


def test_a_token_page_that_is_loaded_again_creates_no_second_token(visit):
    page = visit("manager")
    page.goto("/admin/fmv/apitoken/add/")
    page.get_by_label("Name").fill("gateway")
    page.get_by_role("button", name="Save", exact=True).click()
    page.get_by_label("API token").wait_for()
    page.reload()
    page.get_by_text("This form was sent before").wait_for()
    assert ApiToken.objects.count() == 1
    Robot.objects.all().delete()
    make_robot(name="R2")
    page.goto("/admin/robots/robot/R2/connect/")
    page.get_by_role("button", name="Create a token").click()
    page.get_by_text("Copy it now").wait_for()
    page.reload()
    page.get_by_text("This form was sent before").wait_for()
    assert ApiToken.objects.filter(robot="R2").count() == 1
