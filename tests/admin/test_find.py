"""The page Find: what a few characters find, for whom, and what it costs."""

import datetime as dt
import re
from uuid import UUID

import pytest

from fmv import audit
from fmv.accounts.models import User
from fmv.accounts.permissions import Role
from fmv.audit.models import AuditEntry
from fmv.http import request_id
from fmv.mongodb.server import server_now
from robots.models import Robot
from tasks.models import Bulk, EndingsUntil, Task
from tasks.reports import endings
from tasks.reports import find as report
from tests.admin.test_page_costs import stored_bulk
from tests.support.factories import make_robot, make_task, make_user
from tests.support.pages import admin, task_url, text
from tests.support.probes import listening

pytestmark = pytest.mark.django_db(transaction=True)

FIND = "/admin/find/"


def found(sought, client=None):
    """What the page lists: group -> titles; of a task its id."""
    answer = (client or admin(Role.VIEWER)).get(FIND, {"q": sought})
    text(answer)
    return {
        group["title"]: [each["hit"].key if each["hit"].kind == "task" else each["hit"].title for each in group["hits"]]
        for group in answer.context["groups"]
    }


def noted_long_ago():
    """Let the periodic step store the endings of all tasks, and then leave them alone."""
    endings.note()
    later = server_now() + dt.timedelta(hours=1)
    EndingsUntil.objects.update(changed=later, stored=later)


@pytest.fixture(params=["noted", "new"])
def tasks(request):
    """Three tasks, whose endings the periodic step has stored, or not yet."""
    made = [make_task(robot=make_robot(name=f"Crow {n}"), request_id=f"request-{n}", labels=["night"]) for n in "abc"]
    if request.param == "noted":
        noted_long_ago()
    return made


@pytest.mark.parametrize("length", [6, 7, 8, 12, 20, 31, 32])
@pytest.mark.parametrize("form", ["{}", " …{} ", "...{}", "{} "])
def test_a_task_is_found_by_the_end_of_its_id(tasks, length, form):
    for task in tasks:
        assert found(form.format(task.pk.hex[-length:]))["Tasks"] == [task.pk]
        assert found(form.format(task.pk.hex[-length:].upper()))["Tasks"] == [task.pk]


def test_a_task_is_found_by_its_whole_id_and_by_an_end_with_dashes(tasks):
    task = tasks[1]
    for sought in (str(task.pk), str(task.pk)[-20:], str(task.pk).upper()):
        assert found(sought)["Tasks"] == [task.pk]
    assert "Tasks" not in found(task.pk.hex[-5:])
    assert "Tasks" not in found("0" + task.pk.hex)


def test_more_tasks_with_one_end_are_the_newest_and_the_page_says_that_there_are_more():
    made = [make_task(robot="R2", id=UUID(int=(n << 80) + 0xABCDEF)) for n in range(1, 13)]
    answer = admin(Role.VIEWER).get(FIND, {"q": "abcdef"})
    assert [each["hit"].key for each in answer.context["groups"][0]["hits"]] == [task.pk for task in made[:1:-1]]
    assert "There are more. Type more characters to narrow the search." in text(answer)


@pytest.mark.parametrize(
    ("sought", "names"),
    [
        ("crow", ["Crow", "CROW 2", "Scarecrow"]),
        ("CROW", ["Crow", "CROW 2", "Scarecrow"]),
        ("вальтер", ["ВАЛЬТЕР"]),
        ("A\u030angstro\u0308m", ["Ångström"]),
        ("lifts", ["Tom"]),
        ("hall 7", ["Tom"]),
        ("%", ["100 %"]),
        ("a.*", []),
        ("\0", []),
    ],
)
def test_robots_are_found_by_a_part_of_name_label_or_location_in_any_case(sought, names):
    for name in ("Scarecrow", "CROW 2", "Crow", "ВАЛЬТЕР", "Ångström", "100 %"):
        make_robot(name=name, location="Elsewhere")
    make_robot(name="Tom", location="Hall 7", labels=["Lifts 5 kg"])
    assert found(sought).get("Robots", []) == names


def test_of_many_robots_ten_are_listed_and_the_list_has_all():
    for number in range(12):
        make_robot(name=f"Crow {number:02}", labels=["a"])
    answer = admin(Role.VIEWER).get(FIND, {"q": "crow"})
    shown = text(answer)
    assert shown.count("/admin/robots/robot/Crow") == 10
    assert "/admin/robots/robot/?q=crow" in shown
    assert "There are 2 more." in shown


def test_handlers_labels_requests_and_bulk_runs_are_found(tasks):
    assert found("Prim")["Handlers"] == ["primes"]
    assert found("night")["Labels of tasks"] == ["night"]
    run = stored_bulk()
    assert found(str(run.pk)) == {"Bulk runs": ["cancel by fry"]}
    assert Bulk.objects.count() == 1
    client = admin(Role.VIEWER)
    token = request_id.current.set("0199-request-of-crow")
    audit.record("robot.change", by="fry", kind="robot", key="Crow a")
    request_id.current.reset(token)
    for sought in ("0199-request-of-crow", "of-crow"):
        assert found(sought, client)["Requests"] == ["0199-request-of-crow"]
    assert "1 audit entry" in text(client.get(FIND, {"q": "of-crow"}))


def test_a_request_finds_the_tasks_that_it_submitted():
    made = [make_task(robot="R2", request_id="0199-submitted") for _ in range(2)]
    noted_long_ago()
    for sought in ("0199-submitted", "…submitted"):
        assert sorted(found(sought)["Requests"]) == sorted(task.pk for task in made)


def test_users_are_found_by_parts_of_their_names_only_by_whoever_may_see_users():
    make_user(username="leela", name="Turanga Leela", email="captain@express.example", password=None)
    root = admin(is_superuser=True, username="root")
    for sought in ("LEEL", "turanga", "captain@"):
        assert found(sought, root)["Users"] == ["leela"]
        assert found(sought) == {}
    shown = text(admin(Role.VIEWER).get(FIND, {"q": "Leela"}))
    assert "/admin/tasks/task/?requested_by=leela" in shown
    assert "/admin/fmv/auditentry/?by=leela" in shown
    assert "/admin/fmv/user/" not in shown
    assert "captain" not in shown


def test_a_program_that_has_requested_tasks_is_found_by_its_whole_name():
    make_task(requested_by="command")
    assert found("command")["Users"] == ["command"]
    assert found("nobody") == {}


def test_what_is_exactly_the_text_comes_first():
    make_robot(name="waiter"), make_robot(name="Bender")
    assert list(found("wait")) == ["Handlers", "Robots"]
    assert list(found("Wait")) == ["Handlers", "Robots"]


def test_the_first_hit_has_the_focus_and_nothing_else():
    task = make_task(robot=make_robot(name="Crow"))
    shown = text(admin(Role.VIEWER).get(FIND, {"q": str(task.pk)}))
    assert re.findall(r"<[^>]* autofocus>", shown) == [f'<a href="{task_url(task)}" autofocus>']


def test_nothing_found_says_what_can_be_found_and_an_empty_box_too():
    client = admin(Role.VIEWER)
    assert "Nothing was found for “swordfish”." in text(client.get(FIND, {"q": "swordfish"}))
    for query in ({}, {"q": ""}, {"q": "  "}):
        assert "into the search box" in text(client.get(FIND, query))
    assert 'role="alert"' in text(client.get(FIND, {"q": "a", "x": "b"}))
    assert "&lt;b&gt;" in text(client.get(FIND, {"q": "<b>"}))


def test_it_says_so_when_the_periodic_step_is_behind(monkeypatch):
    monkeypatch.setattr(report, "NEWEST_TASKS", 1)
    make_task(), make_task()
    assert "found in a few minutes" in text(admin(Role.VIEWER).get(FIND, {"q": "abcdef0"}))


def test_every_page_has_the_box_and_the_sign_in_page_has_none(client):
    assert 'id="fmv-find"' not in text(client.get("/admin/login/"))
    assert 'id="fmv-find"' in text(admin(Role.VIEWER).get("/admin/"))
    assert client.get(FIND, {"q": "a"}).status_code == 302
    assert admin(Role.NONE).get(FIND, {"q": "a"}).status_code in (302, 403)


@pytest.mark.parametrize("sought", ["abcdef01", "crow", "0199-of-nobody"])
def test_a_search_costs_the_same_with_many_rows_and_reads_little(sought):
    client, costs = admin(is_superuser=True), {}
    for count in (0, 600):
        about = {"handler": "noop", "timeout": 1.0, "requested_by": "fry", "params": {"text": "x" * 100}}
        Task.objects.bulk_create(Task(robot="R2", request_id=f"request-{n}", **about) for n in range(count))
        AuditEntry.objects.bulk_create(AuditEntry(by="fry", action="a.b", kind="robot", key=n) for n in range(count))
        Robot.objects.bulk_create(
            Robot(name=f"Crow {n}", location="Hall", description="x" * 100) for n in range(min(count, 1000))
        )
        User.objects.bulk_create(User(username=f"crow {n}", password="!") for n in range(min(count, 200)))
        with listening() as commands:
            text(client.get(FIND, {"q": sought}))
        costs[count] = [each for each in commands.sent if not each.startswith("getMore")]
        assert sum(len(repr(answer)) for answer in commands.answers) < 250_000
    assert costs[0] == costs[600] if sought != "crow" else len(costs[600]) <= len(costs[0]) + 1
    assert len(costs[0]) <= 16, costs[0]
