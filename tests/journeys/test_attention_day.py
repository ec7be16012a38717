"""The operators' day: which robots need me now (no click); why a robot is stuck, since when, and how to make it go on
(one click); who cancelled this (no click).
"""

import datetime as dt
import os

import pytest

from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import id_at
from robots import absences, agents
from robots.models import Robot
from tasks.models import Status, Task
from tasks.queue import services
from tests.conftest import wait_until
from tests.support.browser import SIZES, assert_fine
from tests.support.clicks import clicks, count_clicks
from tests.support.factories import make_process, make_robot, make_task, make_user
from tests.support.probes import FUTURE, PAST, make_task_in

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LONG = "Вальтер-" * 8  # 64 characters
JAM = {"type": "gripper jam", "level": "fatal", "description": "The gripper does not open.", "hint": "Open it"}


@pytest.fixture
def two_workers(site):
    """Processes that stay alive without a heartbeat."""
    for name, queues in (("host/1", ["work"]), ("host/2", ["work", "maintenance"])):
        make_process(name, ago=-3600, queues=queues, handlers=["wait@1"])


def operator(visit, **options):
    page = visit(make_user("operator", username="leela"), **options)
    count_clicks(page)
    return page


def trouble() -> None:
    """Store a fleet in which robots and tasks need somebody, and others do not."""
    make_robot(name="Fine")
    for name in ("Silent", LONG):
        agents.open_session(make_robot(name=name).name, handlers=["drive"])
        agents.close_session(name)
    session = agents.open_session(make_robot(name="Jammed").name, handlers=["drive"])
    agents.report("Jammed", session.id, {"errors": [JAM]})
    error = {"type": "RobotOnFire", "message": "It burns", "traceback": ""}
    for minute in range(3):
        at = server_now() - dt.timedelta(minutes=minute)
        make_task(robot="Failing", status="FAILURE", attempt=1, finished_at=at, error=error)
    make_task_in(Status.RETRY, robot="Due")
    make_task_in(Status.STARTED, robot="Lost", runs_on="robot", out_of_contact_since=PAST)
    Robot.objects.filter(pk=make_robot(name="Resting", enabled=False).pk).update(updated_at=PAST)
    absences.note()


@pytest.mark.parametrize("size", SIZES)
def test_which_robots_need_me_now_is_on_the_first_page_named(two_workers, visit, size):
    trouble()
    page = operator(visit, size=size)
    page.goto("/admin/")
    panel = page.get_by_role("region", name="Attention")
    for name in ("Silent", LONG, "Jammed", "Failing", "Due", "Lost", "Resting"):
        assert panel.get_by_role("link", name=name, exact=True).first.is_visible(), name
    for reason in ("said goodbye", "gripper jam", "The last 3 tasks of wait failed", "more than a day"):
        assert panel.get_by_text(reason).first.is_visible(), reason
    assert panel.get_by_role("link", name="Fine", exact=True).count() == 0
    assert clicks(page) == 0
    assert_fine(page)


def test_when_nothing_is_wrong_the_first_page_says_so(two_workers, visit):
    make_robot(name="Fine")
    page = operator(visit)
    page.goto("/admin/")
    assert page.get_by_text("Nothing needs attention.").is_visible()
    assert_fine(page)


def test_a_new_trouble_comes_without_a_reload_and_goes_with_its_cause(two_workers, visit):
    make_robot(name="R2")
    page = operator(visit)
    page.goto("/admin/")
    page.evaluate("window.stayed = true")
    agents.open_session("R2", handlers=["drive"])
    agents.close_session("R2")
    page.get_by_role("region", name="Attention").get_by_text("Its agent is offline").wait_for()
    agents.open_session("R2", handlers=["drive"])
    page.get_by_text("Nothing needs attention.").wait_for()
    assert page.evaluate("window.stayed")


def test_a_robot_that_is_out_of_contact_goes_on_with_one_click(two_workers, visit):
    make_robot(name="Lost")
    task = make_task_in(Status.STARTED, robot="Lost", runs_on="robot", out_of_contact_since=PAST)
    page = operator(visit)
    page.goto("/admin/")
    assert page.get_by_text("Its robot is out of contact, and may still run it, since").is_visible()
    page.get_by_role("button", name="Do not wait for the robot").click()
    page.get_by_text("The attempt is over, and the task is tried again.").wait_for()
    assert clicks(page) == 1
    assert Task.objects.get(pk=task.pk).status == Status.RETRY


def test_a_robot_that_is_out_of_service_goes_on_with_one_click_from_its_page_or_from_its_task(two_workers, visit):
    make_robot(name="Marvin")
    task = make_task(robot="Marvin")
    services.take_out_of_service("Marvin", by="fry")
    page = operator(visit)
    for address in (f"/admin/tasks/task/{task.pk}/change/", "/admin/robots/robot/Marvin/change/"):
        page.goto(address)
        assert page.get_by_text("The robot is out of service, since").is_visible()
        assert_fine(page)
    page.get_by_role("button", name="Put in service").click()
    page.get_by_text("Marvin is in service.").wait_for()
    assert clicks(page) == 1
    assert Robot.objects.get().enabled


def test_a_blocked_lane_is_freed_with_one_click_from_the_page_of_the_task_that_waits(two_workers, visit):
    make_robot(name="Marvin")
    make_task_in(Status.REVOKED, robot="Marvin", lane="Marvin/0", runs_on="robot")
    task = make_task(robot="Marvin")
    page = operator(visit)
    page.goto(f"/admin/tasks/task/{task.pk}/change/")
    assert page.get_by_text("A lane of the robot is blocked").is_visible()
    page.get_by_role("button", name="The robot stands still: free its lane").click()
    page.get_by_text("Lane Marvin/0 is free.").wait_for()
    assert clicks(page) == 1


@pytest.mark.parametrize("size", SIZES)
def test_a_task_behind_two_busy_workers_says_so_with_its_robot_and_in_the_lists(site, worker, visit, size):
    worker(os.environ["FMV_BROKER_URL"], processes=2)
    for name in ("A", "B", LONG):
        make_robot(name=name)
    long = []
    for name in "AB":
        long.append(services.submit({"robot": name, "handler": "wait", "params": {"seconds": 600}}, by="fry"))
        wait_until(lambda: Task.objects.get(pk=long[-1].pk).status == Status.STARTED)
    first, second = (
        services.submit({"robot": LONG, "handler": "wait", "params": {"seconds": 0}}, by="fry") for _ in range(2)
    )
    page = operator(visit, size=size)
    busy = "Both workers are busy, with wait for A and wait for B, since"
    page.goto("/admin/tasks/task/?status=QUEUED")
    assert page.get_by_text(busy).count() == 2
    assert page.get_by_text("An older task is first: ").count() == 1
    assert_fine(page)
    page.goto("/admin/robots/robot/")
    row = page.get_by_role("row").filter(has=page.get_by_role("link", name=LONG, exact=True))
    assert row.get_by_text(busy).is_visible()
    assert_fine(page)
    page.goto("/admin/")
    page.get_by_role("region", name="Longest wait").get_by_role("link", name="wait", exact=True).click()  # 1
    page.wait_for_url(f"**/{first.pk}/change/")
    assert page.get_by_text(busy).is_visible()
    assert clicks(page) == 1
    page.goto(f"/admin/robots/robot/{LONG}/change/")
    assert page.locator("#fmv-waiting").get_by_text(busy).is_visible()
    services.cancel(long[0], by="fry")
    wait_until(lambda: Task.objects.get(pk=second.pk).status == Status.SUCCESS)


def test_who_cancelled_this_is_on_its_page(two_workers, visit):
    task = services.cancel(make_task(robot=make_robot(name="Marvin")), by="fry")
    page = operator(visit)
    page.goto(f"/admin/tasks/task/{task.pk}/change/")
    assert page.get_by_text("cancel asked for by fry").first.is_visible()
    assert clicks(page) == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_thousand_robots_in_trouble_fit_on_the_first_page(two_workers, visit, size):
    past = server_now() - dt.timedelta(days=2)
    Robot.objects.bulk_create(
        Robot(name=f"R{number:04}", location="Lab", description="-", enabled=False) for number in range(1000)
    )
    Robot.objects.update(updated_at=past)
    absences.note()
    make_robot(name="Late"), make_task(robot="Late", id=id_at(past), expires_at=FUTURE)
    page = operator(visit, size=size)
    page.goto("/admin/")
    assert page.get_by_text("and 995 more").is_visible()
    assert page.get_by_role("region", name="Attention").get_by_role("button", name="Put in service").count() == 5
    assert_fine(page)
