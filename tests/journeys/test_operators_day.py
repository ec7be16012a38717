"""An operator's day in a real browser, with a real worker; and a viewer, who may only watch."""

import os
import re

import pytest

from fmv.accounts.models import User
from fmv.accounts.permissions import Role
from fmv.audit.models import AuditEntry
from robots.models import Robot
from tasks.models import Status, Task
from tasks.queue import services
from tests.conftest import wait_until
from tests.support.browser import assert_fine
from tests.support.clicks import clicks, count_clicks
from tests.support.demo_data import TROUBLE, TROUBLED, store_demo_data
from tests.support.factories import PASSWORD, make_robot, make_task, make_user

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.django_db(transaction=True)]

FAILED = {"error": {"type": "OSError", "message": "The robot answered 503", "traceback": ""}}


@pytest.fixture
def work(site, worker):
    """A worker of two processes beside the web server."""
    worker(os.environ["FMV_BROKER_URL"], processes=2)
    return site


def sign_in(page, user):
    page.goto("/admin/")
    page.get_by_label("User name").fill(user.username)
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.get_by_role("heading", name="Dashboard").wait_for()


def fail(robot, **fields):
    return make_task(
        robot=robot, status=Status.FAILURE, attempt=1, finished_at=fields.pop("at", None), **FAILED, **fields
    )


def only(**fields):
    return Task.objects.get(**fields)


def test_running_a_task_from_its_form_and_watching_it_move(work, visit):
    make_robot(name="Wall-E")
    page = visit()
    sign_in(page, make_user("operator", username="leela"))
    page.get_by_role("link", name="Robots", exact=True).click()
    page.get_by_role("link", name="Wall-E", exact=True).first.click()
    page.get_by_role("link", name="Run a task").click()
    page.get_by_label("Handler").select_option("wait")
    page.get_by_role("button", name="Choose").click()
    page.get_by_label("seconds", exact=False).first.fill("-1")
    page.get_by_role("button", name="Run wait on Wall-E").click()
    page.get_by_text("greater than or equal to 0").wait_for()
    assert not Task.objects.exists()
    page.get_by_label("seconds", exact=False).first.fill("8")
    page.get_by_role("button", name="Run wait on Wall-E").click()
    page.wait_for_url(re.compile("/admin/tasks/task/.*/change/"))
    bar = page.get_by_role("progressbar", name="Progress")
    bar.wait_for()
    before = bar.get_attribute("value")
    page.wait_for_function("before => document.querySelector('progress')?.getAttribute('value') !== before", arg=before)
    page.locator(".status-SUCCESS").first.wait_for()
    page.get_by_text('"waited": 8').wait_for()
    assert_fine(page)
    task = only()
    assert (task.status, task.requested_by, task.params["seconds"]) == (Status.SUCCESS, "leela", 8)


def test_the_dashboard_shows_what_runs_without_a_reload(work, visit):
    robot = make_robot(name="Wall-E")
    page = visit("operator")
    page.goto("/admin/")
    page.evaluate("window.stayed = true")
    services.submit({"robot": robot.name, "handler": "wait", "params": {"seconds": 20}}, by="fry")
    page.get_by_role("link", name="wait for Wall-E").first.wait_for()
    assert page.evaluate("window.stayed")
    assert_fine(page)


def test_cancelling_what_runs_and_retrying_what_failed(work, visit):
    robot = make_robot(name="Wall-E")
    running = services.submit({"robot": robot.name, "handler": "wait", "params": {"seconds": 600}}, by="fry")
    wait_until(lambda: only(pk=running.pk).status == Status.STARTED)
    page = visit(make_user("operator", username="leela"))
    page.goto(f"/admin/tasks/task/{running.pk}/change/")
    page.get_by_role("button", name="Cancel").click()
    page.locator(".status-REVOKED").first.wait_for()
    page.get_by_role("button", name="Retry").click()
    page.wait_for_url(lambda url: "/change/" in url and str(running.pk) not in url)
    again = only(retry_of=running.pk)
    page.get_by_role("button", name="Cancel").click()
    page.locator(".status-REVOKED").first.wait_for()
    assert [only(pk=task.pk).status for task in (running, again)] == [Status.REVOKED] * 2
    actions = AuditEntry.objects.filter(by="leela").order_by("id").values_list("action", "key")
    assert list(actions) == [
        ("task.cancel", str(running.pk)),
        ("task.retry", str(running.pk)),
        ("task.cancel", str(again.pk)),
    ]


def test_taking_a_robot_out_of_service_moves_its_queue(site, visit):
    robot = make_robot(name="Marvin")
    make_robot(name="Wall-E")
    waiting = [make_task(robot=robot) for _ in range(3)]
    page = visit("operator")
    page.goto("/admin/robots/robot/Marvin/change/")
    page.get_by_role("link", name="Take out of service").click()
    page.get_by_label("Move the tasks in its queue to another robot").check()
    page.get_by_label("Other robot", exact=True).fill("Wall-E")
    assert_fine(page)
    page.get_by_role("button", name="Take out of service").click()
    page.get_by_text("Marvin is out of service.").wait_for()
    wait_until(lambda: {only(pk=task.pk).robot for task in waiting} == {"Wall-E"})
    assert not Robot.objects.get(pk="Marvin").enabled
    page.goto("/admin/robots/robot/Marvin/change/")
    page.get_by_role("button", name="Put in service").click()
    page.get_by_text("Marvin is in service.").wait_for()
    assert Robot.objects.get(pk="Marvin").enabled


def test_retrying_all_that_match_a_filter(site, visit):
    marvin, other = make_robot(name="Marvin"), make_robot(name="Wall-E")
    failed = {fail(marvin).pk for _ in range(60)}  # more than a page
    fail(other)
    make_task(robot=marvin, status=Status.SUCCESS)
    page = visit("operator")
    page.goto("/admin/tasks/task/?status=FAILURE&robot=Marvin")
    page.get_by_role("button", name="Retry all that match").click()
    page.get_by_role("heading", name="Retry 60 tasks?").wait_for()
    assert_fine(page)
    assert not Task.objects.exclude(retry_of=None).exists()
    page.get_by_role("button", name="Retry 60 tasks").click()
    page.get_by_text("DONE").first.wait_for()
    assert_fine(page)
    assert set(Task.objects.exclude(retry_of=None).values_list("retry_of", flat=True)) == failed


def test_what_failed_last_night_and_why_and_again_within_five_clicks(site, visit):
    store_demo_data(tasks=300)
    operator = make_user("operator")
    page = visit()
    sign_in(page, operator)
    page.get_by_role("link", name="Failed in the last 24 hours").click()  # 1
    page.locator("#fmv-rows").get_by_role("link", name="http").first.click()  # 2
    page.get_by_role("heading", name="Why it failed").wait_for()
    assert page.get_by_text(TROUBLE).first.is_visible()
    page.get_by_role("button", name="Retry").click()  # 3
    page.get_by_text("Retried: this is the new task").wait_for()
    again = Task.objects.exclude(retry_of=None).get()
    assert only(pk=again.retry_of).status == Status.FAILURE
    assert again.requested_by == operator.username


def test_a_colleague_who_only_reads_is_added_with_three_clicks(site, visit):
    page = visit(make_user("none", is_superuser=True))
    count_clicks(page)
    page.goto("/admin/")
    page.get_by_role("navigation", name="Main").get_by_role("link", name="Users").click()  # 1
    page.get_by_role("main").get_by_role("link", name="Add user").click()  # 2
    for name, value in (("username", "kif"), ("password1", PASSWORD), ("password2", PASSWORD)):
        page.locator(f"#id_{name}").fill(value)
    page.locator("#id_role").select_option("viewer")
    page.get_by_role("button", name="Save", exact=True).click()  # 3
    page.get_by_text("was added successfully").wait_for()
    assert clicks(page) == 3
    assert User.objects.get(username="kif").role == Role.VIEWER


def test_a_viewer_sees_and_cannot_touch(site, visit):
    robot = make_robot(name="Marvin")
    failed, waiting = fail(robot), make_task(robot=robot)
    viewer = make_user("viewer")
    page = visit()
    sign_in(page, viewer)
    offered = re.compile("cancel|retry|run|service|edit|delete|connect|hold|release|move|front", re.IGNORECASE)
    for address in (
        "/admin/",
        "/admin/tasks/task/",
        f"/admin/tasks/task/{failed.pk}/change/",
        f"/admin/tasks/task/{waiting.pk}/change/",
        "/admin/robots/robot/",
        "/admin/robots/robot/Marvin/change/",
        "/admin/handlers/",
    ):
        page.goto(address)
        main = page.get_by_role("main")
        assert main.get_by_role("button", name=offered).count() == 0, address
        assert (
            main.get_by_role(
                "link", name=re.compile("^(run a|run one|take|edit|delete|connect)", re.IGNORECASE)
            ).count()
            == 0
        )
    token = next(cookie["value"] for cookie in page.context.cookies() if cookie["name"] == "csrftoken")
    by_hand = {"csrfmiddlewaretoken": token, "action": "cancel", "scope": "all", "confirmed": "yes", "queue": "cancel"}
    for address in (
        f"/admin/tasks/task/{waiting.pk}/cancel/",
        f"/admin/tasks/task/{failed.pk}/retry/",
        "/admin/tasks/task/act/",
        "/admin/robots/robot/Marvin/run/",
        "/admin/robots/robot/Marvin/out/",
        "/admin/robots/robot/Marvin/in/",
        "/admin/robots/robot/Marvin/edit/",
        "/admin/robots/robot/Marvin/connect/",
        "/admin/robots/robot/Marvin/delete/",
        *(f"/admin/robots/robot/Marvin/{page}/" for page in ("hold", "release", "move")),
        *(f"/admin/tasks/task/{waiting.pk}/{page}/" for page in ("place", "front")),
        *("/admin/robots/robot/run/", "/admin/robots/robot/import/", "/admin/map/plan/", "/admin/map/plan/delete/"),
    ):
        answer = page.context.request.post(address, form=by_hand, headers={"Origin": site})
        assert answer.status == 403, address
        assert "CSRF" not in answer.text(), address
    assert sorted(Task.objects.values_list("status", flat=True)) == [Status.FAILURE, Status.QUEUED]
    assert Robot.objects.get().enabled
    assert not AuditEntry.objects.exists()


def test_the_troubled_robot_is_seen_from_the_list(site, visit):
    store_demo_data(tasks=300)
    page = visit("viewer", size="phone")
    page.goto("/admin/robots/robot/")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=TROUBLED, exact=True))
    row.wait_for()
    assert_fine(page)
