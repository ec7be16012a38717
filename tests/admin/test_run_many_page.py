"""A task on many robots in the admin: which are chosen, one form for all, one bulk run however often it is sent."""

import re

import pytest

from robots.models import Robot
from tasks.models import Bulk, Task
from tests.support.factories import make_robot, make_task
from tests.support.pages import admin, messages, text

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

URL, LIST = "/admin/robots/robot/run/", "/admin/robots/robot/"
FORM = {"handler": "wait", "params.seconds": "1", "params.steps": "", "send": "yes"}


@pytest.fixture
def client():
    return admin("operator", username="leela")


@pytest.fixture
def fleet():
    for number in range(4):
        make_robot(name=f"R{number}", labels=["night"] if number < 3 else [], location="Hall <1>")


def robots():
    return sorted(Task.objects.values_list("robot", flat=True))


def test_the_list_offers_it_to_operators_only(client, fleet):
    page = text(client.get(f"{LIST}?label=night"))
    assert page.count('name="id"') == 3
    assert '<input type="hidden" name="label" value="night">' in page
    assert "Run a task on all that match…" in page
    for words in ('name="id"', "Run a task on"):
        assert words not in text(admin("viewer").get(LIST))
    assert admin("viewer").post(URL, {"id": ["R0"]}).status_code == 403
    assert 'name="id"' in text(client.get(f"{LIST}rows/"))


def test_chosen_robots_get_one_form_and_each_a_task(client, fleet):
    page = text(client.post(URL, {"id": ["R2", "R0", "nosuch"]}))
    assert "Run a task on 2 robots" in page
    assert [*re.findall('<input type="hidden" name="id" value="([^"]*)">', page)][:3] == ["R2", "R0", "nosuch"]
    page = text(client.post(URL, {"id": ["R2", "R0"], "handler": "wait"}))
    assert 'name="params.seconds"' in page
    assert "No task was submitted" not in page
    once = re.findall('name="once" value="([^"]*)"', page)[0]
    form = FORM | {"id": ["R2", "R0"], "once": once, "priority": "9", "labels": "dust"}
    answer = client.post(URL, form)
    run = Bulk.objects.get()
    assert answer.headers["Location"] == f"/admin/tasks/bulk/{run.pk}/change/"
    assert robots() == ["R0", "R2"]
    assert set(Task.objects.values_list("priority", "requested_by")) == {(9, "leela")}
    again = client.post(URL, form, follow=True)
    assert "sent before" in messages(again)[0]
    assert robots() == ["R0", "R2"]
    assert Bulk.objects.count() == 1


def test_the_run_s_page_leads_to_its_tasks_and_says_who_was_left_out(client, fleet):
    Robot.objects.filter(pk="R1").update(enabled=False)
    make_task(robot="R0", handler="wait")
    page = text(client.post(URL, FORM | {"id": ["R0", "R1"]}, follow=True))
    assert "run tasks: handler wait, on 2 robots" in page
    made = Task.objects.get(requested_by="leela")
    assert re.findall('<tr data-key="([0-9a-f-]{36})">', page) == [str(made.pk)]
    assert "/admin/tasks/task/?handler=wait&amp;requested_by=leela" in page
    assert "Why robots were left out" in page
    assert "The robot is out of service" in page


def test_all_that_match_the_filter_when_it_is_sent(client, fleet):
    choice = {"scope": "all", "label": "night", "q": "hall <1>"}
    page = text(client.post(URL, choice))
    assert "Run a task on 3 robots" in page
    for name, value in choice.items():
        assert f'name="{name}" value="{value.replace("<", "&lt;").replace(">", "&gt;")}"' in page
    Robot.objects.filter(pk="R1").update(labels=[])
    client.post(URL, FORM | choice)
    assert robots() == ["R0", "R2"]


def test_all_without_a_filter_are_all(client, fleet):
    client.post(URL, FORM | {"scope": "all"})
    assert robots() == ["R0", "R1", "R2", "R3"]


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"id": ["nosuch"]},
        {"id": ["R\0"]},
        {"scope": "all", "label": "day"},
        {"scope": "all", "state": "buzy"},
        {"scope": "all", "q": "R" * 5000},
    ],
)
def test_without_a_robot_nothing_is_run(client, fleet, choice):
    answer = client.post(URL, FORM | choice, follow=True)
    assert "Nothing was run" in messages(answer)[0]
    assert not Task.objects.exists()


def test_what_is_wrong_is_said_beside_its_field_and_nothing_is_run(client, fleet):
    answer = client.post(URL, FORM | {"id": ["R0"], "params.seconds": "-1", "priority": "10", "once": "7"})
    page = text(answer)
    assert "No task was submitted. Correct the fields marked below." in page
    assert list(answer.context["form"].errors) == ["priority"]
    answer = client.post(URL, FORM | {"id": ["R0"], "params.seconds": "-1", "once": "7"})
    assert list(answer.context["form"].errors) == ["params.seconds"]
    assert 'value="-1"' in text(answer)
    assert not Bulk.objects.exists()
    assert client.post(URL, FORM | {"id": ["R0"], "once": "7"}).status_code == 302
    assert robots() == ["R0"]


def test_robots_out_of_service_are_counted_and_run_it_only_if_that_is_chosen(client, fleet):
    Robot.objects.filter(pk__in=["R0", "R1"]).update(enabled=False)
    page = " ".join(text(client.post(URL, {"id": ["R0", "R1", "R2"]})).split())
    assert "2 of them are out of service" in page
    assert "queue_anyway" in page
    client.post(URL, FORM | {"id": ["R0", "R1", "R2"], "queue_anyway": "on"})
    assert robots() == ["R0", "R1", "R2"]
    assert "queue_anyway" not in text(client.post(URL, {"id": ["R2"]}))


def test_an_unknown_handler_and_a_page_that_is_only_looked_at(client, fleet):
    assert messages(client.post(URL, {"id": ["R0"], "handler": "nosuch"}, follow=True)) == [
        "There is no handler nosuch."
    ]
    assert client.get(URL).headers["Location"] == LIST


def test_names_are_shown_as_text(client):
    make_robot(name="<b>R2 搬送")
    page = text(client.post(URL, {"id": ["<b>R2 搬送"]}))
    assert "&lt;b&gt;R2 搬送" in page
    assert "<b>R2" not in page
    client.post(URL, FORM | {"id": ["<b>R2 搬送"]})
    assert robots() == ["<b>R2 搬送"]
