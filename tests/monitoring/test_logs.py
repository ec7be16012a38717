import datetime as dt
import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest
import requests

from fmv.environment import Environment
from fmv.monitoring import logs
from tasks.models import Task
from tests.conftest import wait_until
from tests.support.api import Api
from tests.support.factories import make_robot, make_task, make_user
from tests.support.pages import ROBOTS, TASKS, admin, task_url

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
TEXT = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [A-Z]+ [\w.]+ \[\S+\] ")


def record(message="hello", *args, level=logging.INFO, exc_info=None, **extra):
    made = logging.getLogger("some.module").makeRecord(
        "some.module", level, "file.py", 1, message, args, exc_info, extra={"request_id": "abc", **extra}
    )
    return json.loads(logs.JSONFormatter().format(made))


def read_json(path: Path):
    """Return the lines of a process's log; each must be one JSON object."""
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- One line --------------------------------------------------------------------------------------------------------


def test_a_line_is_an_object_that_begins_with_what_every_line_has():
    line = record("%s of %d", "one", 2, level=logging.WARNING)
    assert [*line] == ["time", "level", "logger", "message", "request_id"]
    assert TIME.fullmatch(line.pop("time"))
    assert line == {"level": "WARNING", "logger": "some.module", "message": "one of 2", "request_id": "abc"}


def test_the_time_is_utc(monkeypatch):
    said = dt.datetime.fromisoformat(record()["time"])
    assert abs(dt.datetime.now(dt.UTC) - said) < dt.timedelta(seconds=5)


def test_particulars_stand_beside_the_message():
    line = record(
        task_id="1", attempt=2, ratio=0.5, nothing=None, many=[1, "a"], at=dt.datetime(2027, 1, 2, tzinfo=dt.UTC)
    )
    assert (line["task_id"], line["attempt"], line["ratio"], line["nothing"]) == ("1", 2, 0.5, None)
    assert (line["many"], line["at"]) == ([1, "a"], "2027-01-02T00:00:00+00:00")


def test_line_breaks_do_not_break_the_line():
    formatted = logs.JSONFormatter().format(logging.makeLogRecord({"msg": "two\nlines\r\n\u2028", "request_id": "-"}))
    assert "\n" not in formatted
    assert json.loads(formatted)["message"] == "two\nlines\r\n\u2028"


@pytest.mark.parametrize("odd", ["\ud800", 2**70, object(), {1: object()}, b"\xff", {1, 2}])
def test_no_line_is_lost_for_what_json_does_not_know(odd):
    assert record(odd=odd)["message"] == "hello"


def test_a_traceback_is_one_field():
    try:
        raise ValueError("broken")
    except ValueError:
        line = record(exc_info=sys.exc_info())
    assert line["exc_info"].startswith("Traceback")
    assert "ValueError: broken" in line["exc_info"]


def test_requests_and_messages_that_others_attach_are_left_out():
    line = record(request="<GET '/?token=secret'>", data={"args": "secret"})
    assert "secret" not in str(line)


@pytest.mark.parametrize(
    ("debug", "chosen", "format"), [("1", "", "text"), ("0", "", "json"), ("1", "json", "json"), ("0", "text", "text")]
)
def test_text_in_development_json_in_production_unless_set(monkeypatch, debug, chosen, format):
    monkeypatch.setenv("FMV_DEBUG", debug)
    monkeypatch.setenv("FMV_LOG_FORMAT", chosen)
    assert logs.logging_config(Environment())["handlers"]["console"]["formatter"] == format


# --- The access line -------------------------------------------------------------------------------------------------


@pytest.fixture
def lines(caplog):
    def lines():
        return [one for one in caplog.records if one.name == "fmv.access"]

    caplog.set_level(logging.INFO)
    return lines


@pytest.mark.django_db
def test_each_request_has_a_line(lines):
    fry = make_user("viewer", username="fry")
    Api(fry)("GET", "/robot/Crow%20T.%20Robot?token=geheim", headers={"X-Request-ID": "mine"})
    (line,) = lines()
    assert (line.method, line.route, line.status) == ("GET", "/api/v1/robot/{name}", 422)
    assert (line.user, line.address, line.levelname) == ("fry", "127.0.0.1", "INFO")
    assert 0 < line.duration_ms < 60_000
    assert re.fullmatch(r"GET /api/v1/robot/{name}: 422 in [\d.]+ ms, fry at 127.0.0.1", line.getMessage())


@pytest.mark.django_db
def test_callers_without_a_name(lines, settings):
    Api(None)("GET", "/health")
    settings.ENVIRONMENT.anonymous = "viewer"
    Api(None)("GET", "/robot/")
    Api(None)("GET", "/nope")  # no view has asked who it is
    assert [line.user for line in lines()] == ["anonymous", "anonymous", "-"]


def test_no_question_is_asked_for_the_name(lines):
    for path in ("/health", "/nope"):  # this test has no database
        Api(None)("GET", path, headers={"Cookie": "sessionid=abc"})
    assert [line.user for line in lines()] == ["anonymous", "-"]


def test_refusals_of_the_middleware_have_a_line_too(lines):
    Api(None)("POST", "/robot/", headers={"Content-Length": "99999999"})
    Api(None)("GET", "/health", headers={"Host": "evil.example"})
    assert [(line.route, line.status) for line in lines()] == [("-", 413), ("-", 400)]


def test_probes_that_find_all_well_make_no_noise(lines, client):
    client.get("/livez")
    assert not lines()


@pytest.mark.django_db
def test_pages_that_keep_themselves_fresh_make_no_noise(lines):
    client, task = admin("viewer"), make_task()
    for url in ("/admin/dashboard/now/", ROBOTS + "rows/", TASKS + "rows/", task_url(task, "state")):
        assert client.get(url).status_code == 200
    assert not lines()
    client.get(task_url(task))
    client.logout()
    client.get(task_url(task, "state"))
    assert [line.status for line in lines()] == [200, 302]


@pytest.mark.django_db
def test_no_line_holds_a_secret(caplog):
    caplog.set_level(logging.DEBUG)
    make_robot(name="R2")
    api, secret = Api("manager"), "s3cret-do-not-tell"
    bearer = {"Authorization": f"Bearer {secret}"}
    for call in (
        lambda: api("GET", f"/robot/?q={secret}&token={secret}"),
        lambda: api("POST", "/robot/R2/run", {"handler": "echo", "params": {"value": secret}}),
        lambda: api("POST", "/robot/", f'{{"name": "{secret}'.encode()),
        lambda: api("GET", "/robot/", headers=bearer),
        lambda: Api(None)("GET", "/robot/", headers=bearer),
        lambda: Api(None)("POST", "/auth/login", headers=bearer),
        lambda: api("GET", "/nope", headers={"Cookie": f"sessionid={secret}"}),
        lambda: Api(None).client.get("/metrics", headers=bearer),
        lambda: Api(None).client.post("/admin/login/", {"username": "fry", "password": secret}),
    ):
        call()
    formatter = logs.JSONFormatter()
    ours = [one for one in caplog.records if not one.name.startswith(("pymongo", "django.template"))]
    assert ours
    for one in ours:
        assert secret not in formatter.format(one), one.name


# --- Real processes --------------------------------------------------------------------------------------------------


def test_one_id_from_the_client_to_the_handlers_own_lines(web, worker, tmp_path):
    broker = os.environ["FMV_BROKER_URL"]
    url = web(broker, FMV_ANONYMOUS="manager")
    worker(broker)
    make_robot(name="R2")
    body = {"handler": "speaks", "params": {"value": 1}}
    answer = requests.post(
        f"{url}/api/v1/robot/R2/run", json=body, headers={"X-Request-ID": "from-the-client"}, timeout=10
    )
    assert answer.headers["X-Request-ID"] == "from-the-client"
    wait_until(lambda: Task.objects.get().is_finished)
    assert Task.objects.get().request_id == "from-the-client"

    served = read_json(next(tmp_path.glob("web-*.log")))
    (access,) = [line for line in served if line["request_id"] == "from-the-client"]
    assert (access["logger"], access["route"], access["status"]) == ("fmv.access", "/api/v1/robot/{name}/run", 200)
    assert {"gunicorn.error", "fmv.access"} <= {line["logger"] for line in served}

    worked = read_json(tmp_path / "worker.log")
    mine = {line["logger"]: line for line in worked if line["request_id"] == "from-the-client"}
    assert mine["test_handlers"]["message"] == "at work"
    assert mine["tasks.worker.attempt"]["task_id"] == answer.json()["task_id"]
    assert mine["tasks.worker.attempt"]["robot"] == "R2"
    for line in served + worked:
        assert TIME.fullmatch(line["time"])


@pytest.mark.slow
def test_what_becomes_of_a_task_later_still_names_the_request(web, worker, maintenance, tmp_path):
    broker = os.environ["FMV_BROKER_URL"]
    url = web(broker, FMV_ANONYMOUS="manager")
    worker(broker)
    maintenance(broker)
    make_robot(name="R2")
    headers = {"X-Request-ID": "fatal"}
    body = {"handler": "dies", "max_attempts": 1}
    requests.post(f"{url}/api/v1/robot/R2/run", json=body, headers=headers, timeout=10).raise_for_status()
    wait_until(lambda: Task.objects.get().is_finished)

    def lost():
        return [one for one in read_json(tmp_path / "maintenance.log") if one["logger"] == "tasks.queue.periodic"]

    wait_until(lost)
    assert [(line["request_id"], line["status"]) for line in lost()] == [("fatal", "FAILURE")]


def test_in_development_every_process_writes_readable_text(web, worker, tmp_path):
    broker = os.environ["FMV_BROKER_URL"]
    url = web(broker, FMV_DEBUG="1", FMV_ANONYMOUS="manager")
    worker(broker, FMV_DEBUG="1")
    make_robot(name="R2")
    requests.post(f"{url}/api/v1/robot/R2/run", json={"handler": "speaks"}, timeout=10).raise_for_status()
    wait_until(lambda: Task.objects.get().is_finished)
    for log in (next(tmp_path.glob("web-*.log")), tmp_path / "worker.log"):
        lines = [
            line for line in log.read_text().splitlines() if line[:1] == "2"
        ]  # the rest of a longer text may follow
        assert len(lines) > 2
        assert all(TEXT.match(line) for line in lines), lines


def test_a_worker_that_stops_says_so_in_the_same_format(worker, tmp_path):
    process, log = worker(os.environ["FMV_BROKER_URL"]), tmp_path / "worker.log"
    wait_until(lambda: "ready" in log.read_text())
    process.terminate()
    process.wait(timeout=20)
    assert any("Warm shutdown" in line["message"] for line in read_json(log))
