"""The admin, by role: robots can be changed, tasks are for reading, whatever form is made by hand."""

import pytest
from django.contrib.admin.utils import quote
from django.test import Client

from fmv.models import Role
from robots.models import Robot
from tasks.models import UNFINISHED, LogLine, Task, error_document
from tests.api import stored
from tests.factories import PASSWORD, make_robot, make_task, make_user

pytestmark = pytest.mark.django_db

ROBOTS, TASKS, USERS = "/admin/robots/robot/", "/admin/tasks/task/", "/admin/fmv/user/"
FORM = {"name": "R2", "location": "Tatooine", "description": "beep", "enabled": "on", "lanes": "1", "labels": ""}


@pytest.fixture(autouse=True)
def plain_static_files(settings):
    """As in development: nobody has run collectstatic."""
    settings.STORAGES = {"staticfiles": {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}}


def admin(role=Role.MANAGER, **fields):
    client = Client(raise_request_exception=False)
    client.force_login(make_user(role, password=None, **fields))
    return client


def robot_url(name, page="change"):
    from django.urls import reverse

    return reverse(f"admin:robots_robot_{page}", args=[quote(name)])


def text(answer):
    assert answer.status_code == 200, answer.status_code
    return answer.content.decode()


def test_a_stranger_signs_in_first(client):
    for url in ("/admin/", ROBOTS, TASKS, USERS):
        answer = client.get(url)
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith("/admin/login/")


def test_somebody_without_a_role_is_not_let_in(client):
    make_user(Role.NONE, username="nobody")
    answer = client.post("/admin/login/", {"username": "nobody", "password": PASSWORD})
    assert "enter the correct username" in text(answer)
    assert admin(Role.NONE).get(ROBOTS).status_code == 302


def test_signing_in_takes_the_right_password(client):
    make_user(Role.VIEWER, username="Leela")
    for password in ("wrong", "", "\0"):
        assert client.post("/admin/login/", {"username": "Leela", "password": password}).status_code == 200
    for username in ("leela", ".*", "\0"):
        assert client.post("/admin/login/", {"username": username, "password": PASSWORD}).status_code == 200, username
    assert client.post("/admin/login/", {"username": "Leela", "password": PASSWORD}).status_code == 302


def test_a_manager_adds_a_robot():
    answer = admin().post(ROBOTS + "add/", FORM | {"labels": "red,blue", "lanes": "3", "endpoint": ""})
    assert answer.status_code == 302, text(answer)
    robot = Robot.objects.get()
    assert (robot.name, robot.labels, robot.lanes, robot.endpoint) == ("R2", ["red", "blue"], 3, None)


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


def test_a_manager_changes_a_robot():
    make_robot(name="Crow T. Robot", labels=["a"])
    client, url = admin(), robot_url("Crow T. Robot")
    assert "Crow T. Robot" in text(client.get(url))
    assert client.post(url, FORM | {"enabled": "", "initial-labels": "a"}).status_code == 302
    robot = Robot.objects.get()
    assert (robot.name, robot.location, robot.enabled, robot.labels) == ("Crow T. Robot", "Tatooine", False, [])


def test_a_name_cannot_be_edited():
    make_robot(name="R2")
    client, url = admin(), robot_url("R2")
    assert 'name="name"' not in text(client.get(url))
    assert client.post(url, FORM | {"name": "R3"}).status_code == 302
    assert list(Robot.objects.values_list("name", flat=True)) == ["R2"]


def test_odd_names_have_pages_too():
    client = admin()
    for name in ("$where", "a_5Fb", "100%", "Röbi 🤖", '<b>"&', "a?b#c"):
        make_robot(name=name)
        assert client.get(robot_url(name)).status_code == 200, name
    assert "<b>&quot;" not in text(client.get(ROBOTS))


def test_a_manager_deletes_a_robot_with_its_finished_tasks():
    make_robot(name="R2")
    task = make_task(robot="R2", status="SUCCESS")
    LogLine.objects.create(task=task.pk, attempt=1, text="done")
    client, url = admin(), robot_url("R2", "delete")
    assert "Are you sure" in text(client.get(url))
    assert client.post(url, {"post": "yes"}).status_code == 302
    assert not Robot.objects.exists()
    assert not Task.objects.exists()
    assert not LogLine.objects.exists()


@pytest.mark.parametrize("status", UNFINISHED)
def test_deleting_one_with_unfinished_tasks_is_refused_with_a_message(status):
    make_robot(name="R2")
    make_task(robot="R2", status=status)
    answer = admin().post(robot_url("R2", "delete"), {"post": "yes"}, follow=True)
    assert "has unfinished tasks" in text(answer)
    assert "was deleted successfully" not in text(answer)
    assert Robot.objects.exists()


def test_robots_are_not_deleted_from_the_list():
    robot = make_robot()
    admin().post(ROBOTS, {"action": "delete_selected", "_selected_action": [robot.pk], "post": "yes"})
    assert Robot.objects.exists()


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_who_is_no_manager_reads_robots_and_changes_none(role):
    make_robot(name="R2", location="Naboo")
    client, before = admin(role), stored()
    assert "R2" in text(client.get(ROBOTS))
    assert "Naboo" in text(client.get(robot_url("R2")))
    assert client.get(ROBOTS + "add/").status_code == 403
    for url in (ROBOTS + "add/", robot_url("R2", "delete")):
        assert client.post(url, FORM | {"name": "R3", "post": "yes"}).status_code == 403, url
    client.post(robot_url("R2"), FORM)
    client.post(ROBOTS, {"action": "delete_selected", "_selected_action": ["R2"], "post": "yes"})
    assert stored() == before


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MANAGER, "superuser"])
def test_tasks_are_for_reading_even_by_hand_made_forms(role):
    client = admin(Role.NONE, is_superuser=True) if role == "superuser" else admin(role)
    task = make_task(robot=make_robot(name="R2"), params={"seconds": "<script>"}, error=error_document("E", "<b>"))
    page = f"{TASKS}{task.pk}/change/"
    shown = text(client.get(page))
    assert "<script>" not in shown.partition("shown_params")[2][:500]
    assert 'name="_save"' not in shown
    before = stored()
    for url in (page, TASKS + "add/", f"{TASKS}{task.pk}/delete/"):
        answer = client.post(url, {"status": "SUCCESS", "robot": "R3", "handler": "wait", "post": "yes"})
        assert answer.status_code == 403, url
    client.post(TASKS, {"action": "delete_selected", "_selected_action": [str(task.pk)], "post": "yes"})
    client.post(
        TASKS, {"form-TOTAL_FORMS": "1", "form-0-id": str(task.pk), "form-0-status": "SUCCESS", "_save": "Save"}
    )
    assert stored() == before


def test_a_finished_task_shows_what_became_of_it():
    task = make_task(status="FAILURE", error={"type": "ValueError", "message": "no", "traceback": "Trace <x>"})
    LogLine.objects.create(task=task.pk, attempt=1, text="a line <i>")
    shown = text(admin(Role.VIEWER).get(f"{TASKS}{task.pk}/change/"))
    for part in ("FAILURE", "ValueError", "Trace &lt;x&gt;", "a line &lt;i&gt;", "&quot;seconds&quot;: 0"):
        assert part in shown


def test_lists_can_be_narrowed_and_searched():
    make_task(robot="Crow T. Robot", status="QUEUED")
    make_task(robot="Wall-E", status="SUCCESS")
    client = admin(Role.VIEWER)
    for query, (there, gone) in {
        "status=QUEUED": ("Crow T. Robot", "Wall-E"),
        "q=Wall-E": ("Wall-E", "Crow T. Robot"),
        "q=%22Crow+T.+Robot%22": ("Crow T. Robot", "Wall-E"),
    }.items():
        shown = text(client.get(f"{TASKS}?{query}"))
        assert there in shown, query
        assert gone not in shown, query


def test_odd_addresses_never_harm():
    make_robot(name="R2", location="a.*b")
    client = admin()
    for url in (
        *(ROBOTS + "?q=%00", ROBOTS + "?q=.*", ROBOTS + "?q=[", ROBOTS + "?o=99", ROBOTS + "?p=99999", ROBOTS + "?p=x"),
        *(ROBOTS + "?enabled__exact=x", ROBOTS + "?location__regex=(", ROBOTS + "?e=1", ROBOTS + "?is_great=$ne"),
        *(TASKS + "?status=BOGUS", TASKS + "?q=%00", TASKS + "?id=x", TASKS + "?o=-1", TASKS + "?robot__exact[$ne]=1"),
        *(
            TASKS + "x/change/",
            TASKS + "%00/change/",
            robot_url("nobody"),
            ROBOTS + "%00/change/",
            ROBOTS + "%FF/change/",
        ),
        *(TASKS + "00000000-0000-0000-0000-000000000000/change/", TASKS + "x/history/", ROBOTS + "R2/history/"),
    ):
        answer = client.get(url, follow=True)
        assert answer.status_code in (200, 400, 403, 404), url


def test_users_are_the_superusers_business():
    user = make_user(Role.VIEWER, password=None)
    for role in (Role.VIEWER, Role.MANAGER):
        client = admin(role)
        assert client.get(USERS).status_code == 403
        assert client.post(f"{USERS}{user.pk}/change/", {"role": "manager", "is_superuser": "on"}).status_code == 403
    client = admin(Role.NONE, is_superuser=True)
    assert user.username in text(client.get(USERS))
    form = {"username": "Fry", "usable_password": "true", "role": "operator"}
    form |= {"password1": PASSWORD, "password2": PASSWORD}
    assert client.post(USERS + "add/", form).status_code == 302
    assert type(user).objects.get(username="Fry").role == Role.OPERATOR
    assert client.post(f"{USERS}{user.pk}/delete/", {"post": "yes"}).status_code == 403


def test_nothing_changes_without_a_csrf_token():
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user(Role.MANAGER, password=None))
    assert client.post(ROBOTS + "add/", FORM).status_code == 403
    assert not Robot.objects.exists()
