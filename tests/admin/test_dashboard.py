"""The admin's first page: what each panel says with data and without, to whom, and what it costs."""

import datetime as dt
import threading
from unittest.mock import patch

import pytest
from django.db import DatabaseError
from django.test import Client
from pymongo.errors import ServerSelectionTimeoutError

from fmv.accounts.permissions import Role
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import id_at
from fmv.monitoring import servers
from fmv.templatetags.display import counted
from robots import absences, agents
from robots.models import Robot
from tasks.admin import charts, dashboard
from tasks.models import Status, Tally, Task, WorkerProcess
from tasks.models.error_document import error_document
from tasks.reports import queue_stats, tallies
from tests.conftest import wait_until
from tests.support.factories import make_robot, make_task, make_user
from tests.support.probes import listening, using_broker

pytestmark = pytest.mark.django_db

MINUTE = dt.timedelta(minutes=1)
PARTS = ("now", "day", "rest")


@pytest.fixture(autouse=True)
def nothing_kept(settings):
    """No panel remembers another test, and static files are as in development."""
    settings.STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}
    dashboard.forget()
    for server in (servers.mongodb, servers.broker):
        server.forget()
    yield
    dashboard.forget()


def visitor(role=Role.VIEWER, **fields) -> Client:
    client = Client()
    client.force_login(make_user(role, password=None, **fields))
    return client


def part(name: str, client: Client | None = None) -> str:
    dashboard.forget()
    answer = (client or visitor()).get(f"/admin/dashboard/{name}/")
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


def found(panel: str):
    dashboard.forget()
    return dashboard.look(panel)["data"]


def ended(status=Status.SUCCESS, ago=dt.timedelta(), **fields) -> Task:
    finished_at = server_now() - ago
    fields = {"robot": "R2", "attempt": 1, "finished_at": finished_at, "started_at": finished_at - MINUTE} | fields
    return make_task(status=status, **fields)


def failed(message="It broke", ago=dt.timedelta(), **fields) -> Task:
    return ended(Status.FAILURE, ago, error=error_document("ValueError", message, "line 1"), **fields)


def process(name="host/1", ago=0.0, **fields) -> WorkerProcess:
    seen = server_now() - dt.timedelta(seconds=ago)
    fields = {"node": "work@host", "queues": ["work"], "started_at": seen, "seen_at": seen} | fields
    return WorkerProcess.objects.create(name=name, **fields)


def shown(panel: str) -> dict[str, str]:
    return {figure.status: figure.text for figure in found("figures")[panel]}


# --- Who sees it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.MANAGER])
def test_every_role_sees_it(role):
    client = visitor(role)
    page = client.get("/admin/").content.decode()
    for name in PARTS:
        assert f'data-live="/admin/dashboard/{name}/"' in page
        assert client.get(f"/admin/dashboard/{name}/").status_code == 200


def test_a_superuser_without_a_role_sees_it():
    client = visitor(Role.NONE, is_superuser=True)
    assert "dashboard-now" in client.get("/admin/").content.decode()
    assert part("now", client)


@pytest.mark.parametrize("name", PARTS)
def test_strangers_and_people_without_a_role_are_sent_to_sign_in(name):
    for client in (Client(), visitor(Role.NONE)):
        answer = client.get(f"/admin/dashboard/{name}/")
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/admin/login/")


def test_who_may_not_see_tasks_sees_none_of_it():
    failed("secret words")
    client = visitor()
    with patch.dict("fmv.accounts.permissions.PERMISSIONS", {Role.VIEWER: frozenset({"robots.view_robot"})}):
        page = client.get("/admin/").content.decode()
        assert "You are not allowed to see robots and tasks" in page
        assert "data-live" not in page
        assert "secret words" not in page
        for name in PARTS:
            assert client.get(f"/admin/dashboard/{name}/").status_code == 403


def test_a_part_is_a_fragment_that_nobody_keeps_and_that_there_are_others_is_not_said():
    client = visitor()
    answer = client.get("/admin/dashboard/now/")
    assert "<html" not in answer.content.decode()
    assert "no-store" in answer.headers["Cache-Control"]
    assert client.get("/admin/dashboard/figures/").status_code == 404


# --- Figures ---------------------------------------------------------------------------------------------------------


def test_an_empty_fleet():
    now, day, rest = (part(name) for name in PARTS)
    assert set(shown("now").values()) == {"0"}
    assert set(shown("day").values()) == {"0"}
    assert "No task finished in the last 24 hours" in day
    assert "No task has failed" in rest
    assert "No worker is running" in rest
    for text in ("No maintenance worker is running", "There are no robots yet", "No task is waiting"):
        assert text in now


def test_tasks_by_status_with_the_lists_behind_them():
    for status in ("QUEUED", "QUEUED", "SCHEDULED", "RETRY"):
        make_task(robot="R2", status=status, run_at=server_now() + MINUTE)
    ended(), ended(ago=5 * MINUTE), failed(), ended(Status.REVOKED)
    ended(ago=dt.timedelta(hours=25))
    tallies.roll_up()
    assert shown("now") == {"SCHEDULED": "1", "QUEUED": "2", "RETRY": "1", "STARTED": "0"}
    assert shown("day") == {"SUCCESS": "2", "FAILURE": "1", "REVOKED": "1"}
    page = part("now")
    assert '<a href="/admin/tasks/task/?status=QUEUED">' in page
    assert '<a href="/admin/tasks/task/?show=failed"><span class="fmv-figure fmv-alarming">1</span>' in page
    client = visitor()
    for figure in (*found("figures")["now"], *found("figures")["day"]):
        assert client.get(figure.url).status_code == 200, figure.url


def test_large_numbers_can_be_read(monkeypatch):
    assert [counted(n, 100) for n in (0, 99, 100, 250)] == ["0", "99", "100+", "100+"]
    assert counted(1234567) == "1,234,567"
    monkeypatch.setattr(queue_stats, "MAX_COUNTED", 2)
    for _ in range(3):
        make_task(robot="R2")
    assert shown("now")["QUEUED"] == "2+"


def test_finished_tasks_that_no_tally_covers_are_added_up_to_a_bound(monkeypatch):
    monkeypatch.setattr(tallies, "MAX_RECENT", 3)
    for _ in range(5):
        ended()
    assert shown("day")["SUCCESS"] == "3"


# --- The last day ----------------------------------------------------------------------------------------------------


def test_the_last_day_by_half_hours():
    assert found("day") is None
    now = server_now()
    edge = now.replace(minute=now.minute // 30 * 30, second=0, microsecond=0)
    for before, succeeded, wrong in ((120, 3, 0), (90, 5, 1), (31, 7, 1), (1500, 1, 1)):
        Tally.objects.create(
            until=edge - before * MINUTE,
            totals=[
                {"status": status, "handler": "wait", "count": count, "attempts": 0, "seconds": 0}
                for status, count in (("SUCCESS", succeeded), ("FAILURE", wrong))
            ],
        )
    rows = {row["begun"]: (row["succeeded"], row["failed"]) for row in found("day")["rows"]}
    assert len(rows) == dashboard.HALF_HOURS
    assert list(rows) == sorted(rows, reverse=True)
    assert {begun: row for begun, row in rows.items() if any(row)} == {
        edge - 150 * MINUTE: (2, -1),  # since the tally of the day before, which held one of each
        edge - 120 * MINUTE: (2, 1),
        edge - 60 * MINUTE: (2, 0),
    }


def test_the_chart_has_a_bar_a_tip_and_a_row_for_each_half_hour():
    passed = dt.timedelta(seconds=server_now().timestamp() % 1800)  # of this half hour
    one, other = passed + 45 * MINUTE, passed + 75 * MINUTE  # the middles of two bars
    ended(ago=one), failed(ago=one), ended(Status.REVOKED, other)
    tallies.roll_up()
    page = part("day")
    assert "<title>" in page
    assert "1 succeeded, 1 failed, 0 cancelled" in page
    assert page.count("<tr data-key=") == dashboard.HALF_HOURS
    assert page.count('class="hit"') == 2 * dashboard.HALF_HOURS
    assert page.count('class="bar-ok"') == page.count('class="bar-failed"') == page.count('class="bar-other"') == 1
    assert 'role="img"' in page
    assert "style=" not in page


@pytest.mark.parametrize(
    ("most", "top"), [(0, 1), (1, 1), (2.5, 3), (10, 10), (11, 20), (99, 100), (401, 500), (7e5, 800_000)]
)
def test_scales_end_at_round_numbers(most, top):
    assert charts.round_up(most) == top


def test_bars_are_stacked_from_the_ground_and_the_least_can_be_seen():
    drawn = charts.strip([("a", {"ok": 600, "other": 200}), ("b", {"ok": 0, "other": 1})], 100)
    assert (drawn.width, drawn.top, drawn.middle) == (20, 800, 50)
    one, other = drawn.bars
    assert [(part.kind, part.y, part.height) for part in one.parts] == [("ok", 25, 75), ("other", 0, 25)]
    assert [(part.kind, part.y, part.height) for part in other.parts] == [("other", 98, charts.MIN_PART_HEIGHT)]
    assert (one.x, other.x) == (1, 11)


# --- Failures, queue, robots, workers --------------------------------------------------------------------------------


def test_the_last_failures_say_who_and_why_and_lead_to_the_task():
    for number in range(dashboard.MAX_FAILURES + 2):
        failed(f"Fault {number}", ago=number * MINUTE, robot=f"R{number}")
    page = part("rest")
    latest = found("failures")["tasks"][0]
    assert latest["error__message"] == "Fault 0"
    assert f'href="/admin/tasks/task/{latest["id"]}/change/"' in page
    assert "<b>ValueError</b>: Fault 0" in page
    assert f"Fault {dashboard.MAX_FAILURES - 1}" in page
    assert f"Fault {dashboard.MAX_FAILURES}" not in page
    assert 'href="/admin/tasks/task/?show=failed"' in page


def test_what_a_handler_says_is_shown_as_text():
    failed("<script>alert(1)</script>")
    assert "<script>" not in part("rest")
    assert "&lt;script&gt;" in part("rest")


def test_the_task_that_waits_longest():
    make_robot(name="Crow T. Robot"), make_robot(name="off", enabled=False)
    for robot, age in (("off", 9000), ("Crow T. Robot", 3700), ("Crow T. Robot", 100)):
        make_task(robot=robot, id=id_at(server_now() - dt.timedelta(seconds=age)))
    panel = found("oldest")
    assert panel["task"].robot == "Crow T. Robot"
    assert panel["seconds"] == pytest.approx(3700, abs=5)
    page = part("now")
    assert "1 h 1 min" in page
    assert f"/admin/tasks/task/{panel['task'].id}/change/" in page


def test_robots_by_state():
    for name, enabled in (("a", True), ("b", True), ("c", True), ("d", False), ("e", False)):
        make_robot(name=name, enabled=enabled)
    for name in ("a", "d"):
        make_task(robot=name, status="STARTED", lane=f"{name}/0")
    assert [(state, text) for state, _, text, _ in found("robots")["states"]] == [
        ("busy", "2"),
        ("idle", "2"),
        ("out", "2"),  # one of them still runs what it had begun
    ]
    client = visitor()
    for _, _, _, url in found("robots")["states"]:
        assert client.get(url).status_code == 200, url


def test_robots_with_an_agent_by_what_it_says():
    make_robot(name="without")
    assert found("robots")["agents"] == []
    for name, state in (("a", {}), ("b", {"battery": {"charge": 5.0}}), ("c", {"online": False})):
        agents.report(make_robot(name=name).name, agents.open_session(name).id, state)
    dashboard.forget()
    assert [(state, text) for state, _, text, _ in found("robots")["agents"]] == [
        ("online", "2"),
        ("offline", "1"),
        ("low_battery", "1"),  # and none with errors, which is not shown then
    ]
    page = part("now")
    assert '<li id="robots-online"><a href="/admin/robots/robot/?state=online">' in page


def test_workers_with_what_they_run_and_lost_ones():
    (
        process("host/1"),
        process("host/2"),
        process("host/3", ago=3600),
        process("gone/1", ago=60, stopped_at=server_now()),
    )
    task = make_task(robot="R2", handler="primes", status="STARTED", lane="R2/0", worker="host/2", progress=40.04)
    page = part("rest")
    assert "2 processes running, 1 busy, 1 lost in 24 hours" in page
    assert f'<a href="/admin/tasks/task/{task.pk}/change/"><strong>primes</strong> for R2</a>' in page
    assert '<progress value="40.0" max="100"' in page
    assert page.index("host/2") < page.index("host/1")  # the busy first
    assert "host/3" in page
    assert "gone/1" not in page


def test_of_many_workers_some_are_listed(monkeypatch):
    monkeypatch.setattr(dashboard, "MAX_WORKERS", 3)
    for number in range(5):
        process(f"host/{number}")
    page = part("rest")
    assert page.count('<span class="fmv-process">host/') == 3
    assert "2 more" in page


# --- What needs attention --------------------------------------------------------------------------------------------


def attention() -> dict[str, list[str]]:
    """What needs attention: the sentences by kind."""
    for server in (servers.mongodb, servers.broker):
        server.health()
        wait_until(lambda server=server: server.health().state != "unknown")
    return {group.kind: [line.sentence for line in group.lines] for group in found("attention")}


def test_nothing_needs_attention_is_said_in_one_sentence():
    process("host/1"), process("host/2", queues=["maintenance"])
    assert attention() == {}
    page = part("now")
    assert page.count("Nothing needs attention.") == 1
    assert "fmv-attention" not in page


def test_nobody_works():
    assert len(attention()["no_worker"]) == 2
    process("host/1", queues=["work", "maintenance"])
    assert attention() == {}


def test_what_needs_attention_comes_first_and_leads_on():
    process("host/1", queues=["work", "maintenance"])
    task = make_task(robot="R2", status="RETRY", run_at=server_now() - 5 * MINUTE)
    make_task(robot="<b>bold</b>", handler="new", status="RETRY", run_at=server_now() - 5 * MINUTE)
    page = part("now")
    assert page.index("Tasks that are stuck") < page.index("Tasks now")
    assert f'href="/admin/tasks/task/{task.pk}/change/"' in page
    assert 'href="/admin/robots/robot/R2/change/"' in page
    assert f'aria-label="Show the task: wait …{str(task.pk)[-8:]} for R2"' in page
    assert "<b>bold" not in page


def test_of_many_lines_some_are_shown_and_a_link_leads_to_all():
    process("host/1", queues=["work", "maintenance"])
    for number in range(12):
        make_task(robot=f"R{number}", status="RETRY", run_at=server_now() - 5 * MINUTE)
    page = part("now")
    assert page.count("Its time has come") == 5
    assert 'and 7 more: <a href="/admin/tasks/task/?show=stuck">' in page


def test_only_operators_have_buttons_and_they_do_what_they_say():
    process("host/1", queues=["work", "maintenance"])
    old = server_now() - dt.timedelta(days=2)
    Robot.objects.filter(pk=make_robot(name="Marvin", enabled=False).pk).update(updated_at=old)
    absences.note()
    assert "Robots out of service for more than a day" in part("now")
    assert "<button" not in part("now")
    client = visitor(Role.OPERATOR)
    page = part("now", client)
    assert page.count("<button") == 1
    assert 'form="fmv-operate" formaction="/admin/robots/robot/Marvin/in/"' in page
    assert 'id="fmv-operate"' in client.get("/admin/").content.decode()
    client.post("/admin/robots/robot/Marvin/in/")
    assert "Nothing needs attention." in part("now", client)


# --- Servers ---------------------------------------------------------------------------------------------------------


def test_servers_that_answer_say_what_they_are():
    attention()
    for name in ("MongoDB ", "Valkey, "):
        assert part("now").count(f'<span class="fmv-badge state-ok">ok</span> {name}') == 1


def test_a_dead_broker_is_what_needs_attention_and_holds_no_page_up():
    process("host/1", queues=["work", "maintenance"])
    with using_broker("amqp://guest:guest@127.0.0.1:1//"):
        [sentence] = attention()["server"]
        assert sentence.startswith("Broker: Cannot be reached: ")
        page = part("now")
        assert "Servers that do not answer" in page
        assert "seen from this web server" in page
        assert visitor().get("/admin/").status_code == 200


# --- A panel fails alone ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DatabaseError("no"), ServerSelectionTimeoutError("nobody there")])
@pytest.mark.parametrize("broken", dashboard.PANELS)
def test_a_panel_that_fails_says_so_in_its_place_and_the_others_stay(broken, error):
    failed("Still shown")
    client = visitor()
    dashboard.forget()
    with patch.object(dashboard.PANELS[broken], "_find", side_effect=error, __name__=broken):
        answer = client.get("/admin/")
        assert answer.status_code == 200
        page = answer.content.decode()
        assert page.count("MongoDB did not answer.") == 1
        assert ("Still shown" in page) == (broken != "failures")


def test_one_that_failed_is_asked_again_soon():
    panel = dashboard.Panel(dashboard.day, seconds=1000)
    with patch.object(panel, "_find", side_effect=DatabaseError("no"), __name__="day"):
        assert "error" in panel.look()
    with patch(
        "tasks.admin.dashboard.time.monotonic", return_value=dashboard.time.monotonic() + dashboard.CACHE_SECONDS + 1
    ):
        assert panel.look() == {"data": None}


# --- What it costs ---------------------------------------------------------------------------------------------------

#: what a look at each panel asks of MongoDB, beside its clock, when nobody has looked of late
COSTS = {"figures": 4, "failures": 1, "oldest": 3, "robots": 5, "fleet": 2, "day": 4, "servers": 0, "attention": 13}


def fill(times: int) -> None:
    make_robot(name=f"R{times}"), make_robot(name=f"off {times}", enabled=False)
    for number in range(times):
        make_task(robot=f"R{times}"), failed(ago=5 * MINUTE), ended(ago=number * MINUTE)
        worker = process(f"{times}/{number}").name
        make_task(robot=f"R{times}", status="STARTED", lane=worker, worker=worker)
    tallies.roll_up()


@pytest.mark.parametrize("panel", COSTS)
def test_each_panel_costs_a_few_questions_with_many_tasks_as_with_few(panel):
    servers.mongodb.health(), servers.broker.health()
    spent = []
    for times in (3, 20):  # with three failures of a robot its latest tasks are read
        fill(times)
        with listening() as commands:
            dashboard.forget()
            commands.sent.clear()
            dashboard.look(panel)
            spent.append(len([command for command in commands.sent if not command.startswith("buildInfo")]))
    assert spent == [COSTS[panel]] * 2


def test_looking_again_costs_nothing():
    for panel in dashboard.PANELS:
        dashboard.look(panel)
    with listening() as commands:
        commands.sent.clear()
        for panel in dashboard.PANELS:
            dashboard.look(panel)
    assert [command for command in commands.sent if not command.startswith("buildInfo")] == []


def test_while_a_slow_panel_is_asked_others_see_what_was_found():
    asked, answered = threading.Event(), threading.Event()
    answers = iter(["first", "second"])

    def find():
        if asked.is_set():
            answered.wait(10)
        return next(answers)

    panel = dashboard.Panel(find, seconds=0)
    assert panel.look() == {"data": "first"}
    asked.set()
    thread = threading.Thread(target=panel.look)
    thread.start()
    wait_until(panel._lock.locked)
    assert panel.look() == {"data": "first"}
    answered.set()
    thread.join(10)
    assert panel._found == {"data": "second"}


def test_many_who_look_at_once_ask_once():
    asked = []

    def find() -> int:
        asked.append(1)
        return len(asked)

    panel = dashboard.Panel(find)
    threads = [threading.Thread(target=panel.look) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == [1]


def test_every_question_is_narrowed_by_an_index_or_limited():
    fill(3)
    from pymongo.collection import Collection

    seen, aggregate = [], Collection.aggregate

    def recording(collection, pipeline, *args, **options):
        seen.append((collection.name, list(pipeline)))
        return aggregate(collection, pipeline, *args, **options)

    with patch.object(Collection, "aggregate", recording):
        for panel in dashboard.PANELS:
            found(panel)
    indexed = {"status", "finished_at", "enabled", "_id", "stopped_at", "online", "robot", "ended", "held_since"}
    assert len(seen) > 15
    for collection, pipeline in seen:
        if collection == "django_migrations":  # a dozen documents
            continue
        first = pipeline[0]
        if "$match" in first:
            assert indexed & set(str(first["$match"]).replace("'", " ").split()), (collection, pipeline)
        else:
            assert collection == "tasks_tally", (collection, pipeline)
            assert "$limit" in pipeline[1]
    failures = next(p for c, p in seen if c == "tasks_task" and "error" in str(p))
    assert [name for stage in failures for name in stage] == ["$match", "$sort", "$limit", "$project"]
    assert list(failures[1]["$sort"]) == ["finished_at"]
    assert "traceback" not in str(failures)
