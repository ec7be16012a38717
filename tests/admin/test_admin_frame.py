"""The admin's frame in a real browser: sign-in, navigation by role, and every page there is."""

import pytest
from django.contrib import admin
from django.urls import reverse
from django.utils import timezone
from django_celery_results.models import TaskResult

from fmv.accounts.permissions import Role
from tasks.admin.site import NAVIGATION
from tasks.models import Status
from tests.support.browser import SIZES, assert_accessible, assert_fine, assert_fits
from tests.support.factories import PASSWORD, make_robot, make_task, make_token, make_user

pytestmark = pytest.mark.browser


@pytest.fixture
def fleet():
    """A little of everything."""
    robot = make_robot(name="Crow T. Robot", description="You know you want me baby. " * 8)
    for status in Status:
        make_task(robot=robot, status=status, params={"text": "x" * 300})
    make_token(make_user("viewer", name="Turanga Leela", password=None), name="The gateway at the gate")
    TaskResult.objects.create(task_id="1", task_name="tasks.purge", status="SUCCESS", date_done=timezone.now())


def sign_in(page, username, password):
    page.goto("/admin/tasks/task/")
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in", exact=True).click()


def entries(page):
    return [
        entry.strip() for entry in page.get_by_role("navigation", name="Main").get_by_role("link").all_inner_texts()
    ]


def test_a_right_password_leads_to_the_page_that_was_asked_for_and_signing_out_ends_it(visit):
    user = make_user("operator", name="Philip J. Fry")
    page = visit()
    sign_in(page, user.username, PASSWORD)
    page.wait_for_url("**/admin/tasks/task/")
    assert page.get_by_text("Philip J. Fry").is_visible()
    assert page.get_by_text("Operator", exact=True).is_visible()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Signed out").wait_for()
    assert_fine(page)
    page.goto("/admin/tasks/task/")
    assert page.get_by_role("heading", name="Sign in").is_visible()


def test_the_way_back_from_a_sign_in_that_failed_first_sends_nothing(visit):
    user = make_user("operator")
    page = visit()
    sign_in(page, user.username, "swordfish")
    page.get_by_role("alert").wait_for()
    page.get_by_label("User name").fill(user.username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url("**/admin/tasks/task/")
    page.go_back()
    assert page.get_by_role("heading", name="Sign in").is_visible()


@pytest.mark.parametrize("size", SIZES)
def test_a_wrong_password_is_said_on_the_page(visit, size):
    page = visit(size=size)
    sign_in(page, make_user("operator").username, "swordfish")
    assert "correct username and password" in page.get_by_role("alert").inner_text()
    assert_fine(page)


def test_who_has_no_role_is_told_so(visit):
    page = visit(Role.NONE)
    page.goto("/admin/")
    assert "may not see this page" in page.get_by_role("alert").inner_text()
    assert_accessible(page)


@pytest.mark.parametrize("role", ["viewer", "operator", "manager", "superuser"])
def test_the_navigation_holds_what_the_user_may_see(visit, role):
    user = make_user(Role.NONE, is_superuser=True) if role == "superuser" else make_user(role)
    page = visit(user)
    page.goto("/admin/")
    found = entries(page)
    assert found[:3] == ["Dashboard", "Robots", "Tasks"]
    assert "API tokens" in found
    assert ("Users" in found) == (role == "superuser")
    for entry in found:
        page.get_by_role("navigation", name="Main").get_by_role("link", name=entry).click()
        current = page.locator("nav a[aria-current=page]")
        assert current.inner_text().strip() == entry
        page.get_by_role("heading", level=1).wait_for()


def test_on_a_phone_the_navigation_is_behind_a_button(visit, fleet):
    page = visit("viewer", size="phone")
    page.goto("/admin/tasks/task/")
    link = page.get_by_role("link", name="Robots", exact=True)
    assert not link.is_visible()
    page.get_by_role("button", name="Menu").click()
    assert_fine(page)
    link.click()
    page.wait_for_url("**/admin/robots/robot/")
    assert not page.get_by_role("link", name="Tasks", exact=True).is_visible()


def test_filters_are_behind_a_button_on_a_phone_too(visit, fleet):
    make_user("viewer", username="zapp", password=None)
    page = visit(make_user(Role.NONE, is_superuser=True), size="phone")
    page.goto("/admin/fmv/user/")
    choice = page.locator("#changelist-filter").get_by_role("link", name="Viewer")
    assert not choice.is_visible()
    page.get_by_role("button", name="Filter").click()
    assert_fine(page)
    choice.click()
    page.wait_for_url("**role__exact=viewer**")
    assert page.get_by_role("link", name="zapp").is_visible()
    assert page.get_by_role("button", name="Filter (on)").is_visible()


def test_the_theme_switch_is_remembered(visit):
    page = visit("viewer")
    page.goto("/admin/")
    for theme in ("dark", "light"):
        page.locator(".theme-toggle").click()
        page.goto("/admin/tasks/task/")
        assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == theme
        assert_accessible(page)


@pytest.mark.parametrize("role", [None, "viewer"])
def test_a_page_that_is_not_there_says_so(visit, role):
    page = visit(role, allow={404})
    page.goto("/nope")
    assert page.get_by_role("heading", name="Page not found").is_visible()
    assert_fine(page)
    if role:
        page.goto("/admin/nope/")
        assert page.get_by_role("heading", name="Page not found").is_visible()


def test_a_page_that_is_not_for_the_user_says_so(visit):
    page = visit("operator", allow={403})
    page.goto("/admin/fmv/user/")
    assert page.get_by_role("heading", name="Not allowed").is_visible()
    assert_fine(page)


def test_a_form_without_its_token_is_refused_in_words(visit):
    page = visit(allow={403})
    page.goto("/admin/login/")
    page.locator("[name=csrfmiddlewaretoken]").evaluate("(field) => field.value = 'x'")
    page.get_by_label("User name").fill("fry")
    page.get_by_label("Password").fill("x")
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("heading", name="The form is out of date").wait_for()
    assert_fine(page)


def test_the_documentation_of_the_api_has_a_main_part_and_a_heading(visit):
    page = visit("viewer")
    page.goto("/api/v1/docs")
    assert page.get_by_role("main").get_by_role("heading", level=1).first.is_visible()


def test_browsers_that_ask_for_the_icon_get_it(visit):
    page = visit()
    assert page.request.get("/favicon.ico").headers["content-type"] == "image/svg+xml"


def addresses():
    """Yield the URL of every page of the admin."""
    yield from map(reverse, ("admin:index", "admin:password_change"))
    for _, group in NAVIGATION:
        yield from (reverse(entry.page) for entry in group)
    for model in admin.site._registry:
        page = f"admin:{model._meta.app_label}_{model._meta.model_name}"
        yield reverse(f"{page}_changelist")
        yield reverse(f"{page}_add")
        if one := model._default_manager.first():
            yield from (reverse(f"{page}_{verb}", args=[one.pk]) for verb in ("change", "delete"))


@pytest.mark.slow
@pytest.mark.timeout(300)  # there are many
@pytest.mark.parametrize("size", SIZES)
def test_every_page_is_accessible_and_fits_in_light_and_dark(visit, fleet, size):
    page = visit(make_user(Role.NONE, is_superuser=True), size=size, allow={403})
    pages = list(dict.fromkeys(addresses()))
    assert len(pages) > 12
    for address in pages:
        if page.goto(address).status != 403:  # not offered even to superusers
            assert_fine(page)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
def test_every_list_is_fine_with_nothing_to_show(visit, size):
    page = visit("manager", size=size)
    page.goto("/admin/")
    for link in page.get_by_role("navigation", name="Main").get_by_role("link").all():
        shown = page.context.new_page()
        shown.goto(link.get_attribute("href"))
        assert_fits(shown)
        assert_accessible(shown)
        shown.close()
