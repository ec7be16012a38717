"""A MongoDB that falls silent, or whose disk is full, behind a web server that has connections to it."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import requests
from pymongo import MongoClient

from fmv.devstack import stack
from fmv.devstack.embedded_mongodb import embedded_mongodb, free_port, wait_for_mongodb

ADMIN = ("ensure_admin", "--password-file", "password")
OUT_OF_DISK_SPACE = {"errorCode": 14031, "failCommands": ["insert", "update", "findAndModify", "delete"]}
FAILED = {"errorCode": 1, "failCommands": ["insert", "update", "findAndModify", "delete"]}


@pytest.fixture
def migrated(run_process):
    def migrate(uri: str) -> None:
        for command in (("migrate", "--verbosity=0"), ("sample_robots",), ADMIN):
            manage = (sys.executable, str(stack.ROOT / "manage.py"), *command)
            assert run_process("migrate", *manage, MONGODB_URI=uri).wait(timeout=120) == 0

    return migrate


@pytest.mark.slow
def test_a_mongodb_that_falls_silent_holds_a_request_up_for_five_seconds(web, tmp_path, migrated):
    with embedded_mongodb(tmp_path / "mongodb") as server:
        uri = f"{server}fmv"
        migrated(uri)
        url = web(os.environ["FMV_BROKER_URL"], MONGODB_URI=uri, FMV_ANONYMOUS="manager", FMV_WEB_PROCESSES="1")
        calls = [("GET", "/api/v1/robot/"), ("POST", "/api/v1/robot/Wall-E/run"), ("GET", "/api/v1/stats")]
        for method, path in calls:
            assert requests.request(method, url + path, timeout=20).status_code == 200
        pid = int((tmp_path / "mongodb.lock").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            for method, path in [*calls, ("GET", "/admin/")]:
                begun = time.monotonic()
                answer = requests.request(method, url + path, timeout=40, cookies={"sessionid": "x" * 32})
                took = time.monotonic() - begun
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5"), answer.text
                assert answer.text.count("The database ") == 1
                assert took < 8, f"{path} took {took:.1f} s"  # 5 s on a quiet machine; 60 s without the limit
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (OUT_OF_DISK_SPACE, "The database's disk is full, so nothing can be stored. Try again soon."),
        (FAILED, "The database has failed; its log says why. Try again soon."),
    ],
)
def test_a_mongodb_without_room_is_reported_everywhere(fault, sentence, web, tmp_path, migrated, run_process):
    port = free_port(None)
    server = (str(Path(sys.executable).with_name("secantusd-py")), "--standalone", "--host", "127.0.0.1")
    data = str(tmp_path / "full")
    process = run_process("mongodb", *server, "--port", str(port), "--storage-path", data, "--enable-test-commands")
    wait_for_mongodb(process, port, "mongodb.log")
    uri = f"mongodb://127.0.0.1:{port}/fmv"
    migrated(uri)
    url = web(os.environ["FMV_BROKER_URL"], MONGODB_URI=uri, FMV_ANONYMOUS="manager", FMV_DEBUG="1")
    assert requests.get(f"{url}/readyz", timeout=10).status_code == 200
    with MongoClient(uri) as client:
        client.admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=fault)
        try:
            answer = requests.post(f"{url}/api/v1/robot/Wall-E/run", timeout=20)
            assert (answer.status_code, answer.json()) == (503, {"detail": sentence})
            login = requests.get(f"{url}/admin/login/", timeout=20)
            form = {"username": "admin", "password": (tmp_path / "password").read_text().strip()}
            form["csrfmiddlewaretoken"] = login.cookies["csrftoken"]
            page = requests.post(f"{url}/admin/login/", data=form, cookies=login.cookies, timeout=20)
            assert (page.status_code, page.text) == (503, sentence)
            time.sleep(1.1)  # for which /readyz keeps its last answer
            ready = requests.get(f"{url}/readyz", timeout=10)
            assert (ready.status_code, ready.text.splitlines()[0]) == (
                503,
                "mongodb: takes no writes: OperationFailure",
            )
            doctor = (sys.executable, str(stack.ROOT / "manage.py"), "doctor", "--json")
            assert run_process("doctor", *doctor, MONGODB_URI=uri).wait(timeout=60) == 2
            [text] = [line for line in (tmp_path / "doctor.log").read_text().splitlines() if line.startswith("[")]
            [found] = [finding for finding in json.loads(text) if finding["check"] == "mongodb"]
            assert found["message"].startswith("It takes no writes: ")
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")
    time.sleep(1.1)
    assert requests.get(f"{url}/readyz", timeout=10).status_code == 200
