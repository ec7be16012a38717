"""The bench itself: its figures, its report, its floor, and its refusals."""

import asyncio
import datetime as dt
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from xml.etree import ElementTree

import httpx
import orjson
import pymongo
import pytest

from fmv.devstack import stack
from tasks.models import worker_process
from tasks.queue import doorbell
from tasks.worker import claim as claiming
from tests.bench import floor, message_watch, profile, report, stage, tasks
from tests.bench.__main__ import PARTS
from tests.bench.figures import FULL, QUICK, figure, in_turn, reaches
from tests.bench.requests import prepare, routes
from tests.support.api import Api
from tests.support.environment import override_environment
from tests.support.factories import make_robot
from tests.support.probes import Commands, listening, recorded_bells
from tests.support.uris import with_suffix

# --- Figures and report ----------------------------------------------------------------------------------------------


def test_a_figure_is_the_median_of_its_pairs_with_their_spread():
    found = figure("a", "engine", "≥ 0.6", [0.9, 0.5, 0.7])
    assert (found.ratio, found.low, found.high, found.met) == (0.7, 0.5, 0.9, True)


@pytest.mark.parametrize(
    ("ratio", "goal", "met"),
    [(0.6, "≥ 0.6", True), (0.59, "≥ 0.6", False), (2, "≤ 2", True), (2.01, "≤ 2", False), (9, "", None)],
)
def test_a_goal_is_at_least_or_at_most(ratio, goal, met):
    assert reaches(ratio, goal) is met


def test_the_two_are_measured_in_turn_and_take_turns_to_begin_a_pair():
    order = []

    def measured(name, value):
        order.append(name)
        return value

    assert in_turn(3, lambda: measured("ours", 2.0), lambda: measured("theirs", 4.0)) == [0.5] * 3
    assert order[2:] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_quick_measures_less_of_everything():
    assert FULL.pairs >= 5
    assert all(getattr(QUICK, name) < getattr(FULL, name) for name in vars(FULL))


def test_the_report_is_json_a_table_and_a_plot_of_each_part(tmp_path):
    figures = [figure("a < b", "engine", "≤ 4", [1.0, 5.0, 2.0]), figure("c", "engine", "", [1.0])]
    report.write(tmp_path, {"requests": figures})
    written = json.loads((tmp_path / "report.json").read_text())
    assert [list(each) for each in written] == [["name", "ratio", "low", "high", "goal", "met", "engine"]] * 2
    assert written[0] == {
        "name": "a < b", "ratio": 2.0, "low": 1.0, "high": 5.0, "goal": "≤ 4", "met": True, "engine": "engine",
    }  # fmt: skip
    drawn = ElementTree.fromstring((tmp_path / "requests.svg").read_text())
    assert "a < b" in [text.text for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b" in report.table(figures)
    assert "yes" in report.table(figures)


# --- Refusals --------------------------------------------------------------------------------------------------------


def bench(**environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "tests.bench"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("FMV_")}  # as in a shell
    return subprocess.run(
        command, env=outside | environment, cwd=stack.ROOT, capture_output=True, text=True, check=False
    )


def test_a_wrong_part_is_refused_with_the_list_of_parts():
    done = bench(PARTS="requests,speed")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"bench: PARTS has no speed; there are: {', '.join(PARTS)}."]


def test_too_few_tasks_are_refused():
    done = bench(TASKS="99")
    assert (done.returncode, done.stderr) == (2, "bench: TASKS must be a number from 100, not 99.\n")


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("AGENTS", "19", "from 20"),
        ("CLAIMS", "501", "from 1 to 500"),
        ("CLAIMS", "many", "from 1 to 500"),
        ("PACE", "2.6", "from 1 to 2.5"),
        ("PACE", "slow", "from 1 to 2.5"),
    ],
)
def test_other_numbers_of_agents_are_refused(name, value, wanted):
    done = bench(**{name: value})
    assert (done.returncode, done.stderr) == (2, f"bench: {name} must be a number {wanted}, not {value}.\n")


def test_without_rabbitmq_it_says_how_to_install_it(monkeypatch):
    monkeypatch.delenv("FMV_BROKER_URL", raising=False)
    monkeypatch.setattr(stage, "RABBITMQ", None)
    assert "apt-get install rabbitmq-server" in stage.what_is_missing(["backlog-make-run"])
    assert stage.what_is_missing(["tasks", "growth"]) == ""


def test_without_wrk_it_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert "apt-get install wrk" in stage.what_is_missing(["requests"])
    assert stage.what_is_missing(["tasks", "growth"]) == ""


# --- The floor -------------------------------------------------------------------------------------------------------


def call_floor(method, path, body):
    data = (body or "").replace("#", "1").encode()
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path.replace("%20", " "), "CONTENT_LENGTH": str(len(data))}
    answer = []
    chunks = floor.application(environ | {"wsgi.input": io.BytesIO(data)}, lambda status, _: answer.append(status))
    assert answer == ["200 OK"]
    return orjson.loads(b"".join(chunks))


@pytest.fixture
def floor_commands(monkeypatch):
    """Collects the commands that the floor sends to the test's database."""
    from django.db import connection

    commands = Commands()
    floor.database.cache_clear()
    client = floor.MongoClient(os.environ["MONGODB_URI"], event_listeners=[commands], **floor.OPTIONS)
    monkeypatch.setattr(floor, "database", lambda: client[connection.settings_dict["NAME"]])
    monkeypatch.setattr(floor, "publish", lambda robot: None)
    yield commands
    client.close()


@pytest.mark.django_db(transaction=True)
@override_environment(anonymous="manager")
def test_the_floor_sends_the_same_mongodb_commands_and_returns_as_much(floor_commands):
    routes_ = routes(prepare(tasks=250))
    for route in routes_:
        body = route.body.replace("#", "2").encode()
        with recorded_bells(), listening() as commands:
            answer = Api(None)(route.method, route.path, *([body] if body else []))
        assert answer.status_code in (200, 201), answer.content
        floor_commands.sent.clear()
        theirs = call_floor(route.method, f"/api/v1{route.path}", route.body)
        assert floor_commands.sent == commands.sent, route.name
        ours = answer.json()
        for name in {"robots", "tasks"} & ours.keys():
            assert len(ours[name]) == len(theirs[name]), route.name
        assert 0.7 < len(orjson.dumps(theirs)) / len(answer.content) < 1.5, route.name


@pytest.mark.django_db(transaction=True)
def test_the_floor_worker_sends_the_same_commands_for_a_task(floor_commands, monkeypatch, tmp_path):
    monkeypatch.setenv("FMV_BROKER_URL", "memory://localhost")
    from tests.bench import floor_worker

    monkeypatch.setattr(floor_worker, "ROBOTS", "robots_robot")
    monkeypatch.setattr(floor_worker, "TASKS", "tasks_task")
    monkeypatch.setattr(floor_worker, "database", floor.database)
    monkeypatch.setattr(worker_process, "_START", floor_worker.START_ID)
    monkeypatch.setattr(claiming, "TIME_SLICE", 60.0)  # a test's MongoDB may be slow
    monkeypatch.setattr(claiming, "LOOK_LIFETIME", 0.0)
    robot = make_robot()
    with recorded_bells(), listening() as commands:
        tasks.by_fmv(tmp_path / "marks", robot.name)
        commands.bodies.clear()
        claiming.run_next(robot.name, "message")
    floor.database().tasks_task.insert_one(floor.queued(robot.name, "tick"))
    floor_commands.bodies.clear()
    floor_worker.run(robot.name, "message", lambda: None)
    assert alike(floor_commands.bodies) == alike(commands.bodies)


def alike(value):
    """Return the command without the parts that differ from task to task and from client to client."""
    if isinstance(value, dict):
        return {key: alike(part) for key, part in value.items() if key not in ("lsid", "$db", "_id", "ordered")}
    if isinstance(value, list):
        return [alike(part) for part in value]
    return "a moment" if isinstance(value, dt.datetime) else value


# --- The backlog -----------------------------------------------------------------------------------------------------


def call_first(app, method, path, **options):
    async def answer():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://first/api/v1") as client:
            return await client.request(method, path, **options)

    with ThreadPoolExecutor(1) as pool:  # because Playwright leaves a running loop in the main thread
        return pool.submit(lambda: asyncio.run(answer())).result()


@pytest.fixture
def first_backend(monkeypatch, tmp_path):
    """What calls the stand-in, on a database of its own, and the commands of its worker, which runs tasks at once."""
    from tests.bench import first_backend as module

    uri = with_suffix(os.environ["MONGODB_URI"], "_first")
    monkeypatch.setenv("FIRST_MONGODB_URI", uri)
    monkeypatch.setenv("FIRST_BROKER_URL", "memory://localhost")
    monkeypatch.setenv("FIRST_COUNT", "10")
    monkeypatch.setenv("FIRST_MARKS", str(tmp_path / "marks"))
    monkeypatch.setitem(module.worker.conf, "task_always_eager", True)
    commands = Commands()
    with pymongo.MongoClient(uri, event_listeners=[commands]) as client:
        database = client.get_default_database()
        monkeypatch.setattr(module, "stored_robots", lambda: database.robots)
        yield partial(call_first, module.app), commands
        client.drop_database(database.name)


def test_the_first_backend_keeps_tasks_in_their_robot_and_its_worker_updates_that_twice(first_backend, tmp_path):
    call, commands = first_backend
    body = {"name": "Crow T. Robot", "location": "Satellite of Love", "description": "You know", "tasks": None}
    assert call("POST", "/robot/", json=body).status_code == 201
    created = call("POST", "/robot/Crow T. Robot/run").json()
    assert created["status"] == "CREATED"
    assert commands.sent == ["update robots", "update robots"]
    assert (tmp_path / "marks").read_text().count("end") == 1
    profile = call("GET", "/robot/Crow%20T.%20Robot").json()
    assert profile == body | {"is_great": False, "tasks": [created | {"status": "SUCCESS"}]}
    robot = {"name": "Crow T. Robot", "is_great": False, "location": "Satellite of Love"}
    assert call("GET", "/robot/").json() == {"robots": [robot]}
    assert call("GET", "/robot/Bender").status_code == 404


def test_only_messages_that_wake_workers_up_are_counted(monkeypatch, tmp_path):
    monkeypatch.setenv("FMV_TEST_MESSAGES", str(tmp_path / "messages"))
    message_watch.count(sender=doorbell.RUN_NEXT)
    message_watch.count(sender="tasks.expire")
    assert (tmp_path / "messages").stat().st_size == 1


# --- The profile -----------------------------------------------------------------------------------------------------


def test_a_sample_counts_for_the_package_of_its_innermost_frame_outside_of_python_itself():
    assert profile.package_of(pymongo.__file__) == "pymongo"
    assert profile.package_of(stack.__file__) == "fmv"
    assert profile.package_of(json.__file__) is None
    assert profile.package_of("<string>") == profile.REST
    frames = []
    json.loads("1", parse_int=lambda _: frames.append(sys._getframe(1)))  # a frame of json, called from here
    assert profile.part_of(frames[0]) == profile.REST  # which is what tests are
    assert profile.part_of(None) == profile.REST


def test_only_the_work_is_sampled_and_not_its_preparation():
    order = []
    seen = profile.sample(lambda: order.append("work"), 0.01, lambda: order.append("first"))
    assert order[:4] == ["first", "work", "first", "work"]
    assert set(seen) <= {*profile.PARTS.values(), profile.REST}
