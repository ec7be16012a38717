"""Robots from a file in the admin: what is shown before anything is stored, and what is stored then."""

import datetime as dt
import re
from unittest.mock import patch

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile

from fmv.audit.models import AuditEntry
from fmv.mongodb.server import stored_now
from robots import drafts
from robots.models import ImportDraft, Robot
from tasks.queue import periodic
from tests.support.factories import make_robot
from tests.support.pages import admin, messages, text

pytestmark = pytest.mark.django_db

URL, LIST = "/admin/robots/robot/import/", "/admin/robots/robot/"
CSV = "name,location,description,labels\nWall-E,Hall 1,,heavy;night\nR2,Hall 2,beeps,\n"


@pytest.fixture
def client():
    return admin("manager", username="amy")


def send(client, content=CSV, name="fleet.csv"):
    """Upload the file; return the answer."""
    content = content if isinstance(content, bytes) else content.encode()
    return client.post(URL, {"file": SimpleUploadedFile(name, content)})


def draft_of(answer) -> str:
    assert answer.status_code == 302, text(answer)
    return answer.headers["Location"]


def refusal(answer) -> str:
    [said] = re.findall('<p class="errornote" role="alert">Nothing was stored. (.*?)</p>', text(answer))
    return said


def test_a_file_is_shown_first_and_stored_when_it_is_confirmed(client):
    draft = draft_of(send(client))
    page = text(client.get(draft))
    assert not Robot.objects.exists()
    assert page.count(">new</span>") == 2
    assert "Add 2 robots" in page
    answer = client.post(draft, follow=True)
    assert messages(answer) == ["Robots: 2 added."]
    assert answer.redirect_chain[-1][0] == LIST
    found = Robot.objects.get(pk="Wall-E")
    assert (found.location, found.description, found.labels) == ("Hall 1", "", ["heavy", "night"])
    assert {(entry.action, entry.key, entry.by) for entry in AuditEntry.objects.all()} == {
        ("robot.create", "Wall-E", "amy"),
        ("robot.create", "R2", "amy"),
        ("robot.import", "fleet.csv", "amy"),
    }
    assert len(set(AuditEntry.objects.values_list("request_id", flat=True))) == 1


def test_a_draft_is_stored_once(client):
    draft = draft_of(send(client))
    client.post(draft)
    Robot.objects.all().delete()
    answer = client.post(draft, follow=True)
    assert "stored already" in messages(answer)[-1]
    assert not Robot.objects.exists()
    assert not ImportDraft.objects.exists()


def test_faults_are_listed_by_line_and_the_good_robots_can_be_added_without_them(client):
    lines = ["name,location,lanes", "R2,Hall 1,1", "C3,,1", "BB8,Hall 1,many", "R2,Hall 3,1", "R4,Hall 1"]
    draft = draft_of(send(client, "\n".join(lines)))
    page = text(client.get(draft))
    rows = re.findall(
        '<th scope="row" class="fmv-number">([0-9]*)</th><td>([^<]*)</td><td class="fmv-text">([^<]*)<', page
    )
    assert [(line, field) for line, field, _ in rows[:3]] == [("3", "location"), ("4", "lanes"), ("5", "name")]
    assert rows[3][0] == "6"
    assert "line 2 already" in rows[2][2]
    assert "Add 1 robot without the faulty lines" in " ".join(page.split())
    answer = client.post(draft, follow=True)
    assert messages(answer) == ["Robots: 1 added, 4 faulty lines left out."]
    assert list(Robot.objects.values_list("name", "location")) == [("R2", "Hall 1")]


def test_a_file_with_faults_only_cannot_be_stored(client):
    page = text(client.get(draft_of(send(client, "name,location\nR2,\n"))))
    assert "Choose another file" in page
    assert '<button class="fmv-button">Add' not in page


@pytest.mark.parametrize("existing", ["skip", "replace", "", "zzz"])
def test_robots_that_exist_are_shown_with_what_differs_and_changed_only_if_that_is_chosen(client, existing):
    make_robot(name="R2", location="Hall 1", labels=["old"], description="beeps")
    make_robot(name="Wall-E", location="Hall 1", description="", labels=["heavy", "night"])
    draft = draft_of(send(client, CSV + "BB8,Hall 3,,\n"))
    page = text(client.get(draft))
    assert page.count(">differs</span>") == page.count(">as it is</span>") == page.count(">new</span>") == 1
    assert "location: Hall 1 → Hall 2; labels: old → none" in page
    said = messages(client.post(draft, {"existing": existing} if existing else {}, follow=True))
    found = Robot.objects.get(pk="R2")
    if existing == "replace":
        assert said == ["Robots: 1 added, 1 changed, 1 unchanged."]
        assert (found.location, found.labels, found.revision) == ("Hall 2", [], 2)
    else:
        assert said == ["Robots: 1 added, 2 left unchanged although the file differs."]
        assert (found.location, found.labels, found.revision) == ("Hall 1", ["old"], 1)


def test_what_has_changed_since_the_preview_is_checked_again(client):
    draft = draft_of(send(client))
    text(client.get(draft))
    make_robot(name="R2", location="Bar")
    assert messages(client.post(draft, follow=True)) == ["Robots: 1 added, 1 left unchanged although the file differs."]
    assert Robot.objects.get(pk="R2").location == "Bar"


@pytest.mark.parametrize(
    ("content", "name", "says"),
    [
        (b"", "fleet.csv", "The first line must name the columns"),
        (b"name,location\n", "fleet.csv", "The file has no robots."),
        (b"PK\x03\x04zip", "fleet.xlsx", "The file is a workbook."),
        ("name\tlocation\nR2\tHall\n".encode("utf-16"), "fleet.txt", "The file is UTF-16. Save it as UTF-8"),
        ("name,location\nR2,Höhle\n".encode("latin-1"), "fleet.csv", "Line 2 is not UTF-8"),
        (b"name,location\rR2,Hall\r", "fleet.csv", "The lines end with CR only"),
        (b"name,colour\nR2,red\n", "fleet.csv", "No robot has &#x27;colour&#x27;"),
        (
            f"name,{','.join(map(str, range(10_000)))}".encode(),
            "fleet.csv",
            "&#x27;7&#x27; and 9,992 more; the columns",
        ),
        (b"name," + b"x" * 100_000, "fleet.csv", "xxx…&#x27;; the columns"),
        (b"x" * (1024 * 1024 + 1), "fleet.csv", "The file is larger than 1 MiB."),
        (b"name,location\n" + b"R,H\n" * 1001, "fleet.csv", "The file has more than 1,000 robots."),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(client, content, name, says):
    assert says in refusal(send(client, content, name))
    assert not ImportDraft.objects.exists()


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("\N{BOM}name,location\r\nR2,Hall\r\n".encode(), "fleet.csv"),
        (b"name;location\r\nR2;Hall\r\n", "fleet.csv"),
        (b"location\tname\nHall\tR2\n", "fleet.txt"),
        (b'{"name": "R2", "location": "Hall"}\n', "fleet.jsonl"),
        (b'\n {"name": "R2", "location": "Hall"}', "fleet.txt"),
    ],
)
def test_spreadsheets_of_many_kinds_are_read(client, content, name):
    client.post(draft_of(send(client, content, name)))
    assert list(Robot.objects.values_list("name", "location", "description")) == [("R2", "Hall", "")]


def test_without_a_file_it_asks_for_one(client):
    assert refusal(client.post(URL)) == "Choose a file."


def test_a_draft_is_its_user_s_and_ends_after_an_hour(client):
    draft = draft_of(send(client))
    other = admin("manager")
    assert "Choose the file again" in messages(other.get(draft, follow=True))[0]
    assert "Choose the file again" in messages(other.post(draft, follow=True))[0]
    late = stored_now() + drafts.LIFETIME + dt.timedelta(seconds=1)
    with patch.object(drafts, "stored_now", lambda: late):
        for method in (client.get, client.post):
            assert "Choose the file again" in messages(method(draft, follow=True))[0]
        drafts.forget_old()
    assert not ImportDraft.objects.exists()
    assert not Robot.objects.exists()


def test_old_drafts_are_deleted_by_a_periodic_step(client):
    send(client)
    ImportDraft.objects.update(expires_at=stored_now() - dt.timedelta(minutes=1))
    with patch.object(periodic.clock, "even_for", lambda: 3600.0):
        periodic.forget_runs()
    assert not ImportDraft.objects.exists()


def test_only_managers_may_and_are_offered_it():
    for role in ("viewer", "operator"):
        client = admin(role)
        assert "Add robots from a file" not in text(client.get(LIST))
        assert send(client).status_code == client.get(URL).status_code == 403
        assert client.get(f"{URL}draft/{'0' * 32}/").status_code == 403
    assert 'href="/admin/robots/robot/import/">Add robots from a file' in text(admin("manager").get(LIST))


def test_names_and_texts_of_a_file_are_shown_as_text(client):
    page = text(
        client.get(draft_of(send(client, 'name,location,description\n<b>R2,Hall,"<script>x</script>"\n', "<i>.csv")))
    )
    assert "&lt;b&gt;R2" in page
    for tag in ("<script>x", "<b>R2", "<i>.csv"):
        assert tag not in page
