"""Pages end at a number of bytes too, so that no answer is large because rows are."""

import random

import pytest

from fmv.http import pagination
from robots.models import Robot
from tasks.models import LogLine, Task
from tests.support.api import Api
from tests.support.environment import override_environment
from tests.support.factories import make_robot, make_task
from tests.support.probes import listening

BYTES = 20_000
TASKS = "find tasks_task"

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("unmeasured")]


@pytest.fixture
def unmeasured():
    """Know nothing of the size of rows, as a new process."""
    pagination._row_sizes.clear()
    yield
    pagination._row_sizes.clear()


@pytest.fixture
def api():
    with override_environment(page_bytes=BYTES, anonymous="viewer"):
        yield Api(None)


def store(sizes: list[int]) -> Task:
    """Store tasks with results of these lengths, a task with log lines, and robots with long locations."""
    Task.objects.bulk_create(
        Task(robot="R2", handler="wait", timeout=1, requested_by="test", result="x" * size) for size in sizes
    )
    logs = make_task(robot="C3")
    LogLine.objects.bulk_create(LogLine(task=logs.pk, attempt=1, text="x" * (size % 4000)) for size in sizes)
    Robot.objects.bulk_create(
        Robot(name=f"Robot {number}", location="\u00e4" * (size % 200), description="x" * 2000)
        for number, size in enumerate(sizes)
    )
    return logs


def walk(api, path, way):
    """Yield the pages from this one on, as their bytes and their rows."""
    while path:
        answer = api("GET", path)
        assert answer.status_code == 200, answer.content
        page = answer.json()
        key = next(iter(page))
        yield len(answer.content), page[key], page
        path = page[way] and page[way].removeprefix("http://testserver/api/v1")


@pytest.mark.parametrize("seed", range(4))
def test_pages_of_rows_of_any_size_hold_each_row_once_forward_and_back(api, seed):
    chance = random.Random(seed)
    logs = store([int(10 ** chance.uniform(0, 4.6)) for _ in range(chance.randint(1, 60))])
    for path in ("/task/?robot=R2&", "/robot/?", f"/task/{logs.pk}/log?"):
        with override_environment(page_bytes=10**9):
            [[_, wanted, _]] = walk(api, f"{path}limit=1000", "next")
        limit = chance.choice([1, 2, 7, 20, 1000])
        pages = list(walk(api, f"{path}limit={limit}", "next"))
        assert [row for _, rows, _ in pages for row in rows] == wanted
        for size, rows, page in pages:
            assert len(rows) == 1 or (len(rows) <= limit and size < BYTES + 500), path
            if page is not pages[-1][2]:  # it ends because it is full
                following = wanted[wanted.index(rows[-1]) + 1]
                assert len(rows) == limit or size + len(str(following)) > BYTES - 500, path
        if previous := pages[-1][2]["previous"]:
            back = list(walk(api, previous.removeprefix("http://testserver/api/v1"), "previous"))
            before = [row for _, rows, _ in reversed(back) for row in rows]
            assert before == wanted[: len(wanted) - len(pages[-1][1])]
            assert all(len(rows) == 1 or size < BYTES + 500 for size, rows, _ in back)
            forward = list(walk(api, back[0][2]["next"].removeprefix("http://testserver/api/v1"), "next"))
            assert [row for _, rows, _ in forward for row in rows] == pages[-1][1]


def test_a_row_that_is_larger_than_a_page_is_a_page(api):
    store([10, 50_000, 10])
    pages = list(walk(api, "/task/?robot=R2", "next"))
    assert [[len(row["result"]) for row in rows] for _, rows, _ in pages] == [[10], [50_000], [10]]


def test_a_robot_s_profile_has_as_many_of_its_latest_tasks_as_a_page(api):
    make_robot(name="R2")
    tasks = [make_task(robot="R2", result="x" * 6_000) for _ in range(5)]
    shown = api("GET", "/robot/R2").json()["tasks"]
    assert [task["task_id"] for task in shown] == [str(task.pk) for task in tasks[:1:-1]]
    assert shown == api("GET", "/task/?robot=R2").json()["tasks"]


def test_no_more_large_rows_are_fetched_than_a_page_shows_once_some_were_seen(api):
    store([5_000] * 100)
    make_robot(name="R2")
    assert len(api("GET", "/task/?robot=R2").json()["tasks"]) == 3
    for path in ("/task/?robot=R2", "/robot/R2"):
        with listening() as commands:
            assert len(api("GET", path).json()["tasks"]) == 3
        assert commands.sent.count(TASKS) == 1
        [batch] = [body["batchSize"] for body in commands.bodies if body.get("find") == "tasks_task"]
        assert batch <= 5
        assert not any(sent.startswith("getMore") for sent in commands.sent)


def test_small_rows_come_in_one_command_soon_after_large_ones(api):
    store([5_000] * 10)
    api("GET", "/task/")
    Task.objects.all().delete()
    Task.objects.bulk_create(Task(robot="R2", handler="wait", timeout=1, requested_by="test") for _ in range(20))
    for _ in range(5):
        assert len(api("GET", "/task/?limit=20").json()["tasks"]) == 20
    with listening() as commands:
        assert len(api("GET", "/task/?limit=20").json()["tasks"]) == 20
    assert commands.sent == [TASKS]
