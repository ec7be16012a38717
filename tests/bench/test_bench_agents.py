"""The parts of the bench that measure agents: what the simulated agents send, and the parts themselves, small."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fmv.devstack import stack
from tasks.models import Status, Task
from tests.bench.agents.crew import p99, store_robots
from tests.bench.agents.fleet import Mark
from tests.conftest import wait_until
from tests.support.agent_requests import submit

PACE = ("0.2", "0.2", "5")
PART = """
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from tests.bench import figures
from tests.bench.__main__ import PARTS
from tests.bench.agents.fleet import Pace
from tests.bench.stage import Stage

size = replace(figures.QUICK, pairs=1, series=1, idle=1, rounds=1, agents=20, claims=3)
with tempfile.TemporaryDirectory() as directory, Stage(Path(directory)) as stage:
    stage.clear()
    for each in PARTS[sys.argv[1]](stage, size, Pace(renew=2, report=1, wait=2)):
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


@pytest.fixture
def measured(tmp_path):
    """Run a part of the bench, small; return its figures by name."""

    def run(part: str) -> dict[str, float]:
        done = subprocess.run(
            [sys.executable, "-c", PART, part],
            env=os.environ | {"PYTHONPATH": str(stack.ROOT)},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return {name: float(value) for name, value in (line.rsplit(": ", 1) for line in done.stdout.splitlines())}

    return run


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_load_of_agents_is_measured(measured):
    rows = measured("agents")
    assert len(rows) == 14
    assert rows["20 agents: answered ÷ due"] > 0
    assert rows["2 agents: in contact at the end"] == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_waiting_claims_hold_is_measured(measured):
    rows = measured("agents-waiting")
    assert len(rows) == 6
    assert rows["3 waiting claims: threads a claim"] <= 1.5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_wait_from_a_submit_to_the_claim_is_measured(measured):
    rows = measured("agents-latency")
    assert len(rows) == 6
    assert all(value > 0 for value in rows.values())


class TooSlow(BaseHTTPRequestHandler):
    """A web server that is too slow for every request at first, and then takes it."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        first = self.path not in self.server.asked
        self.server.asked.append(self.path)
        claimed = {"session": "1", "attempt": 1, "task": {"task_id": len(self.server.asked)}}
        body = b"" if first else json.dumps(claimed).encode()
        self.send_response(503 if first else 200)
        self.send_header("Retry-After", "0")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def too_slow():
    with ThreadingHTTPServer(("127.0.0.1", 0), TooSlow) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("do", "asked"),
    [("asks", ["sign-in", "claim"]), ("waits", ["sign-in", "claim", "renew", "finish"]), ("works", ["claim", "renew"])],
)
def test_agents_ask_again_when_the_server_is_too_slow(too_slow, run_process, tmp_path, do, asked):
    tokens, marks = tmp_path / "tokens", tmp_path / "agents"
    tokens.write_text("token")
    url = f"http://127.0.0.1:{too_slow.server_port}"
    run_process("fleet", sys.executable, "-m", "tests.bench.agents.fleet", url, str(tokens), str(marks), do, *PACE)

    def taken() -> set[str]:
        found = [Mark.read(line) for line in marks.read_text().splitlines()] if marks.exists() else []
        return {mark.asked for mark in found if mark.status == 200}

    wait_until(lambda: taken() >= set(asked))
