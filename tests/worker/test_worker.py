"""Real Celery workers on real brokers: submitted tasks run, even if processes die on the way."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from robots.models import Robot
from tasks.models import Status, Task
from tasks.queue import services
from tests.conftest import wait_until
from tests.support.factories import make_robot
from tests.support.probes import pid_in, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(90)]

SHORT_LEASE = {"FMV_LEASE_SECONDS": "3", "FMV_RENEW_SECONDS": "1"}


@pytest.fixture
def marks(tmp_path) -> Path:
    return tmp_path / "marks"


@pytest.fixture
def worker(worker) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """As conftest's, but what still runs after the test is killed: a polite stop takes seconds."""
    yield from started_and_killed(worker)


@pytest.fixture
def maintenance(maintenance) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    yield from started_and_killed(maintenance)


def started_and_killed(start: Callable[..., subprocess.Popen[bytes]]) -> Iterator[Any]:
    processes = []

    def remembering(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        processes.append(start(*args, **kwargs))
        return processes[-1]

    yield remembering
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


@dataclass
class Mark:
    at: float
    what: str
    pid: int
    task: str
    attempt: int


def read_marks(path: Path) -> list[Mark]:
    lines = path.read_text().splitlines() if path.exists() else []
    found = [re.fullmatch(r"(\d+) (\w+) (\d+) .* (\S+) (\d+)", line) for line in lines]
    return [Mark(int(m[1]) / 1e9, m[2], int(m[3]), m[4], int(m[5])) for m in found if m]


def most_at_once(marks: Iterable[Mark]) -> int:
    """How many handlers ran at the same time, at most."""
    running = most = 0
    for mark in sorted(marks, key=lambda mark: mark.at):
        running += 1 if mark.what == "start" else -1
        most = max(most, running)
    return most


def submit(robot: Robot, handler: str = "mark", **fields: Any) -> Task:
    return services.submit({"robot": robot.name, "handler": handler, **fields}, by="test")


def now(task: Task) -> Task:
    return Task.objects.get(pk=task.pk)


def in_status(status: Status, *tasks: Task) -> Callable[[], bool]:
    return lambda: Task.objects.filter(pk__in=[task.pk for task in tasks], status=status).count() == len(tasks)


def over(*tasks: Task) -> Callable[[], bool]:
    return lambda: Task.objects.finished().filter(pk__in=[task.pk for task in tasks]).count() == len(tasks)


def is_up(log: Path) -> Callable[[], bool]:
    return lambda: log.exists() and " ready." in log.read_text()


def pid_of(task: Task) -> int:
    return pid_in(now(task).worker)


# --- It runs ---------------------------------------------------------------------------------------------------------


def test_a_submitted_task_runs(broker, worker):
    worker(broker)
    task = submit(make_robot(), "echo", params={"value": ["é", None]})
    wait_until(over(task))
    assert (now(task).status, now(task).result) == (Status.SUCCESS, ["é", None])
    assert statuses(task) == ["QUEUED", "STARTED", "SUCCESS"]


def test_a_task_submitted_before_the_worker_started_runs(broker, worker):
    task = submit(make_robot(), "noop")
    worker(broker)
    wait_until(over(task))
    assert now(task).status == Status.SUCCESS


def test_one_robot_runs_one_task_at_a_time_in_order(broker, worker, marks):
    robot = make_robot()
    tasks = [submit(robot, params={"file": str(marks)}, priority=number % 3) for number in range(30)]
    worker(broker, processes=2)
    worker(broker, processes=2, name="other")
    wait_until(over(*tasks), 60)
    found = read_marks(marks)
    assert len(found) == 60
    assert most_at_once(found) == 1
    expected = [str(task.pk) for task in sorted(tasks, key=lambda task: (-task.priority, task.pk))]
    assert [mark.task for mark in found if mark.what == "start"] == expected
    assert {now(task).status for task in tasks} == {Status.SUCCESS}


def test_three_lanes_run_three_at_once_and_never_four(broker, worker, marks):
    robot = make_robot(lanes=3)
    tasks = [submit(robot, params={"file": str(marks), "seconds": 0.4}) for _ in range(12)]
    worker(broker, processes=5)
    wait_until(over(*tasks), 60)
    assert most_at_once(read_marks(marks)) == 3
    assert len(read_marks(marks)) == 24


def test_robots_do_not_wait_for_each_other(any_broker, worker, marks):
    tasks = [submit(make_robot(), params={"file": str(marks), "seconds": 1}) for _ in range(2)]
    worker(any_broker, processes=2)
    wait_until(over(*tasks))
    assert most_at_once(read_marks(marks)) == 2


def test_a_failed_attempt_is_tried_again_when_it_is_due(any_broker, worker, maintenance, marks):
    task = submit(make_robot(), params={"file": str(marks), "fail": 2})
    worker(any_broker)
    maintenance(any_broker)
    wait_until(over(task))
    assert (now(task).status, now(task).attempt) == (Status.SUCCESS, 3)
    assert statuses(task) == ["QUEUED", *["STARTED", "RETRY", "QUEUED"] * 2, "STARTED", "SUCCESS"]


# --- Something dies --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_task_of_a_killed_pool_process_runs_again_at_once(broker, worker, maintenance, marks):
    worker(broker)
    maintenance(broker)
    task = submit(make_robot(), params={"file": str(marks), "seconds": 3})
    wait_until(lambda: read_marks(marks))
    os.kill(read_marks(marks)[0].pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: len(read_marks(marks)) > 1)
    assert time.monotonic() - killed < 25  # the lease is of 30; that of an idle sweeper's tick is about a second
    wait_until(over(task))
    assert (now(task).status, now(task).attempt) == (Status.SUCCESS, 2)
    assert "WorkerLost" in now(task).history[2]["note"]


@pytest.mark.slow
def test_the_task_of_a_killed_worker_runs_again_within_its_lease_and_five_seconds(
    broker, worker, maintenance, marks, tmp_path
):
    first = worker(broker, **SHORT_LEASE)
    maintenance(broker, **SHORT_LEASE)
    task = submit(make_robot(), params={"file": str(marks), "seconds": 600})
    wait_until(lambda: read_marks(marks))
    worker(broker, name="second", **SHORT_LEASE)
    wait_until(is_up(tmp_path / "second.log"))
    os.kill(first.pid, signal.SIGSTOP)  # both at once: a process whose main process has died hands its task back
    os.kill(pid_of(task), signal.SIGKILL)
    os.kill(first.pid, signal.SIGKILL)
    killed = time.monotonic()
    wait_until(lambda: len(read_marks(marks)) > 1)
    assert time.monotonic() - killed < 20  # 3 s of the lease and 5 s on a quiet machine
    assert (now(task).status, now(task).attempt, now(task).attempts_left) == (Status.STARTED, 2, 18)
    assert [mark.what for mark in read_marks(marks)] == ["start", "start"]
    services.cancel(task, by="test")
    wait_until(over(task))


@pytest.mark.parametrize("broker_url", [pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)], indirect=True)
def test_a_poison_task_ends_and_harms_no_other(broker, worker, maintenance, marks):
    worker(broker, processes=2)
    maintenance(broker)
    robot, other = make_robot(), make_robot()
    poison = submit(robot, "dies")
    after = submit(robot, params={"file": str(marks)})
    others = [submit(other, params={"file": str(marks), "seconds": 0.2}) for _ in range(5)]
    wait_until(over(poison, after, *others), 60)
    assert (now(poison).status, now(poison).attempt, now(poison).error["type"]) == (Status.FAILURE, 2, "WorkerLost")
    assert {now(task).status for task in (after, *others)} == {Status.SUCCESS}
    assert {now(task).attempt for task in (after, *others)} == {1}


@pytest.mark.slow
def test_handlers_that_cannot_be_interrupted_end_and_their_processes_are_replaced(any_broker, worker, maintenance):
    worker(any_broker, processes=3)
    maintenance(any_broker)
    robot = make_robot(lanes=3)
    tasks = {name: submit(robot, name, timeout=2) for name in ("sleeps", "grips", "stubborn")}
    wait_until(over(*tasks.values()))  # each would take ten minutes
    for task in tasks.values():
        assert (now(task).status, now(task).attempt, now(task).error["type"]) == (Status.FAILURE, 1, "TimedOut")
    wait_until(lambda: has_ended(pid_of(tasks["grips"])))
    wait_until(lambda: has_ended(pid_of(tasks["stubborn"])))
    again = [submit(robot, "wait", params={"seconds": 600}) for _ in range(3)]
    wait_until(in_status(Status.STARTED, *again))
    assert len({pid_of(task) for task in again}) == 3
    for task in again:
        services.cancel(now(task), by="test")
    wait_until(over(*again))


STUCK_ONCE = """
import pathlib, time
from tasks.worker import celery_hooks

def prepare(sender, prepare=celery_hooks.prepare, mark=pathlib.Path("was-stuck")):
    if not mark.exists():
        mark.touch()
        time.sleep(600)
    prepare(sender)

celery_hooks.prepare, celery_hooks.PREPARE_TIMEOUT = prepare, 1.0
"""


@pytest.mark.slow
def test_a_process_that_is_stuck_while_it_is_prepared_makes_room_for_another(any_broker, worker, tmp_path):
    (tmp_path / "stuck").mkdir()
    (tmp_path / "stuck" / "__init__.py").touch()
    (tmp_path / "stuck" / "handlers.py").write_text(STUCK_ONCE)
    worker(any_broker, FMV_APPS="tests.support.test_handlers,stuck")
    task = submit(make_robot(), "noop")
    wait_until(over(task))
    assert now(task).status == Status.SUCCESS
    assert 'stuck/handlers.py", line 8 in prepare' in (tmp_path / "worker.log").read_text()


# --- An operator's word ----------------------------------------------------------------------------------------------


def test_a_running_wait_is_cancelled_within_two_seconds(any_broker, worker):
    worker(any_broker)
    task = submit(make_robot(), "wait", params={"seconds": 600})
    wait_until(in_status(Status.STARTED, task))
    before = time.monotonic()
    services.cancel(now(task), by="operator")
    wait_until(over(task))
    assert time.monotonic() - before < 20  # 2 s on a quiet machine
    assert now(task).status == Status.REVOKED
    assert [entry["note"] for entry in now(task).history[-2:]] == ["cancel asked for by operator", "stopped, as asked"]


@pytest.mark.slow
def test_a_stopped_worker_hands_its_task_to_another(broker, worker, marks, tmp_path):
    first = worker(broker, FMV_STOP_GRACE="0.5")
    task = submit(make_robot(), max_attempts=1, params={"file": str(marks), "seconds": 600, "blocks": True})
    wait_until(lambda: read_marks(marks))
    worker(broker, name="second")
    wait_until(is_up(tmp_path / "second.log"))
    first.terminate()
    wait_until(lambda: len(read_marks(marks)) == 3)
    found = read_marks(marks)
    assert [mark.what for mark in found] == ["start", "interrupted", "start"]
    assert found[2].at - found[1].at < 20  # 1 s on a quiet machine, and the lease is of 30 s
    assert (now(task).status, now(task).attempt, now(task).uncounted) == (Status.STARTED, 2, 1)
    assert statuses(task) == ["QUEUED", "STARTED", "RETRY", "QUEUED", "STARTED"]
    assert first.wait(30) == 0


@pytest.mark.slow
def test_a_stopped_worker_lets_a_short_task_end(any_broker, worker, marks):
    process = worker(any_broker, FMV_STOP_GRACE="20")
    task = submit(make_robot(), params={"file": str(marks), "seconds": 2})
    wait_until(lambda: read_marks(marks))
    process.terminate()
    assert process.wait(30) == 0
    assert (now(task).status, now(task).attempt) == (Status.SUCCESS, 1)


@pytest.mark.slow
def test_a_stopping_worker_kills_a_process_that_ignores_it(any_broker, worker, maintenance):
    process = worker(any_broker, FMV_STOP_GRACE="0", **SHORT_LEASE)
    maintenance(any_broker, **SHORT_LEASE)
    task = submit(make_robot(), "stubborn", max_attempts=1)
    wait_until(in_status(Status.STARTED, task))
    pid = pid_of(task)
    process.terminate()
    wait_until(over(task))
    assert now(task).error["type"] == "WorkerLost"
    wait_until(lambda: has_ended(pid))


def has_ended(pid: int) -> bool:
    """Return whether the process is gone, or waits for its parent to take note."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


# --- The broker is down ----------------------------------------------------------------------------------------------


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A socket that takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.mark.slow
@pytest.mark.parametrize("port", ["closed_port", "silent_port"])
def test_without_a_broker_a_submit_is_answered_and_the_sweeper_rings_later(
    port, request, web, worker, maintenance, any_broker
):
    robot = make_robot(name="Bender")
    url = web(f"amqp://guest:guest@127.0.0.1:{request.getfixturevalue(port)}//", FMV_ANONYMOUS="manager")
    for _ in range(2):
        before = time.monotonic()
        answer = requests.post(f"{url}/api/v1/robot/{robot.name}/run", json={"handler": "noop"}, timeout=10)
        assert time.monotonic() - before < 8  # 1 s on a quiet machine
        assert answer.ok, answer.text
    assert Task.objects.queued().count() == 2
    worker(any_broker)
    maintenance(any_broker)
    wait_until(lambda: Task.objects.filter(status=Status.SUCCESS).count() == 2)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_a_beat_that_waits_for_mongodb_ends_with_its_killed_worker(run_process, tmp_path):
    embedding = (
        "import os, django; django.setup(); from celery.beat import EmbeddedService; from fmv.celery import app; "
        "import tasks.worker.celery_hooks; beat = EmbeddedService(app); beat.start(); "
        "print('beat', beat.pid, flush=True); beat.join()"
    )
    nowhere = {"MONGODB_URI": "mongodb://127.0.0.1:1/fmv?serverSelectionTimeoutMS=100"}
    worker = run_process("worker", sys.executable, "-c", embedding, DJANGO_SETTINGS_MODULE="fmv.settings", **nowhere)
    log = tmp_path / "worker.log"
    wait_until(lambda: "Waiting: MongoDB does not answer" in log.read_text())
    beat = Path("/proc") / re.search(r"beat (\d+)", log.read_text())[1]
    assert beat.exists()
    worker.kill()
    worker.wait()
    wait_until(lambda: not beat.exists() or " Z " in (beat / "stat").read_text(), 10)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_was_started_later_holds_no_connection_of_its_worker(any_broker, worker):
    main = worker(any_broker).pid
    wait_until(over(submit(make_robot(), "noop")))
    [first] = psutil.Process(main).children()
    first.kill()
    task = submit(make_robot(), "noop")
    wait_until(over(task))
    assert pid_of(task) not in (main, first.pid)
    assert sockets(main), "it holds connections to the broker"
    assert not sockets(main) & sockets(pid_of(task))


def sockets(pid: int) -> set[str]:
    links = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            links.add(os.readlink(path))
    return {link for link in links if link.startswith("socket:")}
