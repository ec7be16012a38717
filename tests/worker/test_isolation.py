"""What a handler leaves behind in its process does not reach the next task: here in real worker processes."""

from pathlib import Path
from typing import Any

import pytest

from robots.models import Robot
from tasks.models import Status, Task
from tasks.queue import services
from tests.conftest import wait_until
from tests.support.factories import make_robot

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(90)]


def submit(robot: Robot, handler: str, **fields: Any) -> Task:
    return services.submit({"robot": robot.name, "handler": handler, "max_attempts": 1, **fields}, by="test")


def now(task: Task) -> Task:
    return Task.objects.get(pk=task.pk)


def run(*tasks: Task) -> list[Task]:
    """Wait until these tasks are over; return them as they ended."""
    wait_until(lambda: Task.objects.finished().filter(pk__in=[task.pk for task in tasks]).count() == len(tasks), 60)
    return [now(task) for task in tasks]


def pid_of(task: Task) -> int:
    return int(now(task).worker.rpartition("/")[2].partition("-")[0])


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


PUT_BACK = [
    "alarm", "interval timer", "signal handler", "ignored child", "signal mask", "blocked alarm",
    "stderr closed", "stderr replaced",
    "descriptor closed", "stderr redirected", "non-blocking stderr", "logging off", "logging broken", "logging level",
    "directory", "umask", "environment", "time zone", "temporary directory", "import path", "locale", "decimal",
    "warnings", "random", "garbage collection", "trace", "recursion limit", "socket timeout", "file limit",
    "start method", "builtins", "a logger's handler", "context variable",
]  # fmt: skip


@pytest.mark.slow
def test_what_a_handler_changes_in_its_process_is_as_before_in_the_next_task(any_broker, worker, tmp_path):
    worker(any_broker, LC_ALL="C")
    robot = make_robot()
    before = run(submit(robot, "shows"))[0]
    tasks = {what: (submit(robot, "leaves", params={"value": what}), submit(robot, "shows")) for what in PUT_BACK}
    for what, (left, shown) in tasks.items():
        run(left, shown)
        left.refresh_from_db()
        shown.refresh_from_db()
        assert (left.status, left.error) == (Status.SUCCESS, None), what
        assert (shown.status, shown.error) == (Status.SUCCESS, None), what
        assert shown.result == before.result, what
        assert shown.worker == before.worker, f"{what}: no other process was needed"
        log = (tmp_path / "worker.log").read_text()
        assert f"a line of task {shown.pk}" in log, what
        assert f"a word of task {shown.pk}" in log, what


def test_two_tasks_that_choose_a_seed_do_not_decide_about_a_third(any_broker, worker):
    worker(any_broker)
    robot = make_robot()
    drawn = []
    for _ in range(2):
        run(submit(robot, "leaves", params={"value": "random"}))
        drawn += [task.result for task in run(submit(robot, "draws"))]
    assert drawn[0] != drawn[1]


CANNOT_BE_PUT_BACK = [
    "thread", "daemon thread", "child", "detached child", "all descriptors", "hard limit", "process group",
    "open files",
]  # fmt: skip


@pytest.mark.slow
def test_a_process_in_which_something_stays_ends_and_the_next_task_gets_another(any_broker, worker):
    worker(any_broker)
    robot = make_robot()
    before = run(submit(robot, "shows"))[0]
    for what in CANNOT_BE_PUT_BACK:
        left, shown = run(submit(robot, "leaves", params={"value": what}), submit(robot, "shows"))
        assert (left.status, left.error) == (Status.SUCCESS, None), what
        assert (shown.status, shown.result) == (Status.SUCCESS, before.result), what
        assert shown.worker != left.worker, what
        pid = pid_of(left)
        wait_until(lambda: not is_running(pid))  # noqa: B023 - called at once


def test_a_handler_that_submits_tasks_costs_no_process(any_broker, worker):
    worker(any_broker)
    robot = make_robot()
    [submitted] = run(submit(robot, "submits"))  # alone, so that its message is the first that the process sends
    wait_until(lambda: Task.objects.of_robot(robot.name).filter(handler="noop", status=Status.SUCCESS).exists())
    [shown] = run(submit(robot, "shows"))
    assert (submitted.error, shown.error) == (None, None)
    assert shown.worker == submitted.worker


@pytest.mark.slow
def test_a_handler_that_asks_for_a_process_of_its_own_is_the_last_that_runs_in_it(any_broker, worker):
    worker(any_broker)
    robot = make_robot()
    tasks = run(*(submit(robot, "fresh") for _ in range(3)))
    assert [task.status for task in tasks] == [Status.SUCCESS] * 3
    assert len({task.worker for task in tasks}) == 3


def test_a_child_process_that_returns_from_the_handler_does_not_write_its_outcome(any_broker, worker):
    worker(any_broker)
    robot = make_robot()
    left, shown = run(submit(robot, "leaves", params={"value": "fork"}), submit(robot, "shows"))
    assert [entry["status"] for entry in left.history] == ["QUEUED", "STARTED", "SUCCESS"]
    assert shown.status == Status.SUCCESS


def test_a_handler_may_run_coroutines_and_is_interrupted_in_them(any_broker, worker):
    """In a process of its own: Playwright keeps an event loop running in that of the tests."""
    worker(any_broker)
    robot = make_robot()
    slept, interrupted = run(
        submit(robot, "awaits"), submit(robot, "awaits", params={"value": 60}, timeout=1, max_attempts=1)
    )
    assert (slept.status, slept.result) == (Status.SUCCESS, "slept")
    assert interrupted.status == Status.FAILURE
    assert interrupted.error["type"] == "TimedOut"


def test_a_handler_may_use_multiprocessing(any_broker, worker):
    worker(any_broker)
    task = run(submit(make_robot(), "multiprocessing"))[0]
    assert (task.error, task.result) == (None, [[1, 2], [3]] * 2)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sleeps", "grips"])
def test_the_child_processes_of_a_task_end_with_it(how, any_broker, worker, maintenance, tmp_path):
    """In both ways: the handler is interrupted, or its process is ended."""
    worker(any_broker)
    maintenance(any_broker)
    file = tmp_path / "child"
    task = submit(make_robot(), "parent", timeout=2, params={"value": how, "file": str(file)})
    wait_until(lambda: file.exists() and file.read_text().strip())
    child = int(file.read_text())
    assert is_running(child)
    assert run(task)[0].error["type"] == "TimedOut"
    wait_until(lambda: not is_running(child))
