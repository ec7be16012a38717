"""The operators' day: queues by hand, with clicks counted."""

import os

import pytest

from fmv import audit
from robots.models import Robot
from tasks.models import Status, Task
from tasks.queue import services
from tests.conftest import wait_until
from tests.support.browser import SIZES, assert_fine
from tests.support.clicks import clicks, count_clicks
from tests.support.factories import make_process, make_robot, make_task, make_user

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.django_db(transaction=True)]

LONG = "Вальтер-" * 8  # 64 characters


@pytest.fixture
def a_worker(site):
    """A process that stays alive without a heartbeat."""
    make_process("host/1", ago=-3600, queues=["work", "maintenance"], handlers=["wait@1"])


def operator(visit, **options):
    page = visit(make_user("operator", username="leela"), **options)
    count_clicks(page)
    return page


def robot_page(page, name: str) -> None:
    page.goto(f"/admin/robots/robot/{name}/change/")


def run(robot: str, seconds: float) -> Task:
    return services.submit({"robot": robot, "handler": "wait", "params": {"seconds": seconds}}, by="fry")


def status(task: Task) -> str:
    return Task.objects.get(pk=task.pk).status


def test_a_queue_is_held_with_two_clicks_and_released_with_one(site, worker, visit):
    worker(os.environ["FMV_BROKER_URL"], processes=2)
    make_robot(name="Marvin")
    runs = run("Marvin", 600)
    wait_until(lambda: status(runs) == Status.STARTED)
    waits = run("Marvin", 0)
    page = operator(visit)
    robot_page(page, "Marvin")
    page.get_by_role("link", name="Hold the queue…").click()
    page.get_by_label("Why").fill("The lift is being repaired")
    assert_fine(page)
    page.get_by_role("button", name="Hold the queue").click()
    page.get_by_text("The queue of Marvin is held.").wait_for()
    assert clicks(page) == 2
    assert status(runs) == Status.STARTED
    services.cancel(services.get(runs.pk), by="fry")
    wait_until(lambda: status(runs) == Status.REVOKED)
    said = "held by leela (“The lift is being repaired”), since"
    for address in ("/admin/", "/admin/robots/robot/", f"/admin/tasks/task/{waits.pk}/change/", "/admin/tasks/task/"):
        page.goto(address)
        assert page.get_by_text(said).first.is_visible(), address
        assert_fine(page)
    assert status(waits) == Status.QUEUED
    page.goto("/admin/")
    before = clicks(page)
    page.get_by_role("region", name="Attention").get_by_role("button", name="Release the queue").click()
    page.get_by_text("The queue of Marvin is released.").wait_for()
    assert clicks(page) == before + 1
    wait_until(lambda: status(waits) == Status.SUCCESS)
    assert [(entry.action, entry.by) for entry in audit.of("robot", "Marvin")] == [
        ("robot.release", "leela"),
        ("robot.hold", "leela"),
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_held_queue_with_long_words_fits(a_worker, visit, size, scheme):
    make_robot(name=LONG)
    task = make_task(robot=LONG)
    services.hold_queue(LONG, by="x" * 150, why="w" * 200)
    page = operator(visit, size=size, theme=scheme)
    addresses = ("/admin/", "/admin/robots/robot/", f"/admin/tasks/task/{task.pk}/change/")
    for address in (*addresses, f"/admin/robots/robot/{LONG}/change/", f"/admin/robots/robot/{LONG}/hold/"):
        page.goto(address)
        assert_fine(page)
    robot_page(page, LONG)
    page.get_by_role("button", name="Release the queue").first.click()
    page.get_by_text("is released.").wait_for()
    assert Robot.objects.get().starts_tasks


def names_in(page) -> list[str]:
    """The ends of the ids of the queue that the robot's page shows, in order."""
    return [row.inner_text().split("…")[1][:8] for row in page.locator("[aria-label=Queue] tbody tr").all()]


def test_the_last_task_of_a_queue_comes_to_the_front_with_one_click(a_worker, visit):
    robot = make_robot(name="Marvin")
    tasks = [make_task(robot=robot, priority=9 - number % 2) for number in range(5)]
    page = operator(visit)
    robot_page(page, "Marvin")
    before = names_in(page)
    page.get_by_role("button", name="To the front").last.click()
    page.get_by_text("is first in the queue of Marvin.").wait_for()
    assert clicks(page) == 1
    assert page.url.endswith("/Marvin/change/")
    assert names_in(page) == [before[-1], *before[:-1]]
    assert_fine(page)
    shown = [str(id)[-8:] for id in Task.objects.queued().next_first().values_list("pk", flat=True)]
    assert names_in(page) == shown
    assert len(tasks) == len(shown)


def test_a_task_gets_a_priority_and_another_robot_with_two_clicks_each_and_a_choice(a_worker, visit):
    robot = make_robot(name="Marvin")
    make_robot(name="Wall-E", labels=["forklift"])
    make_task(robot=robot, priority=5)
    task = make_task(robot=robot)
    page = operator(visit)
    page.goto(f"/admin/tasks/task/{task.pk}/change/")
    page.get_by_role("link", name="Place in the queue…").click()
    assert page.get_by_text("1 task of Marvin comes before it.").is_visible()
    assert_fine(page)
    page.get_by_label("Priority").select_option("9")
    page.get_by_role("button", name="Change the priority").click()
    page.get_by_text("The priority is 9.").wait_for()
    assert clicks(page) == 2
    page.get_by_role("link", name="Place in the queue…").click()
    assert page.get_by_text("The task is the next of Marvin.").is_visible()
    page.get_by_label("Robots with the label").fill("forklift")
    page.get_by_role("button", name="Move the task").click()
    page.get_by_text("The task waits for Wall-E now.").wait_for()
    stored = Task.objects.get(pk=task.pk)
    assert (stored.priority, stored.robot) == (9, "Wall-E")
    assert "moved from Marvin to Wall-E by leela" in page.content()


def test_a_queue_moves_to_robots_with_a_label_with_two_clicks_and_a_choice(a_worker, visit):
    robot = make_robot(name="Marvin")
    others = [make_robot(name=name, labels=["forklift"]).name for name in ("A", "B")]
    for _ in range(4):
        make_task(robot=robot)
    page = operator(visit)
    robot_page(page, "Marvin")
    page.get_by_role("link", name="Move the queue…").click()
    page.get_by_label("Robots with the label").fill("forklift")
    assert_fine(page)
    page.get_by_role("button", name="Move the queue").click()
    page.get_by_text("DONE").first.wait_for()
    assert clicks(page) == 2
    assert page.get_by_text("to robots with the label forklift").first.is_visible()
    assert_fine(page)
    assert [Task.objects.of_robot(name).count() for name in others] == [2, 2]


@pytest.mark.parametrize("queue", ["keep", "cancel", "move", "spread"])
def test_a_robot_is_taken_out_of_service_with_two_clicks_and_a_choice(a_worker, visit, queue):
    robot = make_robot(name="Marvin")
    make_robot(name="Wall-E", labels=["forklift"])
    task = make_task(robot=robot)
    page = operator(visit)
    robot_page(page, "Marvin")
    page.get_by_role("link", name="Take out of service").click()
    before = clicks(page)
    if queue != "keep":
        says = {"cancel": "Cancel the", "move": "to another robot", "spread": "to robots with a label"}[queue]
        page.get_by_label(says).check()
    choice = clicks(page) - before
    if queue == "move":
        page.get_by_label("Other robot", exact=True).fill("Wall-E")
    if queue == "spread":
        page.get_by_label("Robots with the label").fill("forklift")
    assert_fine(page)
    page.get_by_role("button", name="Take out of service").click()
    page.get_by_text("Marvin is out of service.").wait_for()
    assert clicks(page) == 2 + choice <= 3
    stored = Task.objects.get(pk=task.pk)
    kept = {"keep": ("QUEUED", "Marvin"), "cancel": ("REVOKED", "Marvin")}
    assert (stored.status, stored.robot) == kept.get(queue, ("QUEUED", "Wall-E"))


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_the_pages_of_queues_fit(a_worker, visit, size, theme):
    make_robot(name=LONG, labels=["w" * 64])
    tasks = [make_task(robot=LONG) for _ in range(3)]
    page = operator(visit, size=size, theme=theme)
    for address in (
        *(f"/admin/robots/robot/{LONG}/{name}/" for name in ("change", "hold", "move", "out")),
        f"/admin/tasks/task/{tasks[1].pk}/place/",
        f"/admin/tasks/task/{tasks[1].pk}/change/",
    ):
        page.goto(address)
        assert_fine(page)
