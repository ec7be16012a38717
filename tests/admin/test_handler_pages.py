"""The admin's pages about handlers: what can be run, with what, and how it has gone."""

import datetime as dt
import json
from enum import Enum
from unittest.mock import patch

import pytest
from django.test import Client
from pydantic import BaseModel, Field
from pymongo.collection import Collection

from fmv.accounts.permissions import Role
from fmv.mongodb.server import server_now
from tasks import registry
from tasks.admin import handlers
from tasks.models import Tally, Task
from tasks.models.error_document import error_document
from tasks.reports import tallies
from tests.support.factories import make_robot, make_task, make_user
from tests.support.pipelines import pipeline, stages

pytestmark = pytest.mark.django_db

LIST, PAGE = "/admin/handlers/", "/admin/handlers/wait/"
MINUTE = dt.timedelta(minutes=1)


def visitor(role=Role.VIEWER) -> Client:
    client = Client()
    client.force_login(make_user(role, password=None))
    return client


def page(url: str, role=Role.VIEWER) -> str:
    answer = visitor(role).get(url)
    assert answer.status_code == 200
    return " ".join(answer.content.decode().split())


def ended(status, ago=dt.timedelta(), handler="wait", took=2.0, **fields) -> Task:
    at = server_now() - ago
    fields = {"robot": "R2", "attempt": 1, "started_at": at - dt.timedelta(seconds=took), "finished_at": at} | fields
    return make_task(status=status, handler=handler, **fields)


# --- Who sees it, and where it leads ---------------------------------------------------------------------------------


@pytest.mark.parametrize("url", [LIST, PAGE])
def test_who_may_look(url):
    for role in (Role.VIEWER, Role.OPERATOR, Role.MANAGER):
        assert visitor(role).get(url).status_code == 200
    for client in (Client(), visitor(Role.NONE)):
        assert client.get(url).headers["Location"].startswith("/admin/login/")
    client = visitor()
    with patch.dict("fmv.accounts.permissions.PERMISSIONS", {Role.VIEWER: frozenset()}):
        assert client.get(url).status_code == 403


def test_every_handler_is_listed_and_has_a_page():
    listed, client = page(LIST), visitor()
    for handler in registry.all_handlers():
        url = f"{LIST}{handler.name}/"
        assert f'href="{url}"' in listed
        assert client.get(url).status_code == 200


def test_it_is_in_the_navigation():
    assert f'<a href="{LIST}" aria-current="page">' in page(PAGE)


def test_an_unknown_handler_is_not_found():
    for name in ("nobody", "%00", "a%2Fb"):
        assert visitor().get(f"{LIST}{name}/").status_code == 404


def test_who_may_run_tasks_chooses_a_robot():
    make_robot(name="Crow T. Robot"), make_robot(name="off", enabled=False)
    shown = page(PAGE, Role.OPERATOR)
    assert '<option value="Crow T. Robot">' in shown
    assert 'value="off"' not in shown
    answer = visitor(Role.OPERATOR).get(PAGE, {"robot": " Crow T. Robot "})
    assert answer.status_code == 302
    assert answer.headers["Location"] == "/admin/robots/robot/Crow%20T.%20Robot/run/?handler=wait"
    assert visitor(Role.OPERATOR).get(answer.headers["Location"]).status_code == 200


def test_a_viewer_is_offered_nothing_to_run():
    make_robot(name="R2")
    assert "Run on robot" not in page(PAGE)
    answer = visitor().get(PAGE, {"robot": "R2"}, follow=True)
    assert answer.status_code == 403


@pytest.mark.parametrize("robot", ["nobody", "\0", "x" * 200, "a/b"])
def test_a_robot_that_is_not_there_is_told(robot):
    answer = visitor(Role.OPERATOR).get(PAGE, {"robot": robot}, follow=True)
    assert answer.status_code == 200
    assert "There is no robot" in answer.content.decode()


# --- What it takes ---------------------------------------------------------------------------------------------------


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int


class Everything(BaseModel):
    whole: int = Field(ge=1, le=9, description="How many")
    share: float = 0.5
    text: str | None = None
    at: dt.datetime | None = None
    yes: bool = True
    colour: Colour = Colour.RED
    names: list[str] = []
    points: list[Point] = []
    either: int | str = 1
    anything: object = None


def test_each_parameter_has_a_row_with_what_it_can_be():
    rows = {row["name"]: row for row in handlers.rows(Everything.model_json_schema())}
    assert {name: row["type"] for name, row in rows.items()} == {
        "whole": "integer",
        "share": "number",
        "text": "text or none",
        "at": "date-time or none",
        "yes": "yes or no",
        "colour": "one of red, blue",
        "names": "list of text",
        "points": "list of Point",
        "either": "integer or text",
        "anything": "any JSON",
    }
    assert (rows["whole"]["required"], rows["whole"]["has_default"]) == (True, False)
    assert (rows["share"]["required"], rows["share"]["default"]) == (False, 0.5)
    assert rows["whole"]["help"] == "How many. From 1 to 9."


def test_no_parameters_are_no_rows():
    assert handlers.rows({"type": "object", "properties": {}}) == handlers.rows({}) == []


def test_the_page_holds_parameters_schema_timeout_and_retries():
    shown = page(PAGE)
    for part in ("<code>seconds</code>", "required", "How many seconds the task takes", "Do nothing for some seconds"):
        assert part in shown
    handler = registry.get("wait")
    assert json.dumps(handler.schema["properties"]["steps"]["maximum"]) in shown
    assert f"<dd>{handler.retry.max_attempts}, the second after 2 s" in shown


# --- How it has gone -------------------------------------------------------------------------------------------------


def records() -> dict[str, handlers.Record]:
    return {
        title: handlers.record(title, tallies.finished_within(span)[0], "wait")
        for title, span in handlers.SPANS.values()
    }


def test_success_and_duration_by_span():
    ended("SUCCESS", took=1), ended("SUCCESS", 30 * MINUTE, took=3, attempt=2), ended("FAILURE", took=99, attempt=3)
    ended("REVOKED", 5 * MINUTE), ended("SUCCESS", handler="primes", took=50)
    (
        ended("FAILURE", 90 * MINUTE),
        ended("SUCCESS", dt.timedelta(days=2), took=5),
        ended("SUCCESS", dt.timedelta(days=8)),
    )
    tallies.roll_up()
    hour, day, week = records().values()
    assert (hour.succeeded, hour.failed, hour.cancelled) == (2, 1, 1)
    assert (hour.mean, hour.tries) == (pytest.approx(2), pytest.approx(2))
    assert hour.rate == pytest.approx(100 * 2 / 3)
    assert (day.judged, day.rate) == (4, 50)
    assert (week.judged, week.mean) == (5, pytest.approx(3))


def test_what_was_purged_still_counts():
    ended("SUCCESS", 5 * MINUTE)
    tallies.roll_up()
    Task.objects.all().delete()
    assert [record.succeeded for record in records().values()] == [1, 1, 1]


def test_what_never_ran_has_no_rate():
    for record in records().values():
        assert (record.rate, record.mean, record.tries, record.state) == (None, None, None, "idle")


@pytest.mark.parametrize(("succeeded", "failed", "state"), [(100, 1, "ok"), (95, 5, "warning"), (1, 1, "error")])
def test_the_rate_has_a_colour(succeeded, failed, state):
    assert handlers.Record("", succeeded, failed, 0, 1.0, 1).state == state


def test_the_last_failures_of_it_lead_to_their_tasks():
    error = error_document("ValueError", "<i>no</i>", "traceback")
    tasks = [ended("FAILURE", number * MINUTE, error=error) for number in range(handlers.MAX_FAILURES + 1)]
    ended("FAILURE", handler="primes", robot="Other", error=error)
    shown = page(PAGE)
    for task in tasks[:-1]:
        assert f'href="/admin/tasks/task/{task.pk}/change/"' in shown
    assert f"{tasks[-1].pk}" not in shown
    assert "Other" not in shown
    assert "<b>ValueError</b>: &lt;i&gt;no&lt;/i&gt;" in shown
    client = visitor()
    for query in ("?handler=wait", "?handler=wait&amp;show=failed"):
        assert f"/admin/tasks/task/{query}" in shown
        assert client.get(f"/admin/tasks/task/{query.replace('&amp;', '&')}").status_code == 200


# --- What it costs ---------------------------------------------------------------------------------------------------


def test_its_failures_are_found_by_their_index():
    failures = Task.objects.failed().filter(handler="wait")[:5]
    assert stages(failures) == ["$match", "$sort", "$limit"]
    match, sort, _ = pipeline(failures)
    assert {"status", "handler"} <= set(str(match).replace("'", " ").split())
    assert sort == {"$sort": {"finished_at": -1}}
    (index,) = [index for index in Task._meta.indexes if index.name == "task_failed"]
    assert index.fields == ["-finished_at", "handler"]


@pytest.mark.parametrize(("url", "cost"), [(LIST, 3), (PAGE, 6)])
def test_pages_cost_the_same_with_many_tasks_as_with_few(url, cost):
    client, spent = visitor(), []
    aggregate = Collection.aggregate

    def counting(collection, *args, **options):
        spent[-1] += collection.name in ("tasks_task", "tasks_tally")
        return aggregate(collection, *args, **options)

    for times in (1, 20):
        for _ in range(times):
            ended("SUCCESS", 5 * MINUTE), ended("FAILURE", error=error_document("E", "m")), make_task(robot="R2")
        tallies.roll_up()
        assert Tally.objects.exists()
        spent.append(0)
        with patch.object(Collection, "aggregate", counting):
            assert client.get(url).status_code == 200
    assert spent == [cost, cost]
