"""Robots in the admin: the list, a robot's page, and what each role can do there."""

import datetime as dt
from urllib.parse import quote as percent

import pytest

from fmv.accounts.permissions import Role
from fmv.audit.models import AuditEntry
from robots.models import Robot
from tasks.models import UNFINISHED, Bulk, LogLine, Status, Task
from tasks.queue import services
from tasks.reports import tallies
from tests.support.api import stored
from tests.support.factories import make_robot, make_task
from tests.support.pages import ROBOTS, TASKS, admin, messages, robot_url, text
from tests.support.probes import listening

pytestmark = pytest.mark.django_db(transaction=True)

FORM = {"name": "R2", "location": "Tatooine", "description": "beep", "enabled": "on", "lanes": "1", "labels": ""}
ODD = ("$where", "a_5Fb", "100%", "Röbi 🤖", '<b>"&', "a?b#c", "Crow T. Robot", "it's", "add", "rows", "x;y,z+1")
NOON = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)


def running(robot, **fields):
    return make_task(robot=robot, status="STARTED", lane=f"{robot}/0", started_at=NOON, **fields)


def ended(robot, status, **fields):
    return make_task(robot=robot, status=status, started_at=NOON, finished_at=NOON + dt.timedelta(seconds=9), **fields)


# --- The list --------------------------------------------------------------------------------------------------------


def test_the_list_shows_what_each_robot_is_doing():
    make_robot(name="Bender", labels=["night"])
    run = running("Bender", progress=41.5)
    failure = ended("Bender", "FAILURE")
    for _ in range(3):
        make_task(robot="Bender", status="QUEUED")
    shown = text(admin(Role.VIEWER).get(ROBOTS))
    for part in ("Bender", "busy", "failing", 'value="41.5"', str(run.pk), str(failure.pk), ">3</a>", "night"):
        assert part in shown, part


def test_without_robots_the_list_says_so():
    assert "There are no robots yet" in text(admin().get(ROBOTS))
    assert "No robot matches" in text(admin().get(ROBOTS + "?q=x"))


def test_the_list_answers_operators_questions():
    for name, enabled in (("Idle", True), ("Busy", True), ("Sick", True), ("Gone", False)):
        make_robot(name=name, enabled=enabled, labels=["night"] if name != "Idle" else [])
    running("Busy")
    ended("Sick", "FAILURE")
    client = admin(Role.VIEWER)
    for query, there in {
        "state=idle": {"Idle", "Sick"},
        "state=busy": {"Busy"},
        "state=out": {"Gone"},
        "state=failing": {"Sick"},
        "state=idle&label=night": {"Sick"},
        "label=night": {"Busy", "Sick", "Gone"},
        "q=IDL": {"Idle"},
        "q=.*": set(),
    }.items():
        shown = text(client.get(f"{ROBOTS}rows/?{query}"))
        found = {name for name in ("Idle", "Busy", "Sick", "Gone") if f">{name}</a>" in shown}
        assert found == there, query


def test_the_search_is_for_literal_text():
    make_robot(name="a.*b")
    make_robot(name="axxb")
    assert [status.robot.name for status in admin().get(ROBOTS + "?q=a.*").context["robot_statuses"]] == ["a.*b"]


def test_the_list_goes_on_after_fifty_robots():
    for number in range(51):
        make_robot(name=f"R{number:02}")
    client = admin(Role.VIEWER)
    first = client.get(ROBOTS)
    assert len(first.context["robot_statuses"]) == 50
    second = client.get(f"{ROBOTS}?{first.context['next']}")
    assert [status.robot.name for status in second.context["robot_statuses"]] == ["R50"]
    assert not second.context["next"]


def test_fifty_robots_take_as_many_queries_as_one():
    client = admin(Role.VIEWER)
    make_robot(name="R00")
    with listening() as one:
        assert client.get(ROBOTS).status_code == 200
    for number in range(1, 50):
        make_robot(name=f"R{number:02}")
        running(f"R{number:02}")
        ended(f"R{number:02}", "SUCCESS")
    tallies.roll_up()
    with listening() as fifty:
        assert len(client.get(ROBOTS).context["robot_statuses"]) == 50
    assert len(one.sent) == len(fifty.sent) <= 9, fifty.sent


# --- A robot's page --------------------------------------------------------------------------------------------------


def test_a_page_shows_the_robot_its_queue_its_chart_and_its_latest_tasks():
    make_robot(name="Bender", location="Earth", labels=["night"])
    low, high = (make_task(robot="Bender", status="QUEUED", priority=priority) for priority in (1, 9))
    running("Bender", progress=7.0, message="<i>moving</i>")
    good, bad = ended("Bender", "SUCCESS"), ended("Bender", "FAILURE")
    answer = admin(Role.VIEWER).get(robot_url("Bender"))
    shown = text(answer)
    assert [task.pk for task in answer.context["next"]] == [high.pk, low.pk]
    assert {bar.task.pk: bar.kind for bar in answer.context["bars"]} == {good.pk: "ok", bad.pk: "failed"}
    assert "&lt;i&gt;moving&lt;/i&gt;" in shown
    assert "<i>moving" not in shown
    assert 'value="7.0"' in shown
    for part in ("Earth", "night", "busy", "failing"):
        assert part in shown, part


def test_a_new_robot_has_a_page():
    make_robot(name="R2")
    shown = text(admin(Role.VIEWER).get(robot_url("R2")))
    assert "No task has finished yet" in shown
    assert "No entries." in shown


@pytest.mark.parametrize("name", ODD)
def test_odd_names_have_all_the_pages(name):
    make_robot(name=name)
    running(name)
    client = admin()
    for page in ("change", "live", "run", "out", "edit"):
        shown = text(client.get(robot_url(name, page)))
        assert "<b>" not in shown.replace("<b>1</b>", "").replace("<b>0</b>", ""), page
    assert name in {status.robot.name for status in client.get(ROBOTS).context["robot_statuses"]}
    tasks = client.get(f"{TASKS}?robot={percent(name)}").context["tasks"]
    assert [task.robot for task in tasks] == [name]
    assert client.post(robot_url(name, "in")).headers["Location"] == robot_url(name)


def test_a_page_that_is_not_there_leads_to_the_list():
    for page in ("change", "run", "out"):
        answer = admin().get(robot_url("nobody", page), follow=True)
        assert answer.redirect_chain[-1][0] == ROBOTS
        assert messages(answer) == ["There is no robot nobody."]
    assert admin().get(robot_url("nobody", "live")).status_code == 404


def test_the_page_of_a_robot_costs_the_same_whatever_its_tasks():
    client = admin(Role.VIEWER)
    make_task(robot=make_robot(name="Bender"), status="QUEUED")
    with listening() as few:
        text(client.get(robot_url("Bender", "live")))
    for number in range(30):
        make_task(robot="Bender", status="QUEUED")
        ended("Bender", "SUCCESS" if number % 2 else "FAILURE")
    with listening() as many:
        text(client.get(robot_url("Bender", "live")))
    assert len(few.sent) == len(many.sent) <= 17, many.sent


def test_the_audit_panel_tells_who_did_what():
    make_robot(name="R2")
    admin(Role.OPERATOR, username="leela").post(
        robot_url("R2", "out"), {"queue": "keep"}, headers={"X-Request-ID": "r-7"}
    )
    shown = text(admin(Role.VIEWER).get(robot_url("R2")))
    for part in ("leela", "robot.disable", "r-7"):
        assert part in shown, part


# --- In and out of service -------------------------------------------------------------------------------------------


def test_an_operator_takes_a_robot_out_of_service_and_keeps_its_queue():
    make_robot(name="R2")
    task = make_task(robot="R2", status="QUEUED")
    client = admin(Role.OPERATOR)
    assert "<b>1</b> task waits" in text(client.get(robot_url("R2", "out")))
    answer = client.post(robot_url("R2", "out"), {"queue": "keep"}, follow=True)
    assert messages(answer) == ["R2 is out of service."]
    assert not Robot.objects.get().enabled
    assert Task.objects.get(pk=task.pk).status == "QUEUED"


def test_its_queue_can_be_cancelled_with_it():
    make_robot(name="R2")
    waiting, run = make_task(robot="R2", status="QUEUED"), running("R2")
    answer = admin(Role.OPERATOR).post(robot_url("R2", "out"), {"queue": "cancel"})
    assert answer.headers["Location"] == f"/admin/tasks/bulk/{Bulk.objects.get().pk}/change/"
    assert Task.objects.get(pk=waiting.pk).status == "REVOKED"
    assert Task.objects.get(pk=run.pk).status == "STARTED"


def test_its_queue_can_move_to_another_robot():
    make_robot(name="R2")
    make_robot(name="Crow T. Robot")
    task = make_task(robot="R2", status="QUEUED")
    client = admin(Role.OPERATOR)
    assert 'value="Crow T. Robot"' in text(client.get(robot_url("R2", "out")))
    assert client.post(robot_url("R2", "out"), {"queue": "move", "to": "Crow T. Robot"}).status_code == 302
    assert Task.objects.get(pk=task.pk).robot == "Crow T. Robot"


@pytest.mark.parametrize(
    ("to", "says"),
    [("", "Name the robot"), ("nobody", "no robot nobody"), ("Gone", "out of service"), ("R2", "another robot")],
)
def test_where_it_cannot_move_to_is_said_beside_the_field(to, says):
    make_robot(name="R2")
    make_robot(name="Gone", enabled=False)
    make_task(robot="R2", status="QUEUED")
    before = stored()
    answer = admin(Role.OPERATOR).post(robot_url("R2", "out"), {"queue": "move", "to": to})
    text(answer)
    assert says in " ".join(answer.context["form"].errors["to"])
    assert stored() == before


def test_a_robot_is_put_in_service_again():
    make_robot(name="R2", enabled=False)
    client = admin(Role.OPERATOR)
    assert client.get(robot_url("R2", "in")).status_code == 405
    assert messages(client.post(robot_url("R2", "in"), follow=True)) == ["R2 is in service."]
    assert Robot.objects.get().enabled


def test_an_operator_holds_a_queue_and_releases_it():
    make_robot(name="R2")
    make_task(robot="R2", status="QUEUED")
    client = admin(Role.OPERATOR, username="leela")
    assert "<b>1</b> task waits" in text(client.get(robot_url("R2", "hold")))
    answer = client.post(robot_url("R2", "hold"), {"why": "The lift <b>is</b> being repaired"}, follow=True)
    assert messages(answer) == ["The queue of R2 is held."]
    robot = Robot.objects.get()
    assert (robot.held_by, robot.held_why, robot.enabled) == ("leela", "The lift <b>is</b> being repaired", True)
    for page in (robot_url("R2"), ROBOTS, f"{ROBOTS}?state=held"):
        shown = text(client.get(page))
        assert "held by leela (“The lift &lt;b&gt;is&lt;/b&gt; being repaired”)" in shown, page
        assert "state-held" in shown
    assert "robot matches" in text(client.get(f"{ROBOTS}?state=out"))
    assert client.get(robot_url("R2", "release")).status_code == 405
    assert messages(client.post(robot_url("R2", "release"), follow=True)) == ["The queue of R2 is released."]
    assert Robot.objects.get().starts_tasks


def test_what_another_holds_is_said_with_who_and_why():
    make_robot(name="R2")
    services.hold_queue("R2", by="fry", why="Mine")
    before = stored()
    answer = admin(Role.OPERATOR).post(robot_url("R2", "hold"), {"why": "No, mine"})
    assert "held by fry (“Mine”) since" in text(answer)
    assert stored() == before
    assert admin(Role.OPERATOR).post(robot_url("Nobody", "release")).status_code == 302


def test_all_of_a_robots_tasks_are_cancelled_after_a_question():
    make_robot(name="R2")
    mine, other = make_task(robot="R2", status="QUEUED"), make_task(robot="C3", status="QUEUED")
    client, url = admin(Role.OPERATOR), f"{TASKS}act/?robot=R2"
    asked = client.post(url, {"scope": "all", "action": "cancel"}, follow=True)
    assert "Cancel 1 task?" in text(asked)
    assert Task.objects.get(pk=mine.pk).status == "QUEUED"
    client.post(url, {"scope": "all", "action": "cancel", "confirmed": "yes"})
    assert [Task.objects.get(pk=task.pk).status for task in (mine, other)] == ["REVOKED", "QUEUED"]


# --- Managers --------------------------------------------------------------------------------------------------------


def test_a_manager_adds_a_robot():
    answer = admin().post(ROBOTS + "add/", FORM | {"labels": "red,blue", "lanes": "3", "endpoint": ""})
    assert answer.headers["Location"] == robot_url("R2")
    robot = Robot.objects.get()
    assert (robot.name, robot.labels, robot.lanes, robot.endpoint) == ("R2", ["red", "blue"], 3, None)
    assert AuditEntry.objects.get().action == "robot.create"


def test_the_rules_of_the_registry_hold_here_too():
    client = admin()
    for wrong in (
        {"name": "a/b"},
        {"name": ".."},
        {"name": "a\0b"},
        {"name": "x" * 65},
        {"name": ""},
        {"is_great": "on"},
        {"lanes": "17"},
        {"lanes": "0"},
        {"labels": "x" * 65},
        {"endpoint": "ftp://x"},
        {"location": ""},
    ):
        answer = client.post(ROBOTS + "add/", FORM | wrong)
        assert "errorlist" in text(answer), wrong
    assert not Robot.objects.exists()


def test_adding_a_robot_of_a_taken_name_changes_nothing():
    make_robot(name="R2", location="Naboo")
    answer = admin().post(ROBOTS + "add/", FORM)
    assert "already exists" in text(answer)
    assert Robot.objects.get().location == "Naboo"


def test_a_manager_edits_a_robot():
    make_robot(name="Crow T. Robot", labels=["a"])
    client, url = admin(), robot_url("Crow T. Robot", "edit")
    assert "Crow T. Robot" in text(client.get(url))
    answer = client.post(url, FORM | {"initial-labels": "a"})
    assert answer.headers["Location"] == robot_url("Crow T. Robot")
    robot = Robot.objects.get()
    assert (robot.name, robot.location, robot.labels) == ("Crow T. Robot", "Tatooine", [])


def test_name_and_service_are_not_edited():
    make_robot(name="R2", enabled=False)
    client, url = admin(), robot_url("R2", "edit")
    shown = text(client.get(url))
    assert 'name="name"' not in shown
    assert 'name="enabled"' not in shown
    assert client.post(url, FORM | {"name": "R3"}).status_code == 302
    assert list(Robot.objects.values_list("name", "enabled")) == [("R2", False)]


def test_a_manager_deletes_a_robot_with_its_finished_tasks():
    make_robot(name="R2")
    task = make_task(robot="R2", status="SUCCESS")
    LogLine.objects.create(task=task.pk, attempt=1, text="done")
    client, url = admin(), robot_url("R2", "delete")
    assert "Delete the robot" in text(client.get(url))
    assert client.post(url, {"post": "yes"}).status_code == 302
    assert not Robot.objects.exists()
    assert not Task.objects.exists()
    assert not LogLine.objects.exists()


@pytest.mark.parametrize("status", UNFINISHED)
def test_deleting_one_with_unfinished_tasks_is_refused_with_a_message(status):
    make_robot(name="R2")
    make_task(robot="R2", status=status)
    for method in ("get", "post"):
        answer = getattr(admin(), method)(robot_url("R2", "delete"), {"post": "yes"}, follow=True)
        assert "has unfinished tasks" in text(answer)
        assert answer.redirect_chain[-1][0] == robot_url("R2")
    assert Robot.objects.exists()


def test_a_task_that_comes_at_the_last_moment_keeps_its_robot(monkeypatch):
    make_robot(name="R2")
    make_task(robot="R2", status=Status.QUEUED)
    looks = iter([False, True])
    monkeypatch.setattr(services, "has_work", lambda name: next(looks))
    answer = admin().post(robot_url("R2", "delete"), {"post": "yes"}, follow=True)
    assert "has unfinished tasks" in text(answer)
    assert Robot.objects.exists()


# --- Roles -----------------------------------------------------------------------------------------------------------

OPERATES = {"run": {"params.count": "9"}, "out": {"queue": "keep"}, "in": {}}


def test_a_viewer_sees_and_cannot_touch():
    make_robot(name="R2", location="Naboo")
    make_task(robot="R2", status="QUEUED")
    client, before = admin(Role.VIEWER), stored()
    for url in (ROBOTS, robot_url("R2"), robot_url("R2", "live"), ROBOTS + "rows/"):
        shown = text(client.get(url))
        assert "R2" in shown
        assert "Run a task" not in shown
        assert "fmv-operate" not in shown
        assert '<form method="post"' not in shown.partition('id="content"')[2], url
    for page, form in OPERATES.items():
        assert client.get(robot_url("R2", page)).status_code == 403, page
        assert client.post(robot_url("R2", page), form).status_code == 403, page
    assert (
        client.post(f"{TASKS}act/?robot=R2", {"scope": "all", "action": "cancel", "confirmed": "yes"}).status_code
        == 403
    )
    assert stored() == before
    assert not Bulk.objects.exists()


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_who_is_no_manager_changes_no_robot(role):
    make_robot(name="R2", location="Naboo")
    client, before = admin(role), stored()
    assert client.get(ROBOTS + "add/").status_code == 403
    for url in (ROBOTS + "add/", robot_url("R2", "delete"), robot_url("R2", "edit"), robot_url("R2")):
        assert client.post(url, FORM | {"name": "R3", "post": "yes"}).status_code == 403, url
    client.post(ROBOTS, {"action": "delete_selected", "_selected_action": ["R2"], "post": "yes"})
    for part in ("Edit</a>", "Delete…", "Add a robot"):
        assert part not in text(client.get(robot_url("R2"))) + text(client.get(ROBOTS))
    assert stored() == before


def test_robots_are_not_deleted_from_the_list():
    robot = make_robot()
    admin().post(ROBOTS, {"action": "delete_selected", "_selected_action": [robot.pk], "post": "yes"})
    assert Robot.objects.exists()


def test_nothing_changes_without_a_csrf_token():
    make_robot(name="R2")
    client, before = admin(enforce_csrf_checks=True), stored()
    for page, form in OPERATES.items():
        assert client.post(robot_url("R2", page), form).status_code == 403, page
    assert client.post(ROBOTS + "add/", FORM | {"name": "R3"}).status_code == 403
    assert stored() == before


@pytest.mark.parametrize("query", ["stat=out", "state=failling", "labels=x", "q=R2&q=C3", "enabled=false", "o=1"])
def test_a_wrong_filter_shows_no_robot_and_says_why(query):
    make_robot(name="R2-D2")
    client = admin()
    shown = text(client.get(f"{ROBOTS}?{query}"))
    assert 'role="alert"' in shown
    assert "R2-D2" not in shown
    assert client.get(f"{ROBOTS}rows/?{query}").status_code == 204


def test_a_new_robot_whose_name_differs_by_case_only_is_warned_of():
    make_robot(name="Twin (1)")
    made = admin().post(ROBOTS + "add/", FORM | {"name": "twin (1)", "description": ""}, follow=True)
    assert "There is also a robot Twin (1): the names differ by case only." in messages(made)
    assert Robot.objects.get(pk="twin (1)").description == ""
    assert len(messages(admin().post(ROBOTS + "add/", FORM | {"name": "other"}, follow=True))) == 1


def test_a_name_that_is_typed_is_stored_in_its_plain_form():
    made = admin().post(ROBOTS + "add/", FORM | {"name": "Bjo\u0308rn\u00a0 B"}, follow=True)
    assert made.redirect_chain[-1][0] == robot_url("Björn B")
    again = admin().post(ROBOTS + "add/", FORM | {"name": "Bjo\u0308rn B"})
    assert again.context["adminform"].form.errors["name"]
    hidden = admin().post(ROBOTS + "add/", FORM | {"name": "R\u200b2"})
    assert "U+200B" in str(hidden.context["adminform"].form.errors["name"])
    assert Robot.objects.count() == 1


def test_a_run_form_with_a_misspelt_address_is_not_that_of_the_default_handler():
    make_robot(name="R2")
    answer = admin().get(f"{robot_url('R2', 'run')}?handlr=wait", follow=True)
    assert messages(answer) == ["The address has an unknown parameter 'handlr'. Did you mean handler?"]
    assert answer.redirect_chain[-1][0] == robot_url("R2")


def test_odd_addresses_never_harm():
    make_robot(name="R2", location="a.*b")
    client = admin()
    for url in (
        *(ROBOTS + "?q=%00", ROBOTS + "?q=[", ROBOTS + "?o=99", ROBOTS + "?p=99999", ROBOTS + "?after=%00"),
        *(ROBOTS + "?enabled__exact=x", ROBOTS + "?location__regex=(", ROBOTS + "?e=1", ROBOTS + "?state[$ne]=x"),
        *(ROBOTS + "%00/change/", ROBOTS + "%FF/change/", ROBOTS + "R2/history/", ROBOTS + "%00/run/"),
        *(ROBOTS + "R2/run/?like=%00", ROBOTS + "R2/run/?handler=%00", ROBOTS + "rows/?state=%00"),
    ):
        assert client.get(url, follow=True).status_code in (200, 204, 400, 403, 404), url
