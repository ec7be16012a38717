"""The file that robots get, as real processes of it behind a proxy that breaks what networks break."""

import ast
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import requests

from fmv.devstack import stack
from robots import agents
from robots.models import RobotState
from tasks.models import LogLine, Status, Task
from tasks.queue import periodic, robots_lost, services
from tests.conftest import wait_until
from tests.support import fault_proxy
from tests.support.agent_processes import AGENT, AgentProcess, read_marks, uptime
from tests.support.factories import make_robot, make_token

EACH_ROUTE = ("/claim", "/renew", "/log", "/finish")
LEASE = 3.0  # seconds, of the handlers below
ENDS = (Status.SUCCESS, Status.FAILURE, Status.REVOKED)

pytestmark = pytest.mark.usefixtures("bells")


@pytest.fixture
def marks(tmp_path) -> Path:
    return tmp_path / "marks"


@pytest.fixture
def order(marks):
    """Submit a task for the agent's robot: `order(agent, "robot.mark", seconds=2)`."""

    def submit(agent: AgentProcess, handler: str, **params) -> Task:
        about = {"robot": agent.robot.name, "handler": handler, "params": {"file": str(marks)} | params}
        return services.submit(about, by="test")

    return submit


def now(task: Task) -> Task:
    periodic.promote_due()  # as the maintenance worker would
    return Task.objects.get(pk=task.pk)


def wait_for(task: Task, *statuses: Status, seconds: float = 60) -> Task:
    """Return the task once it has one of the statuses; by default once it is over."""
    wait_until(lambda: now(task).status in (statuses or ENDS), seconds, "the task did not get there")
    return now(task)


def wait_for_marks(marks: Path, number: int) -> None:
    wait_until(lambda: len(read_marks(marks)) >= number, 60, "the skill left no marks")


def words(marks: Path) -> list[str]:
    return [mark.word for mark in read_marks(marks)]


def log_of(task: Task) -> list[str]:
    return [line.text for line in LogLine.objects.filter(task=task.pk).order_by("number")]


PATCHED = """#!{python}
import http.client, itertools, runpy, sys, threading, time, fmv_agent
{patch}
sys.argv.pop(0)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def patched(directory: Path, patch: str) -> str:
    """Return a Python that runs an agent's program after the patch of `fmv_agent`."""
    python = directory / "python"
    python.write_text(PATCHED.format(python=sys.executable, patch=patch))
    python.chmod(0o700)
    return str(python)


# --- A quiet network -------------------------------------------------------------------------------------------------


def test_a_robot_is_connected_by_fetching_the_file_and_starting_it(web, tmp_path):
    url = web(os.environ["FMV_BROKER_URL"], FMV_DEBUG="1")
    robot, home = make_robot(), tmp_path / "home"
    fetched = requests.get(f"{url}/static/agent/fmv_agent.py", timeout=10)
    (tmp_path / "fmv_agent.py").write_bytes(fetched.content)
    command = [sys.executable, str(tmp_path / "fmv_agent.py"), url, "--home", str(home)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        process.stdin.write(make_token(robot=robot.name).text + "\n")
        process.stdin.flush()
        wait_until(lambda: agents.session_of(robot.name))
        process.terminate()
    assert process.returncode == 0
    assert (home / "token").stat().st_mode & 0o777 == 0o600


def test_the_example_of_its_readme_runs(web, run_process, tmp_path):
    handlers, program = re.findall(r"```python\n(.*?)```", (AGENT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "__init__.py").touch()
    (tmp_path / "fleet" / "handlers.py").write_text(handlers)
    (tmp_path / "my_robot.py").write_text(program)
    broker, path = os.environ["FMV_BROKER_URL"], f"{stack.ROOT}:{tmp_path}"
    url = web(broker, FMV_ANONYMOUS="manager", FMV_APPS="fleet", PYTHONPATH=path)
    agent = AgentProcess(run_process, tmp_path, make_robot(), url)
    command = [sys.executable, str(tmp_path / "my_robot.py"), url, "--home", str(agent.home)]
    run_process("my_robot", *command, PYTHONPATH=str(AGENT))
    order = {"handler": "fetch", "params": {"shelf": 3}}
    stored = requests.post(f"{url}/api/v1/robot/{agent.robot.name}/run", json=order, timeout=10).json()
    task = wait_for(Task.objects.get(pk=stored["task_id"]))
    assert (task.status, list(task.result)) == (Status.SUCCESS, ["weight"])


def test_it_reports_the_state_and_runs_tasks_in_order_with_progress_log_and_result(make_agent, order, marks):
    agent = make_agent()
    tasks = [order(agent, "robot.steps", steps=3, seconds=0.01), order(agent, "robot.mark")]
    agent.start()
    first, second = (wait_for(task) for task in tasks)
    assert (first.status, first.attempt, first.result) == (Status.SUCCESS, 1, {"resumed": False})
    assert first.worker == f"agent/{agent.robot.name}"
    assert second.result == {"pid": agent.process.pid}
    assert log_of(first) == ["step 0", "step 1", "step 2"]
    assert [mark.task for mark in read_marks(marks)] == [*[str(first.pk)] * 3, *[str(second.pk)] * 2]
    wait_until(lambda: agent.journal() == [])
    assert agent.stop() == 0
    assert agents.session_of(agent.robot.name) is None


@pytest.mark.slow
def test_a_task_that_comes_after_a_long_wait_is_claimed_once(proxy, make_agent, order):
    agent = make_agent().start()
    wait_until(lambda: 200 in proxy.statuses("/state"))
    time.sleep(LEASE + 1)  # longer than the lease of a claim
    assert wait_for(order(agent, "robot.mark")).status == Status.SUCCESS
    wait_until(lambda: 200 in proxy.statuses("/finish"))
    assert proxy.statuses("/claim") == [200]
    assert "WARNING" not in agent.log


def test_a_skill_that_cannot_succeed_fails_the_task_and_the_agent_goes_on(make_agent, order):
    agent = make_agent()
    hows = ("never", "no json", "exit", "large")
    tasks = [order(agent, "robot.mark", how=how) for how in hows]
    agent.start()
    ends = [wait_for(task) for task in tasks]
    assert {task.status for task in ends} == {Status.FAILURE}
    kinds = dict(zip(hows, ((task.attempt, task.error["type"]) for task in ends), strict=True))
    assert kinds == {
        "never": (1, "PermanentError"),
        "no json": (1, "InvalidResult"),
        "exit": (3, "SystemExit"),
        "large": (1, "ResultRefused"),
    }


def test_an_exception_fails_the_attempt_with_its_traceback_in_the_log(make_agent, order):
    task = wait_for(order(make_agent().start(), "robot.mark", fail=1))
    assert (task.status, task.attempt) == (Status.SUCCESS, 2)
    lines = log_of(task)
    assert "ValueError: attempt 1 fails, as asked" in lines
    assert "Traceback (most recent call last):" in lines


def test_a_skill_may_give_its_task_back_and_the_attempt_does_not_count(make_agent, order, marks):
    task = order(make_agent().start(), "robot.mark", how="not now")
    wait_until(lambda: now(task).attempt >= 2)
    assert now(task).uncounted >= 1
    assert "handed back: the door is locked" in [line["note"] for line in now(task).history]


def test_it_runs_as_many_tasks_at_once_as_it_is_told(make_agent, order, marks):
    agent = make_agent(lanes=2)
    tasks = [order(agent, "robot.mark", seconds=2) for _ in range(2)]
    agent.start("--lanes", "2")
    for task in tasks:
        wait_for(task)
    assert words(marks) == ["start", "start", "end", "end"]


def test_a_cancel_stops_the_skill(make_agent, order, marks):
    task = order(make_agent().start(), "robot.mark", seconds=50)
    wait_for_marks(marks, 1)
    services.cancel(now(task), by="test")
    assert wait_for(task).status == Status.REVOKED
    assert [(mark.word, mark.more) for mark in read_marks(marks)] == [("start", ""), ("stopped", "cancelled")]


def test_a_task_that_takes_too_long_has_failed_and_is_not_tried_again(make_agent, marks):
    agent = make_agent().start()
    params = {"file": str(marks), "seconds": 50}
    task = services.submit(
        {"robot": agent.robot.name, "handler": "robot.mark", "params": params, "timeout": 1, "max_attempts": 3}, by="x"
    )
    task = wait_for(task)
    assert (task.status, task.attempt, task.attempts_left) == (Status.FAILURE, 1, 2)
    assert task.history[-1]["note"] == "TimedOut: Ran longer than 1 s"
    assert [(mark.word, mark.more) for mark in read_marks(marks)] == [("start", ""), ("stopped", "timed-out")]


@pytest.mark.slow
def test_a_skill_that_ignores_a_cancel_blocks_its_lane_until_it_has_ended(proxy, make_agent, order, marks):
    agent = make_agent().start()
    task = order(agent, "robot.mark", seconds=8, how="deaf")
    wait_for_marks(marks, 1)
    services.cancel(now(task), by="test")
    wait_until(lambda: "is to end: cancelled" in agent.log)
    wait_until(lambda: robots_lost.recover(now(task), robots_lost.Verdict.STOP))
    renewed = len(proxy.statuses("/renew"))
    wait_until(lambda: len(proxy.statuses("/renew")) > renewed)
    assert 409 not in proxy.statuses("/renew")
    wait_until(lambda: agent.journal() == [], 60)
    assert now(task).lane is None
    assert now(task).history[-1]["note"] == "succeeded on the robot after its end: its lane is free"
    assert f"FMV does not take the end of task {task.pk}" in agent.log
    assert f"{task.pk}: succeeded" not in agent.log
    assert now(task).status == Status.REVOKED


def errors_of(robot: str) -> list[str]:
    return [error["description"] for error in RobotState.objects.get(pk=robot).errors or ()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "error"),
    [
        ('{"mode": "manual"}', ""),
        ('{"emergency_stop": "remote"}', ""),
        ('{"mode": "MANUAL"}', "FMV does not take the robot's state: 422"),
        ('{"mode": "autom', "JSONDecodeError"),
    ],
)
def test_the_robot_takes_tasks_only_if_its_state_is_known_and_lets_it(
    state, error, proxy, make_agent, order, marks, tmp_path
):
    file = tmp_path / "state"
    file.write_text(state)
    agent = make_agent()
    task = order(agent, "robot.mark")
    agent.start(STATE=str(file))
    wait_until(lambda: 200 in proxy.statuses("/state"), 60)
    if error:
        assert error in errors_of(agent.robot.name)[0]
        wait_until(lambda: agent.log.count("The robot takes no tasks.") == 1)
    time.sleep(1)  # long enough for a claim
    assert proxy.statuses("/claim") == []
    file.write_text('{"mode": "semi_automatic", "emergency_stop": "none"}')
    assert wait_for(task).status == Status.SUCCESS
    assert agent.log.count("The robot takes no tasks.") == bool(error)


@pytest.mark.slow
def test_what_goes_on_after_a_restart_waits_for_a_state_that_lets_it(proxy, make_agent, order, marks, tmp_path):
    file = tmp_path / "state"
    file.write_text("{}")
    agent = make_agent().start(STATE=str(file))
    task = order(agent, "robot.steps", steps=6)
    wait_for_marks(marks, 2)
    agent.kill()
    left, renewed = len(read_marks(marks)), len(proxy.statuses("/renew"))
    file.write_text('{"emergency_stop": "manual"}')
    agent.start(STATE=str(file))
    wait_until(lambda: len(proxy.statuses("/renew")) >= renewed + 3, 60)  # the lease is kept meanwhile
    assert len(read_marks(marks)) == left
    file.write_text("{}")
    task = wait_for(task)
    assert (task.status, task.attempt, task.result) == (Status.SUCCESS, 1, {"resumed": True})


HANGING = """
fmv_agent.LOOK_SECONDS = 1
fmv_agent._look = lambda: time.sleep(600)
fmv_agent.state = lambda look: look
"""


def test_a_state_that_hangs_is_logged_and_the_robot_takes_no_tasks(proxy, make_agent, order, tmp_path):
    agent = make_agent()
    order(agent, "robot.mark")
    agent.start(python=patched(tmp_path, HANGING))
    wait_until(lambda: "The function that returns the robot's state has run for 1 s." in agent.log)
    assert proxy.statuses("/claim") == []
    assert agent.stop() == 0


def test_a_checkpoint_of_a_thread_that_the_skill_has_left_replaces_no_outcome(proxy, make_agent, order, marks):
    agent = make_agent().start()
    task = order(agent, "robot.mark", seconds=1, how="late")
    wait_for_marks(marks, 1)
    proxy.is_down = True
    wait_until(lambda: agent.journal() and "succeeded" in agent.journal()[0].read_text())
    time.sleep(0.5)  # for many checkpoints
    assert "succeeded" in agent.journal()[0].read_text()
    proxy.is_down = False
    assert wait_for(task).status == Status.SUCCESS


# --- A network that breaks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        fault_proxy.DROP_ANSWER,
        fault_proxy.DUPLICATE,
        pytest.param(fault_proxy.CUT, marks=pytest.mark.slow),
        pytest.param(fault_proxy.LOSE, marks=pytest.mark.slow),
    ],
)
def test_what_the_network_breaks_loses_nothing_and_doubles_nothing(fault, proxy, make_agent, order, marks):
    agent = make_agent()
    for route in EACH_ROUTE:
        proxy.next(route, fault)
    task = wait_for(order(agent.start(), "robot.steps", steps=4))
    assert (task.status, task.attempt) == (Status.SUCCESS, 1)
    assert [mark.more for mark in read_marks(marks)] == ["0", "1", "2", "3"]
    assert log_of(task) == [f"step {n}" for n in range(4)]
    wait_until(lambda: proxy.faults()[fault.value] == len(EACH_ROUTE))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [fault_proxy.DELAY, fault_proxy.LATE_DUPLICATE])
def test_requests_that_come_too_late_change_nothing(fault, proxy, make_agent, order, marks, maintenance):
    maintenance(os.environ["FMV_BROKER_URL"])  # which takes back what a late claim took for nobody
    agent = make_agent()
    for route in EACH_ROUTE:
        proxy.next(route, fault)
    agent.start()
    tasks = [order(agent, "robot.steps", steps=4) for _ in range(3)]
    assert [wait_for(task, seconds=100).status for task in tasks] == [Status.SUCCESS] * 3
    steps = [(mark.task, mark.more) for mark in read_marks(marks)]
    assert steps == [(str(task.pk), f"{n}") for task in tasks for n in range(4)]


@pytest.mark.slow
def test_a_slow_network_lets_a_task_with_a_short_lease_begin(proxy, make_agent, order):
    proxy.delay, proxy.chances = 1.5, {fault_proxy.DELAY: 1.0}  # a second is the least that a renewal waits
    task = wait_for(order(make_agent().start(), "robot.mark"))
    assert (task.status, task.attempt) == (Status.SUCCESS, 1)


@pytest.mark.slow
def test_the_page_of_a_guest_network_ends_no_task(proxy, make_agent, order):
    agent = make_agent()
    for route in (*EACH_ROUTE, "/session", "/state"):
        proxy.next(route, fault_proxy.FOREIGN)
    task = wait_for(order(agent.start(), "robot.mark", seconds=1))
    assert (task.status, task.attempt) == (Status.SUCCESS, 1)
    assert "so it was not FMV" in agent.log


@pytest.mark.slow
def test_a_robot_in_a_lift_goes_on_and_its_result_is_accepted(proxy, make_agent, order, marks):
    agent = make_agent().start()
    task = order(agent, "robot.mark", seconds=2 * LEASE)
    wait_for_marks(marks, 1)
    proxy.is_down = True
    wait_for_marks(marks, 2)
    assert words(marks) == ["start", "end"]
    proxy.is_down = False
    task = wait_for(task)
    assert (task.status, task.attempt) == (Status.SUCCESS, 1)


@pytest.mark.slow
def test_a_skill_is_told_to_stop_before_another_attempt_may_begin(proxy, make_agent, order, marks):
    agent = make_agent().start()
    task = order(agent, "robot.strict", seconds=50)
    wait_for_marks(marks, 1)
    wait_until(lambda: 200 in proxy.statuses("/renew"))
    proxy.is_down = True
    since = uptime()
    wait_for_marks(marks, 2)
    stopped = read_marks(marks)[1]
    assert (stopped.word, stopped.more) == ("stopped", "out-of-contact")
    assert stopped.at - since < LEASE
    proxy.is_down = False
    wait_until(lambda: now(task).attempt == 2)
    why = "OutOfContact: The agent did not reach FMV for more than 2.7 s and stopped the task"
    assert why in [line["note"] for line in now(task).history]


@pytest.mark.slow
def test_lines_of_the_log_that_get_no_answer_cost_no_lease(proxy, make_agent, order, marks):
    proxy.delay = 12
    proxy.next("/log", fault_proxy.DELAY)
    task = wait_for(order(make_agent().start(), "robot.careful", seconds=7))
    assert (task.status, task.attempt, words(marks)) == (Status.SUCCESS, 1, ["start", "end"])
    assert log_of(task) == ["begins"]


@pytest.mark.slow
def test_after_renewals_that_failed_the_next_does_not_wait_for_another_third_of_the_lease(
    proxy, make_agent, order, marks
):
    task = order(make_agent().start(), "robot.careful", seconds=7)
    wait_for_marks(marks, 1)
    wait_until(lambda: 200 in proxy.statuses("/renew"))
    # Two renewals, the first of them sent again at once. With a third of the lease of 6 s between them, the next would
    # come too late.
    for _ in range(3):
        proxy.next("/renew", fault_proxy.LOSE)
    task = wait_for(task)
    assert (task.status, task.attempt, words(marks)) == (Status.SUCCESS, 1, ["start", "end"])
    assert proxy.faults()["lose"] == 3


# --- A robot that breaks ---------------------------------------------------------------------------------------------


def test_killed_in_a_task_it_goes_on_with_the_checkpoint_in_the_same_attempt(make_agent, order, marks):
    agent = make_agent().start()
    task = order(agent, "robot.steps", steps=12)
    wait_for_marks(marks, 4)
    agent.kill()
    agent.start()
    task = wait_for(task)
    assert (task.status, task.attempt, task.result) == (Status.SUCCESS, 1, {"resumed": True})
    steps = [int(mark.more) for mark in read_marks(marks)]
    assert sorted(set(steps)) == list(range(12))
    assert len(steps) <= 13  # the kill may come between a mark and its checkpoint
    assert len({mark.pid for mark in read_marks(marks)}) == 2
    assert log_of(task)[-1] == "step 11"
    starts = (agent.home / "starts").read_text().split()
    session = RobotState.objects.get(pk=agent.robot.name).session
    assert [*session["ended"], session["boot_id"]] == starts[-2:]
    assert len(starts) == 2


@pytest.mark.slow
def test_killed_in_a_task_that_cannot_go_on_it_begins_another_attempt(make_agent, order, marks):
    agent = make_agent().start()
    task = order(agent, "robot.mark", seconds=3)
    wait_for_marks(marks, 1)
    agent.kill()
    agent.start()
    task = wait_for(task)
    assert (task.status, task.attempt) == (Status.SUCCESS, 2)
    assert any("AgentRestarted" in line["note"] for line in task.history)


def test_a_result_outlives_a_reboot_without_network(proxy, make_agent, order, marks):
    agent = make_agent().start()
    task = order(agent, "robot.mark", seconds=1)
    wait_for_marks(marks, 1)
    proxy.is_down = True
    wait_until(lambda: agent.journal() and "succeeded" in agent.journal()[0].read_text())
    agent.kill()
    agent.start()
    proxy.is_down = False
    task = wait_for(task)
    assert (task.status, task.attempt, words(marks)) == (Status.SUCCESS, 1, ["start", "end"])
    wait_until(lambda: agent.journal() == [])


def test_on_sigterm_it_gives_its_task_back_and_the_robot_is_offline(make_agent, order, marks):
    agent = make_agent().start()
    task = order(agent, "robot.mark", seconds=50)
    wait_for_marks(marks, 1)
    assert agent.stop() == 0
    assert read_marks(marks)[1].more == "agent-stops"
    assert (now(task).uncounted, now(task).status in (Status.RETRY, Status.QUEUED)) == (1, True)
    assert "handed back: the agent stops" in [line["note"] for line in now(task).history]
    assert agents.session_of(agent.robot.name) is None
    assert "Stopped." in agent.log


SLOW_TO_CONNECT = """
connect = http.client.HTTPConnection.connect
def slow(connection):
    if threading.current_thread().name == "lane 1":
        print("lane 1 connects", file=sys.stderr, flush=True)
        time.sleep(2)
    connect(connection)
http.client.HTTPConnection.connect = slow
"""


@pytest.mark.slow
def test_a_claim_that_is_still_connecting_on_sigterm_begins_nothing(make_agent, order, marks, tmp_path):
    agent = make_agent(lanes=2)
    agent.start("--lanes", "2", "--stop-seconds", "20", python=patched(tmp_path, SLOW_TO_CONNECT))
    tasks = [order(agent, "robot.mark", seconds=4, how="deaf") for _ in range(2)]
    wait_for_marks(marks, 1)
    wait_until(lambda: "lane 1 connects" in agent.log)
    assert agent.stop() == 0
    assert words(marks) == ["start", "end"]
    assert now(tasks[0]).status == Status.SUCCESS
    assert agents.session_of(agent.robot.name) is None


def test_an_end_that_cannot_be_sent_keeps_no_agent_from_signing_in(make_agent, order):
    agent = make_agent()
    (agent.home / "tasks").mkdir(mode=0o700)
    name, other = uuid.uuid4(), uuid.uuid4()
    end = '"verb": "release", "body": {"session": "x", "attempt": 1, "reason": "", "delay": Infinity}'
    (agent.home / "tasks" / f"{name}.1.json").write_text(f'{{"task_id": "{name}", "attempt": 1, {end}}}')
    (agent.home / "tasks" / f"{other}.1.json").write_text(f'{{"task_id": 5, {end}}}')
    assert wait_for(order(agent.start(), "robot.mark")).status == Status.SUCCESS
    assert "This end of a task cannot be sent and is dropped" in agent.log
    wait_until(lambda: agent.journal() == [])


@pytest.mark.slow
def test_frozen_for_longer_than_its_lease_it_goes_on_if_nobody_else_may_have_the_task(make_agent, order, marks):
    agent = make_agent().start()
    task = order(agent, "robot.mark", seconds=2)
    wait_for_marks(marks, 1)
    agent.process.send_signal(signal.SIGSTOP)
    time.sleep(LEASE + 1)
    agent.process.send_signal(signal.SIGCONT)
    task = wait_for(task)
    assert (task.status, task.attempt, words(marks)) == (Status.SUCCESS, 1, ["start", "end"])


@pytest.mark.slow
@pytest.mark.clocks
def test_a_wall_clock_that_is_a_day_off_and_jumps_makes_no_difference(make_agent, order, marks, clock):
    clock.shift(hours=24)
    agent = make_agent().start(**clock.environment)
    task = order(agent, "robot.strict", seconds=4)
    wait_for_marks(marks, 1)
    clock.shift(hours=-24)
    task = wait_for(task)
    assert (task.status, task.attempt, words(marks)) == (Status.SUCCESS, 1, ["start", "end"])


SLOW_MAIN_THREAD = """
wait_for = fmv_agent.wait_for
def slow(event, seconds):
    return wait_for(event, 30 if threading.current_thread() is threading.main_thread() else seconds)
fmv_agent.wait_for = slow
"""


@pytest.mark.clocks
@pytest.mark.parametrize("patch", ["", SLOW_MAIN_THREAD], ids=["the main thread may notice", "a renewal notices"])
def test_the_time_that_the_machine_slept_counts_against_the_lease(make_agent, order, marks, clock, tmp_path, patch):
    agent = make_agent().start(python=patched(tmp_path, patch), **clock.environment)
    task = order(agent, "robot.strict", seconds=40)
    wait_for_marks(marks, 1)
    clock.shift(slept=30)
    wait_for_marks(marks, 2)
    assert read_marks(marks)[1].more == "out-of-contact"
    wait_until(lambda: now(task).attempt == 2)


# --- Tokens, and two agents ------------------------------------------------------------------------------------------


def test_of_two_agents_with_one_token_the_newer_one_has_the_robot(
    proxy, make_agent, order, marks, run_process, tmp_path
):
    older = make_agent().start()
    task = order(older, "robot.mark", seconds=50)
    wait_for_marks(marks, 1)
    (tmp_path / "other").mkdir()
    newer = AgentProcess(run_process, tmp_path / "other", older.robot, proxy.url)
    newer.name = "newer"
    newer.store_token(older.token.text)
    newer.start()
    wait_until(lambda: "stopped" in words(marks), 60)
    stopped = read_marks(marks)[1]
    assert (stopped.word, stopped.pid, stopped.more) == ("stopped", older.process.pid, "lost")
    assert "Another agent has signed in with this robot's token" in older.log
    assert older.process.poll() is None
    wait_until(lambda: now(task).attempt >= 2)


@pytest.mark.slow
def test_a_claim_that_failed_is_repeated_as_soon_as_fmv_takes_the_state(proxy, make_agent, order, marks, tmp_path):
    patient = patched(tmp_path, "fmv_agent.pauses = lambda *_: itertools.repeat(3600.0)")
    proxy.next("/claim", fault_proxy.DROP_ANSWER)
    agent = make_agent()
    task = order(agent, "robot.mark")
    agent.start(python=patient)
    task = wait_for(task)
    assert (task.status, task.attempt, words(marks)) == (Status.SUCCESS, 1, ["start", "end"])


@pytest.mark.slow
def test_a_sign_in_that_arrives_twice_disturbs_nothing(proxy, make_agent, order, marks):
    agent = make_agent()
    proxy.next("/session", fault_proxy.LATE_DUPLICATE)
    task = order(agent, "robot.mark", seconds=proxy.delay + 3)
    agent.start()
    task = wait_for(task)
    assert (task.status, task.attempt, words(marks)) == (Status.SUCCESS, 1, ["start", "end"])
    assert "Another agent has signed in" not in agent.log


def test_a_second_agent_with_the_same_directory_is_refused(make_agent):
    agent = make_agent().start()
    wait_until(lambda: "Connected" in agent.log)
    first = agent.process
    assert agent.start().process.wait(timeout=30) == 1
    assert "another agent runs with" in agent.log
    assert first.poll() is None


def refusal(home: Path, typed: str = "") -> str:
    """Start an agent that must refuse, with this on standard input; return what it says."""
    command = [sys.executable, str(AGENT / "fmv_agent.py"), "http://127.0.0.1:1", "--home", str(home)]
    done = subprocess.run(command, input=typed, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    return done.stderr


@pytest.mark.parametrize(
    ("mode", "text", "sentence"),
    [
        (0o644, "fmv_x", "others can read the token. Run: chmod 600"),
        (0o600, "two words", "does not hold one token"),
        (None, "", "there is no token"),
    ],
)
def test_without_a_token_of_its_own_it_does_not_start(mode, text, sentence, tmp_path):
    if mode:
        (tmp_path / "token").write_text(text)
        (tmp_path / "token").chmod(mode)
    assert sentence in refusal(tmp_path)


def test_what_is_no_token_is_not_stored(tmp_path):
    assert "is not one token" in refusal(tmp_path, "two words\n")
    assert not (tmp_path / "token").exists()


def test_a_new_token_in_the_file_is_used_without_a_pause(make_agent, order):
    from fmv.accounts import api_tokens

    agent = make_agent().start()
    wait_until(lambda: "Connected" in agent.log)
    agent.store_token(make_token(robot=agent.robot.name).text)
    api_tokens.revoke(agent.token, by="test")
    assert wait_for(order(agent, "robot.mark"), seconds=50).status == Status.SUCCESS
    assert "FMV refuses the token" not in agent.log


@pytest.mark.slow
def test_a_refused_token_is_reported_each_minute_until_there_is_a_valid_one(make_agent, order):
    from fmv.accounts import api_tokens

    agent = make_agent().start()
    wait_until(lambda: "Connected" in agent.log)
    api_tokens.revoke(agent.token, by="test")
    wait_until(lambda: "FMV refuses the token in" in agent.log)
    agent.store_token(make_token(robot=agent.robot.name).text)
    assert wait_for(order(agent, "robot.mark"), seconds=100).status == Status.SUCCESS


# --- Old Pythons -----------------------------------------------------------------------------------------------------


@pytest.mark.python38
def test_it_runs_with_the_oldest_python(proxy, make_agent, order, marks):
    agent = make_agent()
    proxy.next("/finish", fault_proxy.DROP_ANSWER)
    task = order(agent, "robot.steps", steps=6)
    agent.start(python=os.environ["FMV_TEST_PYTHON38"])
    wait_for_marks(marks, 2)
    agent.kill()
    agent.start(python=os.environ["FMV_TEST_PYTHON38"])
    task = wait_for(task)
    assert (task.status, task.attempt, task.result) == (Status.SUCCESS, 1, {"resumed": True})
    assert agent.stop() == 0
    assert "Traceback" not in agent.log


@pytest.mark.parametrize("file", ["fmv_agent.py", "sample_robot.py"])
def test_the_files_for_robots_are_of_python_3_8_and_need_no_packages(file):
    tree = ast.parse((AGENT / file).read_text(), feature_version=(3, 8))
    imports = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imports |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imports} <= {*sys.stdlib_module_names, "fmv_agent"}


def test_it_waits_for_no_event_by_the_wall_clock():
    """`Event.wait` does so in Python 3.8: after the clock was set back by an hour it waits an hour longer."""
    tree = ast.parse((AGENT / "fmv_agent.py").read_text())
    calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert [call.lineno for call in calls if isinstance(call, ast.Attribute) and call.attr == "wait"] == []


# --- Everything at once ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("seed", [1, 2])
def test_in_a_bad_network_with_kills_and_freezes_nothing_is_lost_or_doubled(
    seed, proxy, make_agent, order, marks, maintenance
):
    chance, until, kills = random.Random(seed), uptime() + 300, 0
    maintenance(os.environ["FMV_BROKER_URL"])
    agent = make_agent().start()
    tasks = [order(agent, "robot.steps", steps=chance.randint(1, 8), seconds=0.1) for _ in range(20)]
    proxy.delay = 2
    proxy.chances = dict.fromkeys(fault_proxy.Fault, 0.03)
    while any(now(task).status not in ENDS for task in tasks) and uptime() < until:
        time.sleep(chance.uniform(0, 4))
        match chance.choice(["kill", "stop", "freeze", "lift"]):
            case "kill":
                kills += 1
                agent.kill()
                agent.start()
            case "stop":
                agent.stop()
                agent.start()
            case "freeze":
                agent.process.send_signal(signal.SIGSTOP)
                time.sleep(chance.uniform(0, LEASE))
                agent.process.send_signal(signal.SIGCONT)
            case "lift":
                proxy.is_down = True
                time.sleep(chance.uniform(0, LEASE))
                proxy.is_down = False
    ends = [now(task) for task in tasks]
    assert [task.status for task in ends] == [Status.SUCCESS] * len(tasks)
    left = read_marks(marks)
    for task in ends:
        steps = [int(mark.more) for mark in left if (mark.task, mark.attempt) == (str(task.pk), task.attempt)]
        assert sorted(set(steps)) == list(range(task.params["steps"]))
        assert len(steps) - len(set(steps)) <= kills  # each may come between a mark and its checkpoint
    attempts = [attempt for attempt, _ in itertools.groupby(left, lambda mark: (mark.task, mark.attempt))]
    assert len(attempts) == len(set(attempts)), "two attempts ran at the same time on one lane"
    assert "A fault of the agent" not in agent.log
