"""The audit list in the admin: for reading, and for finding."""

import pytest
from django.db import connection
from django.test import Client, RequestFactory
from django.test.utils import CaptureQueriesContext

from fmv import audit
from fmv.accounts.permissions import Role
from fmv.audit.admin import AuditEntryAdmin
from fmv.audit.models import AuditEntry
from fmv.http import request_id
from tests.support.browser import SIZES, assert_fine
from tests.support.factories import make_robot, make_user
from tests.support.pipelines import pipeline

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/fmv/auditentry/"


def staff(role=Role.VIEWER, **fields):
    client = Client()
    client.force_login(make_user(role, password=None, **fields))
    return client


def text(answer):
    assert answer.status_code == 200, answer.status_code
    return answer.content.decode()


@pytest.fixture
def entries():
    for number, (action, by, kind, key) in enumerate(
        [
            ("robot.create", "amy", "robot", "R2"),
            ("robot.disable", "bob", "robot", "Crow T. Robot"),
            ("task.cancel", "amy", "task", "0191a3c5-7d2e-7c1a-9e60-3f4f8a1b2c3d"),
            ("token.revoke", "command", "token", "01c2b5d1c1fa"),
        ]
    ):
        token = request_id.current.set(f"request {number}")
        audit.record(action, by=by, kind=kind, key=key, text=f"text {number} <b>")
        request_id.current.reset(token)


def rows(client, query=""):
    """Which entries the list shows, in order."""
    shown = text(client.get(f"{LIST}?{query}")).partition("result_list")[2]
    return sorted((n for n in range(4) if f"text {n} &lt;b&gt;" in shown), key=lambda n: shown.index(f"text {n} "))


def test_the_latest_come_first_with_all_that_is_known(entries):
    client = staff()
    assert rows(client) == [3, 2, 1, 0]
    shown = text(client.get(LIST))
    for part in ("robot.disable", "bob", "Crow T. Robot", "request 1", "/admin/robots/robot/Crow%20T.%20Robot/change/"):
        assert part in shown, part
    assert "/admin/tasks/task/0191a3c5-7d2e-7c1a-9e60-3f4f8a1b2c3d/change/" in shown.replace("_2D", "-")
    assert "<b>" not in shown.partition("result_list")[2].partition("</table>")[0]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("by=amy", [2, 0]),
        ("by=command", [3]),
        ("by=nobody", []),
        ("action=robot.disable", [1]),
        ("kind=robot", [1, 0]),
        ("kind=robot&by=bob", [1]),
        ("q=Crow+T.+Robot", [1]),
        ("q=Crow", []),
        ("q=.*", []),
        ("q=request+2", [2]),
        ("q=+", [3, 2, 1, 0]),
    ],
)
def test_it_is_narrowed_and_searched(entries, query, found):
    assert rows(staff(), query) == found


def test_the_filters_offer_what_there_is(entries):
    shown = text(staff(username="zoidberg").get(LIST + "?by=amy"))
    for part in ("?action=robot.disable", "?by=zoidberg", "?by=command", "kind=token"):
        assert part.removeprefix("?") in shown, part


@pytest.mark.parametrize("role", [Role.VIEWER, Role.MANAGER, "superuser"])
def test_nobody_changes_it_even_by_hand(entries, role):
    client = staff(Role.NONE, is_superuser=True) if role == "superuser" else staff(role)
    entry, before = AuditEntry.objects.first(), list(AuditEntry.objects.values())
    page = f"{LIST}{entry.pk}/change/"
    assert "text 3" in text(client.get(page))
    assert client.post(page, {"by": "nobody"}).status_code == 403
    assert client.post(LIST + "add/", {"by": "amy", "action": "x"}).status_code == 403
    assert client.post(f"{LIST}{entry.pk}/delete/", {"post": "yes"}).status_code == 403
    client.post(LIST, {"action": "delete_selected", "_selected_action": [str(entry.pk)], "post": "yes"})
    assert list(AuditEntry.objects.values()) == before


def test_only_who_may_look_sees_it(client, entries):
    assert client.get(LIST).status_code == 302
    assert staff(Role.NONE).get(LIST).status_code == 302


@pytest.mark.parametrize("query", ["kinds=robot", "kind=robot&kind=task", "q=R2&q=x", "e=1", "zzz"])
def test_a_wrong_filter_shows_no_entry(entries, query):
    answer = staff().get(f"{LIST}?{query}", follow=True)
    assert answer.status_code == 200
    assert 'role="alert"' in answer.content.decode()
    assert "result_list" not in answer.content.decode()


def test_odd_addresses_never_harm(entries):
    client = staff()
    for query in ("q=%00", "o=1", "o=-9", "p=99999", "p=x", "by__regex=(", "by[$ne]=x", "e=1", "action=%24ne", "id=x"):
        assert client.get(f"{LIST}?{query}", follow=True).status_code in (200, 400), query
    for page in ("x/change/", "%00/change/", "x/history/"):
        assert client.get(LIST + page, follow=True).status_code in (200, 404), page


def test_the_list_takes_as_many_queries_for_many_entries_as_for_one():
    client = staff()

    def queries():
        audit.record("robot.paint", by="amy", kind="robot", key="R2")
        with CaptureQueriesContext(connection) as captured:
            assert client.get(LIST).status_code == 200
        return len(captured)

    assert len({queries() for _ in range(3)}) == 1


@pytest.mark.parametrize(
    ("query", "match"),
    [
        ("", None),
        ("by=amy", {"by": "amy"}),
        ("action=robot.paint", {"action": "robot.paint"}),
        ("kind=robot", {"kind": "robot"}),
        ("q=R2", {"$or": [{"key": "R2"}, {"request_id": "R2"}]}),
    ],
)
def test_each_question_is_a_range_of_an_index_in_its_order(query, match):
    from django.contrib import admin

    audit.record("robot.paint", by="amy", kind="robot", key="R2")  # the filters offer what there is
    request = RequestFactory().get(f"{LIST}?{query}")
    request.user = make_user(Role.VIEWER, password=None)
    listed = AuditEntryAdmin(AuditEntry, admin.site).get_changelist_instance(request).get_queryset(request)
    stages = pipeline(listed[:50])
    assert stages[:-2] == ([{"$match": match}] if match else [])
    assert list(stages[-2]["$sort"].items()) == [("_id", -1)]
    assert stages[-1] == {"$limit": 50}


@pytest.mark.browser
def test_entries_about_robots_with_much_to_tell_are_accessible(site, visit):
    make_robot(name="R2")
    audit.record("robot.change", by="leela", kind="robot", key="R2", text="description: " + "long " * 60 + "x" * 120)
    for size in SIZES:
        page = visit("viewer", size=size)
        for address in ("/admin/fmv/auditentry/", "/admin/robots/robot/R2/change/"):
            page.goto(address)
            assert_fine(page)
