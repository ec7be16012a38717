"""The lists as CSV and JSON lines: their rows, filters, times and rights; streamed in little memory; in the audit."""

import csv
import datetime as dt
import io
import json
import tracemalloc
from threading import BoundedSemaphore
from zoneinfo import ZoneInfo

import pytest
from django.urls import reverse
from django.utils import timezone

from fmv.accounts.models import ApiToken
from fmv.accounts.permissions import Role
from fmv.audit.models import AuditEntry
from fmv.export import FORMS, Export, attribute, cell, pieces, unguarded
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import new_id
from robots.models import Robot
from tasks.models import Status, Task
from tasks.reports import export
from tests.admin.test_page_costs import stored_bulk
from tests.support.factories import make_robot, make_task, make_token, make_user
from tests.support.pages import admin, text
from tests.support.probes import PAST, listening, make_task_in

pytestmark = pytest.mark.django_db(transaction=True)

LISTS = {
    "tasks/task": "tasks",
    "robots/robot": "robots",
    "tasks/bulk": "bulk-runs",
    "fmv/auditentry": "audit",
    "fmv/user": "users",
    "fmv/apitoken": "api-tokens",
    "django_celery_results/taskresult": "maintenance-runs",
}


def address(model, **words):
    return reverse("admin:export", args=model.split("/")), words


def got(model, client=None, **words):
    url, words = address(model, **words)
    answer = (client or admin(Role.VIEWER)).get(url, words)
    assert answer.status_code == 200, (answer.status_code, answer.headers.get("Location"))
    return answer


def content(answer) -> str:
    body = b"".join(answer.streaming_content)
    answer.close()
    return body.decode("utf-8-sig" if "csv" in answer.headers["Content-Type"] else "utf-8")


def rows(model, client=None, **words):
    """The rows of the CSV file, and of that with JSON lines."""
    sheet = [*csv.DictReader(io.StringIO(content(got(model, client, format="csv", **words)), newline=""), strict=True)]
    lines = [json.loads(line) for line in content(got(model, client, format="jsonl", **words)).splitlines()]
    assert not sheet or sheet[0].keys() == lines[0].keys()
    return sheet, lines


# --- Every list ------------------------------------------------------------------------------------------------------


@pytest.fixture
def some():
    """One of everything that a list shows."""
    robot = make_robot(name="Bender", labels=["a", "b"])
    for status in Status:
        make_task_in(status, robot=robot.name)
    make_token(make_user("viewer", username="fry", password=None), name="gateway")
    stored_bulk()


@pytest.mark.parametrize("model", LISTS)
@pytest.mark.usefixtures("some")
def test_every_list_has_links_to_files_with_its_columns_and_its_name(model):
    client = admin(is_superuser=True, username="root")
    page = client.get(f"/admin/{model}/")
    shown = text(page)
    for form, about in FORMS.items():
        url, _ = address(model)
        assert f'href="{url}?format={form}&amp;times=utc" data-export="{form}" download>{about.title}</a>' in shown
        answer = got(model, client, format=form)
        assert answer.headers["Content-Disposition"] == (
            f'attachment; filename="fmv-{LISTS[model]}-{server_now():%Y-%m-%d}.{form}"'
        )
        assert answer.headers["Content-Type"] == about.media_type
        assert "no-store" in answer.headers["Cache-Control"]
        content(answer)
    _, lines = rows(model, client)
    if model != "django_celery_results/taskresult":
        assert lines
        for column in lines[0]:
            assert f"<code>{column}</code>" in shown, "its meaning is on the page"
    assert client.post(address(model)[0]).status_code == 405


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR, Role.MANAGER])
@pytest.mark.usefixtures("some")
def test_who_may_not_see_a_list_may_not_export_it(role, client):
    for model in LISTS:
        url, _ = address(model)
        assert client.get(url).status_code == 302, "a sign-in"
        seen = admin(role).get(f"/admin/{model}/").status_code
        assert admin(role).get(url).status_code == seen == (403 if model == "fmv/user" else 200)
    assert admin(role).get(reverse("admin:export", args=["fmv", "session"])).status_code == 404


@pytest.mark.usefixtures("some")
def test_tokens_are_ones_own_and_no_secret_is_exported():
    fry = ApiToken.objects.get()
    assert rows("fmv/apitoken")[1] == []
    _, [line] = rows("fmv/apitoken", admin(is_superuser=True))
    assert (line["name"], line["owner"], line["id"], line["state"]) == ("gateway", "fry", fry.short_id, "usable")
    assert fry.digest not in json.dumps(line)
    _, users = rows("fmv/user", admin(is_superuser=True))
    assert "password" not in users[0]
    assert {user["username"]: user["role"] for user in users}["fry"] == "viewer"


# --- Filters ---------------------------------------------------------------------------------------------------------


def test_the_tasks_of_the_filter_are_exported_newest_first_beyond_a_page():
    tasks = [make_task(robot="R2", labels=["night"]) for _ in range(60)]
    make_task(robot="Other")
    sheet, lines = rows("tasks/task", robot="R2", label="night", status=["QUEUED", "STARTED"])
    assert [line["id"] for line in lines] == [row["id"] for row in sheet] == [str(task.pk) for task in tasks[::-1]]
    shown = text(admin(Role.VIEWER).get("/admin/tasks/task/?robot=R2&before=" + str(tasks[30].pk)))
    assert f"{address('tasks/task')[0]}?robot=R2&amp;format=csv&amp;times=utc" in shown


def test_tasks_by_their_end_are_exported_in_the_order_of_an_index():
    now = server_now()
    ended = [make_task(status="FAILURE", finished_at=now - dt.timedelta(minutes=n)) for n in (3, 1, 2)]
    with listening() as commands:
        _, lines = rows("tasks/task", show="failed")
    assert [line["id"] for line in lines] == [str(ended[n].pk) for n in (1, 2, 0)]
    pipelines = [body["pipeline"] for body in commands.bodies if body.get("aggregate") == "tasks_task"]
    assert {"finished_at": -1} in [stage["$sort"] for pipeline in pipelines for stage in pipeline if "$sort" in stage]


def test_robots_audit_bulk_runs_and_users_are_narrowed_by_the_filters_of_their_lists():
    make_robot(name="Bender", location="Earth", labels=["bending"]), make_robot(name="Crow", enabled=False)
    assert [row["name"] for row in rows("robots/robot", q="earth")[1]] == ["Bender"]
    assert [row["name"] for row in rows("robots/robot", state="out", q="", label="", after="")[1]] == ["Crow"]
    AuditEntry.objects.create(by="fry", action="robot.change", kind="robot", key="Bender")
    AuditEntry.objects.create(by="leela", action="user.change", kind="user", key="fry")
    assert [row["key"] for row in rows("fmv/auditentry", by="leela")[1]] == ["fry"]
    assert [row["by"] for row in rows("fmv/auditentry", q="Bender")[1]] == ["fry"]
    run = stored_bulk()
    assert [row["id"] for row in rows("tasks/bulk", status__exact="RUNNING")[1]] == [str(run.pk)]
    assert rows("tasks/bulk", status__exact="DONE")[1] == []


@pytest.mark.parametrize(
    ("model", "query"),
    [
        ("tasks/task", "robot=R2&robot=R3"),
        ("tasks/task", "staus=QUEUED"),
        ("robots/robot", "state=bored"),
        ("fmv/auditentry", "by=a&by=b"),
        ("fmv/auditentry", "nothing=1"),
        ("tasks/task", "format=pdf"),
        ("tasks/task", "times=moon"),
    ],
)
def test_a_wrong_filter_exports_nothing_and_leads_to_the_list_that_says_so(model, query):
    make_task(robot="R2")
    answer = admin(Role.VIEWER).get(f"{address(model)[0]}?{query}")
    assert answer.status_code in (302, 400)
    if answer.status_code == 302:
        assert answer.headers["Location"].startswith(f"/admin/{model}/?")
    assert not AuditEntry.objects.filter(action="list.export").exists()


# --- What a row holds ------------------------------------------------------------------------------------------------


def test_a_task_is_exported_as_it_is():
    start = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)
    error = {"type": "OSError", "message": '=HYPERLINK("x")\nsecond line, with "quotes"', "traceback": "secret"}
    task = make_task(
        robot="+49 Wall-E", status="FAILURE", error=error, attempt=2, max_attempts=3, labels=["a", "b"],
        started_at=start, finished_at=start + dt.timedelta(seconds=1.5), priority=3, requested_by="@fry", progress=-1.5,
    )  # fmt: skip
    [row], [line] = rows("tasks/task")
    assert row["robot"] == "'+49 Wall-E"
    assert row["requested_by"] == "'@fry"
    assert row["error_message"] == "'" + error["message"]
    assert row["progress"] == "-1.5", "a number stays a number"
    assert (row["labels"], row["seconds"], row["attempt"]) == ("a;b", "1.5", "2")
    assert (row["started_at"], row["run_at"]) == ("2026-11-23T12:00:00.000Z", "")
    assert line["robot"] == "+49 Wall-E"
    assert line["labels"] == ["a", "b"]
    assert (line["run_at"], line["cancel_requested"], line["retry_of"]) == (None, False, None)
    assert dt.datetime.fromisoformat(line["created_at"]) == task.created_at
    assert "secret" not in repr((row, line))


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "\nx", "'=1", "''-1", "\uff1d1", "\uff20x"])
def test_no_cell_is_evaluated(text):
    assert cell(text) == f"'{text}"
    assert unguarded(f"'{text}") == text


@pytest.mark.parametrize(
    ("text", "guarded"),
    [
        ("x;=1+1;y", "x;'=1+1;y"),
        ("=1;=2;;'-3", "'=1;'=2;;''-3"),
        ("first\n=1", "first\n'=1"),
        ("\t=1", "'\t'=1"),
        ("a\t@b\r\n+c", "a\t'@b\r\n'+c"),
    ],
)
def test_no_part_of_a_cell_is_evaluated_where_semicolons_separate_cells(text, guarded):
    assert cell(text) == guarded
    assert unguarded(guarded) == text


@pytest.mark.parametrize("value", [-1, -1.5, 0, "a=1", "1-1", "'a", "a; b", "x\n y", "", None])
def test_other_cells_stay_as_they_are(value):
    assert cell(value) == value


def test_lists_and_documents_are_one_cell():
    assert [cell(each) for each in (["a", "b"], ["a;b"], ["[a"], [], {"a": [1]}, True)] == [
        "a;b", '["a;b"]', '["[a"]', "", '{"a":[1]}', "true",
    ]  # fmt: skip
    assert cell(["=1", "b", "@c"]) == "'=1;b;'@c"


def test_times_are_utc_or_those_of_the_viewers_zone(monkeypatch):
    make_task(status="SUCCESS", finished_at=dt.datetime(2026, 7, 1, 22, 30, tzinfo=dt.UTC))
    monkeypatch.setattr("tasks.admin.pages.export.get_current_timezone", lambda: ZoneInfo("Europe/Berlin"))
    assert rows("tasks/task", times="utc")[1][0]["finished_at"] == "2026-07-01T22:30:00.000Z"
    assert rows("tasks/task", times="local")[1][0]["finished_at"] == "2026-07-02T00:30:00.000+02:00"


def test_links_to_local_times_are_there_where_the_zone_is_another():
    from django.template import Context, Template
    from django.test import RequestFactory

    request = RequestFactory().get("/admin/tasks/task/?robot=R2")
    template = Template("{% load exports %}{% export_links %}")
    shown = {}
    for zone in (dt.UTC, ZoneInfo("Europe/Berlin")):
        with timezone.override(zone):
            shown[str(zone)] = template.render(Context({"request": request, "opts": Task._meta}))
    assert "times=local" not in shown["UTC"]
    assert "with the times of Europe/Berlin" in shown["Europe/Berlin"]
    assert "robot=R2&amp;format=csv&amp;times=local" in shown["Europe/Berlin"]


def test_a_robot_is_exported_with_its_state():
    make_robot(name="Bender", labels=["bending"], lanes=2)
    make_task(robot="Bender", status="STARTED", lane="Bender/0", started_at=PAST)
    make_task(robot="Bender")
    make_task(robot="Bender", status="FAILURE", finished_at=server_now())
    [row], [line] = rows("robots/robot")
    assert (line["state"], line["failing"], line["online"], line["running"], line["queued"]) == (
        "busy",
        True,
        None,
        1,
        1,
    )
    assert (row["in_service"], row["online"], row["labels"], row["lanes"]) == ("true", "", "bending", "2")


def test_non_latin_names_survive_and_excel_is_told_that_it_is_utf_8():
    make_robot(name="Вальтер 🤖")
    answer = got("robots/robot")
    body = b"".join(answer.streaming_content)
    assert body.startswith("\ufeffname,".encode())
    assert "Вальтер 🤖".encode() in body
    assert body.count(b"\r\n") == 2


# --- The stream ------------------------------------------------------------------------------------------------------


def store_tasks(count):
    about = {"handler": "noop", "timeout": 1.0, "requested_by": "fry", "message": "x" * 100}
    large = {"params": {"text": "x" * 2000}, "result": "y" * 2000}
    for begun in range(0, count, 500):
        Task.objects.bulk_create(Task(robot="R2", **about, **large) for _ in range(min(500, count - begun)))


@pytest.mark.slow
def test_tens_of_thousands_of_rows_take_no_more_memory_than_thousands():
    client, peaks, sizes = admin(Role.VIEWER), {}, {}
    for count in (4000, 30_000):
        store_tasks(count - Task.objects.count())
        answer = got("tasks/task", client)
        tracemalloc.start()
        sizes[count] = sum(len(piece) for piece in answer.streaming_content)
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        answer.close()
        assert AuditEntry.objects.latest("id").text == f"{count:,} rows as CSV: no filter"
    assert sizes[30_000] > 7 * sizes[4000]
    assert peaks[30_000] < 1.2 * peaks[4000] < 12_000_000


def test_the_server_sends_a_thousand_rows_at_a_time_without_what_the_file_does_not_hold():
    store_tasks(2500)
    with listening() as commands:
        content(got("tasks/task"))
    batches = [
        reply["cursor"].get("nextBatch", reply["cursor"].get("firstBatch"))
        for reply in commands.answers
        if reply.get("cursor", {}).get("ns", "").endswith(".tasks_task")
    ]
    assert sum(map(len, batches)) == 2500
    assert max(map(len, batches)) <= 1000
    assert max(len(repr(row)) for batch in batches for row in batch) < 2000


def test_rows_are_read_while_they_are_sent(monkeypatch):
    monkeypatch.setattr("fmv.export.PIECE_ROWS", 10)
    read = []

    def counted():
        for number in range(1000):
            read.append(number)
            yield Robot(name=f"R{number}")

    found = pieces(Export([attribute("name", "")], counted(), 1000), "jsonl", dt.UTC)
    assert next(found).rows == 10
    assert len(read) == 10


def test_the_audit_says_who_exported_what_and_how_many_rows():
    for number in range(3):
        make_task(robot="R2", status="FAILURE", priority=number)
    client = admin(Role.VIEWER, username="amy")
    content(got("tasks/task", client, robot="R2", status=["FAILURE", "RETRY"]))
    entry = AuditEntry.objects.get()
    assert (entry.by, entry.action, entry.kind, entry.key) == ("amy", "list.export", "list", "tasks")
    assert entry.text == "3 rows as CSV: robot R2, status FAILURE, status RETRY"
    content(got("robots/robot", client, format="jsonl"))
    assert AuditEntry.objects.latest("id").text == "0 rows as JSON lines: no filter"
    assert "list.export" in text(client.get("/admin/fmv/auditentry/"))


def test_a_client_that_goes_away_ends_it_and_the_audit_says_so(monkeypatch):
    monkeypatch.setattr("fmv.export.PIECE_ROWS", 10)
    store_tasks(3000)
    answer = got("tasks/task")
    sent = iter(answer.streaming_content)
    next(sent), next(sent), next(sent)
    with listening() as commands:
        answer.close()
    assert [each for each in commands.sent if each.startswith("getMore")] == []
    assert AuditEntry.objects.get().text == "20 rows as CSV, given up by the client: no filter"
    answer.close()
    assert AuditEntry.objects.count() == 1


def test_a_fault_at_the_beginning_is_an_error_page_and_a_later_one_breaks_the_file_off(monkeypatch):
    monkeypatch.setattr("fmv.export.PIECE_ROWS", 1)

    def breaking(after):
        def rows(conditions):
            for number in range(after):
                yield dict.fromkeys(export.TASK_FIELDS) | {"id": new_id(), "robot": f"R{number}"}
            raise RuntimeError("MongoDB is gone")

        return rows

    monkeypatch.setattr(export, "tasks", breaking(0))
    assert admin(Role.VIEWER).get(address("tasks/task")[0]).status_code == 500
    monkeypatch.setattr(export, "tasks", breaking(2))
    answer = got("tasks/task")
    with pytest.raises(RuntimeError):
        b"".join(answer.streaming_content)
    answer.close()
    assert AuditEntry.objects.get().text == "2 rows as CSV, then it failed: no filter"


def test_a_file_takes_a_place_among_the_requests_that_work_only_while_a_piece_is_read(monkeypatch):
    """A long file must not slow down the pages more than a request does, nor must a slow client keep a place."""
    monkeypatch.setattr("fmv.export.PIECE_ROWS", 1)
    places, seen = BoundedSemaphore(3), []
    monkeypatch.setattr("tasks.admin.pages.export.places_of", lambda request: places)

    def rows(conditions):
        for number in range(3):
            seen.append(places._value)
            yield dict.fromkeys(export.TASK_FIELDS) | {"id": new_id(), "robot": f"R{number}"}

    monkeypatch.setattr(export, "tasks", rows)
    answer = got("tasks/task")
    for _ in answer.streaming_content:
        assert places._value == 3
    answer.close()
    assert seen == [3, 2, 2], "the first is read by the request itself"
