"""The pool of a real worker replaces its processes, or loses its main process: no task loses an attempt by that."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fmv.devstack import stack
from tasks.models import Status
from tests.conftest import wait_until
from tests.support.factories import make_robot
from tests.support.probes import statuses
from tests.worker.test_worker import has_ended, is_up, now, over, pid_of, read_marks, submit

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(90)]


@pytest.fixture
def marks(tmp_path) -> Path:
    return tmp_path / "marks"


@pytest.fixture
def recycling(transactional_db, run_process) -> Callable[..., subprocess.Popen[bytes]]:
    """Start a worker that replaces each process after one message: `recycling(broker, "--max-tasks-per-child=1")`."""

    def start(broker_url: str, option: str, **environment: str) -> subprocess.Popen[bytes]:
        command = [*stack.CELERY, "-Q", "work", "-n", "worker@%h", "-c", "2", option]
        return run_process("worker", *command, **({"FMV_BROKER_URL": broker_url, "FMV_STOP_GRACE": "20"} | environment))

    return start


EACH_TIME = ["--max-tasks-per-child=1", "--max-memory-per-child=1000"]


@pytest.mark.slow
@pytest.mark.parametrize("option", EACH_TIME)
def test_a_worker_that_replaces_its_processes_loses_no_attempt(option, broker, recycling, maintenance):
    recycling(broker, option)
    maintenance(broker)
    robots = [make_robot() for _ in range(4)]
    tasks = [submit(robot, params={"file": os.devnull, "seconds": 0.2}, max_attempts=1) for robot in robots * 3]
    wait_until(over(*tasks), 60)
    ended = [now(task) for task in tasks]
    assert [(task.status, task.attempt) for task in ended] == [(Status.SUCCESS, 1)] * 12
    assert len({task.worker for task in ended}) > 2


@pytest.mark.slow
@pytest.mark.parametrize("option", EACH_TIME)
def test_the_stop_of_a_worker_lets_a_task_in_a_replaced_process_end(option, broker, recycling, marks):
    """The pool with threads replaces processes from a thread, whose end Linux takes for that of their parent."""
    process = recycling(broker, option)
    robot = make_robot()
    first = [submit(robot, "noop") for _ in range(2)]
    wait_until(over(*first))
    wait_until(lambda: has_ended(pid_of(first[0])) and has_ended(pid_of(first[1])))
    task = submit(robot, params={"file": str(marks), "seconds": 5}, max_attempts=1)
    wait_until(lambda: read_marks(marks))
    process.terminate()
    assert process.wait(40) == 0
    assert (now(task).status, now(task).attempt) == (Status.SUCCESS, 1)


@pytest.mark.slow
def test_a_killed_main_process_costs_the_running_task_no_attempt(broker, worker, marks, tmp_path):
    first = worker(broker, processes=2)
    task = submit(make_robot(), params={"file": str(marks), "seconds": 600}, max_attempts=1)
    wait_until(lambda: read_marks(marks))
    pid = pid_of(task)
    worker(broker, name="second")
    wait_until(is_up(tmp_path / "second.log"))
    os.kill(first.pid, signal.SIGKILL)  # as the kernel does when memory is short
    wait_until(lambda: len(read_marks(marks)) == 3)
    assert [mark.what for mark in read_marks(marks)] == ["start", "interrupted", "start"]
    assert statuses(task) == ["QUEUED", "STARTED", "RETRY", "QUEUED", "STARTED"]
    assert (now(task).attempt, now(task).uncounted) == (2, 1)
    wait_until(lambda: has_ended(pid))


def test_the_idle_processes_of_a_killed_main_process_end(broker, worker):
    process = worker(broker)
    task = submit(make_robot(), "noop")
    wait_until(over(task))
    os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid_of(task)))


def test_a_worker_whose_log_cannot_be_written_runs_its_tasks(transactional_db, run_process, broker, tmp_path):
    """Its disk is full, and a log line is no reason to fail a task."""
    command = ["/bin/sh", "-c", 'exec "$@" >/dev/full 2>&1', "-", *stack.CELERY, "-Q", "work", "-c", "1"]
    environment = {"FMV_BROKER_URL": broker, "FMV_STOP_GRACE": "1", "PYTHONUNBUFFERED": ""}
    process = run_process("worker", *command, **environment)
    robot = make_robot()
    tasks = [submit(robot, handler, max_attempts=1) for handler in ("noop", "fails", "noop")]
    wait_until(over(*tasks))
    assert [now(task).status for task in tasks] == [Status.SUCCESS, Status.FAILURE, Status.SUCCESS]
    process.terminate()
    assert process.wait(20) == 0
