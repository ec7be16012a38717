"""`make run` as its user meets it: real processes in a checkout of their own."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import psutil
import pytest

from fmv.devstack import embedded_mongodb, stack
from tests.conftest import wait_until


@pytest.fixture
def checkout(tmp_path):
    """A copy of the code with a `var/` of its own. Nothing that ran in it outlives the test."""
    root = tmp_path / "checkout"
    root.mkdir()
    for part in ("fmv", "robots", "tasks", "templates"):
        if (stack.ROOT / part).exists():
            shutil.copytree(stack.ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    yield root
    for pid in processes_in(root):
        os.kill(pid, signal.SIGKILL)


def processes_in(root: Path) -> list[int]:
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.joinpath("cwd").readlink() == root and process.joinpath("cmdline").read_bytes():
                pids.append(int(process.name))
        except OSError:
            continue  # it ended meanwhile
    return pids


class Run:
    """`python -m fmv.devstack.stack run` in a checkout, in a process group of its own as a shell would start it."""

    def __init__(self, root: Path, **environment: str) -> None:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("FMV_", "MONGODB_", "DJANGO_"))}
        self.port = embedded_mongodb.free_port(None)
        self.output = root / "output.log"
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fmv.devstack.stack", "run"],
                env=inherited | {"FMV_PORT": str(self.port)} | environment,
                cwd=root,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def wait_for(self, text: str) -> None:
        wait_until(lambda: text in self.text or self.process.poll() is not None, 60)
        assert text in self.text, self.text

    def press_ctrl_c(self) -> int:
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(timeout=60)

    def call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.port}{path}"
        request = Request(url, data, {"Content-Type": "application/json"}, method=method)
        with urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read() or "null")

    def robots(self):
        _, page = self.call("GET", "/api/v1/robot/")
        return [robot["name"] for robot in page["robots"]]

    def robots_online(self):
        _, page = self.call("GET", "/api/v1/robot/?online=true&state=true")
        return {robot["name"]: robot["state"] for robot in page["robots"]}

    def pid_of(self, name):
        return int(re.search(rf"{name} started \(pid=(\d+)\)", self.text)[1])


def refusal(root: Path, **environment: str) -> str:
    """Run the stack, which must refuse; return the one line that it prints."""
    run = Run(root, **environment)
    assert run.process.wait(timeout=60) == 1, run.text
    assert not processes_in(root)
    assert run.text.count("\n") == 1, run.text
    return run.text


@pytest.mark.slow
def test_it_starts_says_where_everything_is_and_keeps_the_data(checkout):
    run = Run(checkout)
    run.wait_for("Ctrl-C stops everything")
    password = (checkout / "var" / "admin-password").read_text().strip()
    for line in (f"http://127.0.0.1:{run.port}/api/v1/docs", f"admin, password {password}", "the role manager"):
        assert line in run.text
    assert run.call("GET", "/api/v1/health") == (200, {"health": "OK"})
    assert run.robots() == ["Bender", "Crow T. Robot", "Wall-E"]
    wait_until(lambda: [*run.robots_online()] == ["Bender", "Wall-E"], 60)
    wait_until(lambda: all(state["battery"] and state["position"] for state in run.robots_online().values()))
    drive = {"handler": "drive", "params": {"x": 5, "y": 5, "speed": 10}}
    task = run.call("POST", "/api/v1/robot/Bender/run", drive)[1]["task_id"]
    wait_until(lambda: run.call("GET", f"/api/v1/task/{task}")[1]["status"] == "SUCCESS", 60)
    sessions = run.text.count("Connected to")
    [agent] = psutil.Process(run.pid_of("agent1")).children()
    agent.kill()
    wait_until(lambda: run.text.count("Connected to") > sessions, 60)
    assert "The agent ended by itself (rc=-9). It is started again in 5 s." in run.text
    new = {"name": "R2", "location": "Tatooine", "description": "beep", "is_great": False, "tasks": None}
    assert run.call("POST", "/api/v1/robot/", new)[0] == 201
    assert run.call("DELETE", "/api/v1/robot/Wall-E")[0] == 204
    far = drive | {"params": {"x": 900, "y": 900, "speed": 0.1}}
    task = run.call("POST", "/api/v1/robot/Bender/run", far)[1]["task_id"]
    wait_until(lambda: run.call("GET", f"/api/v1/task/{task}")[1]["progress"], 60)
    assert run.press_ctrl_c() == 0
    assert not processes_in(checkout)
    assert f"Task {task}: release" in run.text  # the web server was still there
    assert "sending SIGKILL" not in run.text

    again = Run(checkout)
    again.wait_for("Ctrl-C stops everything")
    assert f"admin, password {password}" in again.text
    assert again.robots() == ["Bender", "Crow T. Robot", "R2"]
    assert [name in again.text for name in ("agent1 started", "agent2 started")] == [True, False]  # Wall-E is deleted
    again.process.terminate()
    assert again.process.wait(timeout=60) == 0
    assert not processes_in(checkout)


@pytest.mark.slow
def test_it_says_which_process_died_and_stops_the_others(checkout):
    run = Run(checkout, FMV_SAMPLE_AGENTS="0")
    run.wait_for("Ctrl-C stops everything")
    assert "agent1 started" not in run.text
    os.kill(run.pid_of("worker"), signal.SIGKILL)
    assert run.process.wait(timeout=60) == 1
    assert run.text.splitlines()[-1].startswith("fmv: the process worker (rc=-9) ended by itself")
    wait_until(lambda: not processes_in(checkout))  # the kernel ends the pool processes of the killed worker


@pytest.mark.slow
@pytest.mark.parametrize(("server", "name"), [("mongodb", "MongoDB"), ("valkey", "Valkey")])
def test_it_says_which_server_died_and_stops_everything(checkout, server, name):
    run = Run(checkout)
    run.wait_for("Ctrl-C stops everything")
    os.kill(int((checkout / "var" / f"{server}.lock").read_text()), signal.SIGKILL)
    assert run.process.wait(timeout=60) == 1
    why = f"fmv: the embedded {name} server ended by itself (rc=-9), so everything was stopped; see "
    assert run.text.splitlines()[-1].startswith(why)
    wait_until(lambda: not processes_in(checkout))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_killed_outright_it_leaves_nothing_behind_and_starts_again(checkout):
    run = Run(checkout)
    run.wait_for("Ctrl-C stops everything")
    run.process.kill()
    run.process.wait()
    wait_until(lambda: not processes_in(checkout), 30)
    again = Run(checkout)
    again.wait_for("Ctrl-C stops everything")
    assert again.press_ctrl_c() == 0


def test_a_command_whose_parent_has_ended_before_it_is_tied_to_it_does_not_run(tmp_path):
    touch = embedded_mongodb.tied(signal.SIGKILL, "touch", str(tmp_path / "here"))
    late = embedded_mongodb.tied(signal.SIGKILL, "touch", str(tmp_path / "late"), parent=str(os.getppid()))
    assert subprocess.run(touch, check=False).returncode == 0
    refused = subprocess.run(late, stderr=subprocess.PIPE, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (1, "The parent process has ended.\n")
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    for parent, code in ((os.getpid(), 0), (os.getppid(), 1)):
        fork = multiprocessing.get_context("fork").Process(target=embedded_mongodb.end_with_parent, args=(parent,))
        fork.start()
        fork.join()
        assert fork.exitcode == code


def test_it_refuses_a_taken_port(checkout):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert f"fmv: cannot listen on 127.0.0.1:{port} (Address already in use)" in refusal(
            checkout, FMV_PORT=str(port)
        )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mongodb://h:1/fmv", "mongodb://h:1/fmv"),
        ("mongodb://u:secret@h1:1,h2:2/fmv?tls=true&tlsCertificateKeyFilePassword=secret", "mongodb://u@h1:1,h2:2/fmv"),
        ("mongodb://u:secret@h?authMechanismProperties=AWS_SESSION_TOKEN:secret", "mongodb://u@h"),
        ("mongodb://u:sec#r?et/@secret@h/fmv", "mongodb://u@h/fmv"),
        ("amqps://u:sec#ret@h:1//?login_method=PLAIN", "amqps://u@h:1//"),
    ],
)
def test_no_password_is_shown(url, shown):
    assert stack.without_password(url) == shown


def test_it_refuses_a_mongodb_that_does_not_answer_and_keeps_its_password(checkout):
    line = refusal(checkout, MONGODB_URI="mongodb://somebody:secret@127.0.0.1:1/fmv")
    assert "no usable MongoDB answers at MONGODB_URI=mongodb://somebody@127.0.0.1:1/fmv" in line
    assert "Connection refused" in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("amqp://somebody:secret@127.0.0.1:1//", "Connection refused"),
        ("redis+socket:///no/valkey.sock", "No such file or directory"),
    ],
)
def test_it_refuses_a_broker_that_does_not_answer_and_keeps_its_password(checkout, url, reason):
    line = refusal(checkout, FMV_BROKER_URL=url)
    assert f"at FMV_BROKER_URL={url.replace(':secret', '')}" in line
    assert reason in line
    assert "secret" not in line


def test_it_refuses_a_wrong_variable_by_its_name(checkout):
    assert "FMV_WORKER_PROCESSES" in refusal(checkout, FMV_WORKER_PROCESSES="many")


@pytest.mark.slow
def test_it_refuses_a_second_stack_on_the_same_data(checkout):
    with embedded_mongodb.embedded_mongodb(checkout / "var" / "mongodb"):
        run = Run(checkout)
        assert run.process.wait(timeout=60) == 1
        assert "fmv: another process already runs the embedded secantusd-py" in run.text


@pytest.mark.slow
def test_the_embedded_server_takes_another_port_when_its_own_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with embedded_mongodb.embedded_mongodb(tmp_path / "mongodb", port) as uri:
            assert str(port) not in uri


@pytest.mark.slow
def test_a_server_left_over_from_a_crash_is_stopped_first(tmp_path):
    command = [
        Path(sys.executable).with_name("secantusd-py"),
        "--standalone",
        "--port",
        str(embedded_mongodb.free_port(None)),
    ]
    with subprocess.Popen([*command, "--storage-path", tmp_path / "mongodb", "--log-level", "ERROR"]) as leftover:
        (tmp_path / "mongodb.lock").write_text(f"{leftover.pid}\n")
        wait_until(lambda: embedded_mongodb.runs(leftover.pid, embedded_mongodb.PROGRAM, tmp_path / "mongodb"))
        with embedded_mongodb.embedded_mongodb(tmp_path / "mongodb"):
            assert leftover.wait(timeout=0) is not None


def test_a_process_that_only_has_the_old_server_s_number_is_left_alone(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (tmp_path / "mongodb.lock").write_text(f"{stranger.pid}\n")
        with embedded_mongodb.embedded_mongodb(tmp_path / "mongodb"):
            assert stranger.poll() is None
        stranger.kill()


@pytest.mark.parametrize(
    ("host", "role"),
    [("127.0.0.1", "manager"), ("::1", "manager"), ("localhost", "manager"), ("0.0.0.0", "none"), ("10.0.0.5", "none")],
)
def test_only_a_server_that_other_machines_cannot_reach_lets_everybody_in(tmp_path, monkeypatch, host, role):
    monkeypatch.setattr(stack, "VAR", tmp_path)
    assert stack.development_defaults(host)["anonymous"] == role


@pytest.mark.parametrize("name", ["", "mongodb.lock", "valkey.lock", "secret-key", "environment"])
def test_a_place_where_it_cannot_write_is_named_in_a_sentence(checkout, name):
    place = checkout / "var" / name
    if name:
        place.mkdir(parents=True)
    else:
        place.touch()  # a file where the directory should be; root may write into a read-only one
    assert refusal(checkout).startswith(f"fmv: cannot use {place} (")
