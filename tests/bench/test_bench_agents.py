"""The parts of the bench that measure agents: what the simulated agents send, and the parts themselves, small."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from fmv.devstack import stack
from tasks.models import Status, Task
from tests.bench.agents.crew import p99, store_robots
from tests.bench.agents.fleet import Mark
from tests.conftest import wait_until
from tests.support.agent_requests import submit

PACE = ("0.2", "0.2", "5")
PARTS = """
import tempfile
from dataclasses import replace
from pathlib import Path
from tests.bench import figures
from tests.bench.agents import latency, load, waiting
from tests.bench.agents.fleet import Pace
from tests.bench.stage import Stage

size = replace(figures.QUICK, pairs=1, series=1, idle=1, rounds=1)
with tempfile.TemporaryDirectory() as directory, Stage(Path(directory)) as stage:
    pace = Pace(renew=1, report=0.5, wait=2)
    found = load.measure(stage, size, 2, 3, pace) + waiting.measure(stage, size, 3, pace)
    stage.clear()
    found += latency.measure(stage, size, 2, pace)
for each in found:
    print(each.name, each.ratio, sep=": ")
"""


@pytest.fixture
def fleet(web, run_process, tmp_path):
    """Start simulated agents of two robots on a real web server; return what reads the answers that they have got."""

    def start(do: str) -> Callable[[], list[Mark]]:
        tokens, marks = tmp_path / "tokens", tmp_path / "agents"
        tokens.write_text("\n".join(store_robots(["R2", "C3"])))
        for robot in ("R2", "C3"):
            submit(robot)
        url = web(os.environ["FMV_BROKER_URL"], FMV_WEB_PROCESSES="1")
        command = (sys.executable, "-m", "tests.bench.agents.fleet", url, str(tokens), str(marks), do, *PACE)
        run_process("fleet", *command)
        return lambda: [Mark.read(line) for line in marks.read_text().splitlines()] if marks.exists() else []

    return start


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("bells")
def test_agents_that_work_keep_their_tasks_and_report(fleet):
    answers = fleet("works")
    wait_until(lambda: all([mark.asked for mark in answers()].count(word) >= 6 for word in ("renew", "report")))
    found = answers()
    assert {mark.status for mark in found} == {200}
    assert {mark.task for mark in found if mark.asked == "claim"} == {str(task.pk) for task in Task.objects.started()}


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("bells")
def test_agents_that_wait_finish_one_task_after_the_other(fleet):
    answers = fleet("waits")
    wait_until(lambda: Task.objects.filter(status=Status.SUCCESS).count() == 2)
    submit("R2")
    wait_until(lambda: Task.objects.filter(status=Status.SUCCESS).count() == 3)
    wait_until(lambda: [mark.asked for mark in answers()].count("finish") == 3)
    assert {mark.status for mark in answers()} <= {200, 204}
    assert len({mark.task for mark in answers() if mark.asked == "claim" and mark.status == 200}) == 3


def test_p99_is_the_value_that_99_of_100_do_not_exceed():
    assert p99(range(1, 101)) == 99
    assert p99([3.0]) == 3.0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_parts_measure_agents(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PARTS],
        env=os.environ | {"PYTHONPATH": str(stack.ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {name: float(value) for name, value in (line.rsplit(": ", 1) for line in done.stdout.splitlines())}
    assert len(rows) == len(done.stdout.splitlines()) == 24
    assert rows["3 agents: answered ÷ due"] > 0
    assert rows["3 waiting claims: threads a claim"] <= 1.5
    assert all(value > 0 for name, value in rows.items() if "→ claim" in name)
