"""In which zone a page shows times: the user's choice, the browser's or the server's; and the page that changes it."""

import datetime as dt
import re

import pytest
from django.conf import settings
from django.utils import timezone
from pydantic import ValidationError

from fmv.accounts.models import User
from fmv.audit.models import AuditEntry
from fmv.environment import Environment
from fmv.mongodb.counting import collection
from fmv.templatetags.display import ago, timestamp, with_times
from tests.support.factories import make_task, make_token, make_user
from tests.support.pages import admin, messages, text
from tests.support.probes import listening

pytestmark = pytest.mark.django_db

URL = "/admin/settings/"
NOON = dt.datetime(2026, 7, 1, 12, tzinfo=dt.UTC)
SHOWN = '<time datetime="2026-07-01T12:00:00.000+00:00" title="2026-07-01 12:00:00.000 UTC">2026-07-01 {}:00:00</time>'


def started(client) -> str:
    """Return the page of a task that started at noon."""
    task = make_task(status="SUCCESS", started_at=NOON, finished_at=NOON, attempt=1)
    return text(client.get(f"/admin/tasks/task/{task.pk}/change/"))


def zone_of(client) -> str:
    return text(client.get(URL)).partition("Times are in ")[2].partition("</a>")[0].rpartition(">")[2]


def test_times_are_in_utc_unless_something_says_another_zone():
    client = admin("viewer")
    assert SHOWN.format(12) in started(client)
    assert zone_of(client) == "UTC"


def test_the_browser_s_zone_comes_before_the_server_s_and_the_user_s_before_both(monkeypatch):
    server = settings.ENVIRONMENT.model_copy(update={"time_zone": "Asia/Tokyo"})
    monkeypatch.setattr(settings, "ENVIRONMENT", server)
    user = make_user(password=None)
    client = admin("viewer")
    client.force_login(user)
    assert SHOWN.format(21) in started(client)
    client.cookies["fmv_zone"] = "Europe/Berlin"
    assert SHOWN.format(14) in started(client)
    client.post(URL, {"time_zone": "america/new_york"})
    assert SHOWN.format("08") in started(client)
    assert zone_of(client) == "America/New_York"


@pytest.mark.parametrize("cookie", ["Europe/Berln", "../../etc/passwd", "x" * 5000, "localtime", "Europe", "<b>", ""])
def test_a_browser_with_a_zone_that_does_not_exist_sees_the_server_s(cookie):
    client = admin("viewer")
    client.cookies["fmv_zone"] = cookie
    assert zone_of(client) == "UTC"


def test_a_choice_is_stored_with_an_audit_entry_and_can_be_taken_back():
    client = admin("viewer", username="leela")
    answer = client.post(URL, {"time_zone": " Europe/Berlin "}, follow=True)
    assert messages(answer) == ["Times are shown in Europe/Berlin."]
    assert User.objects.get(username="leela").time_zone == "Europe/Berlin"
    client.post(URL, {"time_zone": "Europe/Berlin"})
    client.post(URL, {"time_zone": ""})
    assert User.objects.get(username="leela").time_zone is None
    entries = AuditEntry.objects.filter(kind="user", key="leela", by="leela").order_by("id")
    assert [(entry.action, entry.text) for entry in entries] == [
        ("user.change", "time_zone: none → Europe/Berlin"),
        ("user.change", "time_zone: Europe/Berlin → none"),
    ]


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("Berlin", "Did you mean Europe/Berlin?"),
        ("new york", "Did you mean America/New_York?"),
        ("Europe/Berln", "Did you mean Europe/Berlin?"),
        ("nowhere at all", "There is no time zone &#x27;nowhere at all&#x27;."),
        ("x" * 65, "at most 64 characters"),
        ("Europe/Ber\0lin", "Null characters are not allowed"),
        ("<script>", "&lt;script&gt;"),
    ],
)
def test_a_zone_that_does_not_exist_changes_nothing_and_the_nearest_are_named(typed, says):
    client = admin("viewer", username="fry", time_zone="Asia/Tokyo")
    assert says in text(client.post(URL, {"time_zone": typed}))
    assert User.objects.get(username="fry").time_zone == "Asia/Tokyo"
    assert not AuditEntry.objects.exists()


def test_everybody_who_may_sign_in_has_the_page_and_nobody_else():
    for role in ("viewer", "operator", "manager"):
        assert 'href="/admin/settings/"' in text(admin(role).get("/admin/"))
        assert admin(role).get(URL).status_code == 200
    assert admin("").get(URL).status_code == 302


def test_a_user_stored_before_there_were_zones_follows_the_browser():
    user = make_user(password=None)
    collection(User).update_one({"username": user.username}, {"$unset": {"time_zone": ""}})
    client = admin("viewer")
    client.force_login(user)
    assert zone_of(client) == "UTC"
    superuser = admin("manager", is_superuser=True)
    page = superuser.get(f"/admin/fmv/user/{user.pk}/change/")
    fields = {name: value for name, value in page.context["adminform"].form.initial.items() if value is not None}
    assert superuser.post(f"/admin/fmv/user/{user.pk}/change/", fields | {"name": "Amy"}).status_code == 302
    assert User.objects.get(pk=user.pk).name == "Amy"


def test_the_zone_costs_no_query():
    task = make_task(status="SUCCESS")
    counts = []
    for zone in (None, "Europe/Berlin"):
        client = admin("viewer", time_zone=zone)
        client.get(f"/admin/tasks/task/{task.pk}/state/")
        with listening() as commands:
            client.get(f"/admin/tasks/task/{task.pk}/state/")
        counts.append(len(commands.sent))
    assert counts[0] == counts[1]


def test_the_api_stays_in_utc():
    client = admin("viewer", time_zone="Asia/Tokyo")
    task = make_task(status="SUCCESS", started_at=NOON, finished_at=NOON)
    assert client.get(f"/api/v1/task/{task.pk}").json()["started_at"] == "2026-07-01T12:00:00.000Z"


def test_lists_of_every_kind_show_the_zone_with_utc_in_the_title():
    make_token(make_user(last_login=NOON, password=None))
    client = admin("manager", is_superuser=True, time_zone="Asia/Tokyo")
    assert SHOWN.format(21) in text(client.get("/admin/fmv/user/"))
    for address in ("/admin/fmv/apitoken/", "/admin/fmv/auditentry/"):
        [row, *_] = re.findall('<time datetime="([^"]*)" title="([^"]*) UTC">([^<]*)</time>', text(client.get(address)))
        utc, there = (dt.datetime.fromisoformat(each) for each in (row[1], row[2]))
        assert (there - utc).total_seconds() == pytest.approx(9 * 3600, abs=1), address


# --- Texts -----------------------------------------------------------------------------------------------------------


def test_stored_texts_keep_utc_and_pages_show_the_times_in_them_in_the_zone():
    note = "by <fry>, for 2026-07-01 12:00:00 UTC, not 2026-99-01 12:00:00 UTC"
    with timezone.override("Europe/Berlin"):
        assert with_times(note) == f"by &lt;fry&gt;, for {SHOWN.format(14)}, not 2026-99-01 12:00:00 UTC"


def test_a_time_that_comes_twice_is_shown_with_its_offset():
    with timezone.override("Europe/Berlin"):
        first, second = (timestamp(dt.datetime(2026, 10, 25, hour, 30, tzinfo=dt.UTC)) for hour in (0, 1))
        assert ">2026-10-25 02:30:00+02:00<" in first
        assert ">2026-10-25 02:30:00+01:00<" in second
        assert 'title="2026-07-01 14:00:00, 2026-07-01 12:00:00 UTC"' in ago(NOON)
    assert 'title="2026-07-01 12:00:00 UTC"' in ago(NOON)


# --- The server's zone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["UTC", "Europe/Berlin", "Asia/Kolkata", "Etc/GMT+5"])
def test_the_server_s_zone_is_read_from_the_environment(monkeypatch, name):
    monkeypatch.setenv("FMV_TIME_ZONE", name)
    assert Environment().time_zone == name


@pytest.mark.parametrize(
    "name", ["", "Europe", "Europe/Berln", "../etc/passwd", "/etc/localtime", "CET+1", "a\tb", "localtime"]
)
def test_a_wrong_one_stops_the_start(monkeypatch, name):
    monkeypatch.setenv("FMV_TIME_ZONE", name)
    with pytest.raises(ValidationError, match="must be a time zone such as Europe/Berlin"):
        Environment()
