"""The pages Timeline: of a robot and of the fleet."""

import datetime as dt
import re
from html import unescape

import pytest

from fmv.audit.models import AuditEntry
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import id_at
from robots.models import Absence
from tasks.admin.pages import timeline as pages
from tasks.admin.pages import timeline_chart
from tasks.models import Status
from tasks.reports import spans, timeline
from tasks.reports.spans import DAY, HOUR
from tests.support.factories import make_finished, make_robot, make_task
from tests.support.pages import admin, text
from tests.support.probes import listening

pytestmark = pytest.mark.django_db

BEGUN = dt.datetime(2026, 11, 26, 14, tzinfo=dt.UTC)
SPAN = "?from=2026-11-26T14:00Z&to=2026-11-26T15:00Z"
ROBOT = "/admin/timeline/robot/R2/"
MINUTE = dt.timedelta(minutes=1)


def at(minutes: float) -> dt.datetime:
    return BEGUN + minutes * MINUTE


def rects(page, kind):
    return re.findall(f'<rect class="span-{kind}" x="([0-9.]*)" y="([0-9.]*)" width="([0-9.]*)"', page)


# --- A robot ---------------------------------------------------------------------------------------------------------


def test_attempts_are_bars_coloured_by_outcome_that_lead_to_their_tasks():
    make_robot(name="R2")
    good = make_finished(at(30), took=900)
    bad = make_finished(at(45), "FAILURE", took=300)
    page = text(admin("viewer").get(ROBOT + SPAN))
    assert rects(page, "ok") == [("250.0", "0.0", "250.0")]
    assert rects(page, "failed") == [("666.7", "0.0", "83.3")]
    for task in (good, bad):
        assert page.count(f'href="/admin/tasks/task/{task.pk}/change/"') == 3  # bar, wait, row of the table
    assert "In UTC" in page


def test_waits_absences_and_marks_are_drawn_and_in_the_table():
    make_robot(name="R2")
    make_finished(at(30), took=600, waited=600)
    make_task(robot="R2", history=[{"at": at(50), "status": "QUEUED", "attempt": 0, "note": ""}], id="0" * 32)
    Absence.objects.create(id="a", robot="R2", kind="offline", begun=at(5), ended=at(10))
    Absence.objects.create(id="b", robot="R2", kind="out_of_service", begun=at(55))
    page = text(admin("viewer").get(ROBOT + SPAN))
    assert rects(page, "offline")[0][0] == "83.3"
    assert rects(page, "out_of_service")[0][0] == "916.7"
    assert [x for x, _, _ in rects(page, "waits")] == ["166.7", "833.3"]
    for words in ("Offline", "Out of service", "goes on", "10 min"):
        assert words in page


def test_attempts_at_the_same_time_lie_in_rows_of_their_own():
    for minute in (10, 12, 30):
        make_finished(at(minute), took=300)
    drawn = timeline_chart.chart(timeline.of_robot("R2", BEGUN, BEGUN + HOUR)).rects
    assert [rect.y for rect in drawn if rect.kind == "ok"] == [0, timeline_chart.ROW, 0]
    assert {rect.of.outcome for rect in drawn} == {Status.SUCCESS, Status.QUEUED}


def test_the_address_holds_the_span_and_without_one_it_is_yesterday_and_today():
    make_robot(name="R2")
    client = admin("viewer")
    page = text(client.get(ROBOT + SPAN))
    assert (
        '<a class="fmv-chip" href="?from=2026-11-26T14%3A00Z&amp;to=2026-11-26T15%3A00Z">Link to this span</a>' in page
    )
    page = text(client.get(ROBOT))
    yesterday = spans.day_of(server_now()) - DAY
    [link] = re.findall('<a class="fmv-chip" href="([^"]*)">Link to this span</a>', page)
    assert unescape(link).startswith(f"?from={yesterday:%Y-%m-%d}T00%3A00Z")
    assert page.count('aria-label="14:00 to 15:00, ') == 2


@pytest.mark.parametrize(
    ("title", "begun", "until"),
    [
        ("Hour", "26T14:00Z", "26T15:00Z"),
        ("6 hours", "26T09:00Z", "26T15:00Z"),
        ("Day", "26T00:00Z", "27T00:00Z"),
        ("Week", "20T00:00Z", "27T00:00Z"),
        ("Earlier", "26T13:00Z", "26T14:00Z"),
        ("Later", "26T15:00Z", "26T16:00Z"),
    ],
)
def test_zooming_out_and_going_on(title, begun, until):
    make_robot(name="R2")
    page = unescape(text(admin("viewer").get(ROBOT + SPAN)))
    [link] = re.findall(rf'href="([^"]*)"[^>]*>{title}</a>', page)
    assert link.replace("%3A", ":") == f"?from=2026-11-{begun}&to=2026-11-{until}"


def test_too_many_tasks_are_said_to_be(monkeypatch):
    monkeypatch.setattr(timeline, "MAX_FINISHED", 3)
    make_robot(name="R2")
    for minute in range(5):
        make_finished(at(minute + 5), took=20)
    page = text(admin("viewer").get(ROBOT + SPAN))
    assert "zoom in to see the others" in page
    assert len(rects(page, "ok")) == 3


def test_a_wrong_address_is_said_to_be():
    make_robot(name="R2")
    client = admin("viewer")
    for query in ("from=x&to=y", "from=2026-11-26T14:00Z", "zzz=1", "from=2026-11-26T14:00Z&to=2026-11-26T14:00Z"):
        for address in (ROBOT, "/admin/timeline/"):
            assert "The address is not valid." in text(client.get(f"{address}?{query}")), query


def test_a_robot_that_is_not_there():
    answer = admin("viewer").get(ROBOT, follow=True)
    assert "There is no robot R2." in text(answer)


def test_who_may_see_the_pages():
    make_robot(name="R2")
    for address in (ROBOT, "/admin/timeline/"):
        assert admin("").get(address).status_code in (302, 403)


def test_the_robot_s_page_leads_there():
    make_robot(name="<R2> 搬送/x".replace("/", " "))
    client = admin("viewer")
    [row] = re.findall('href="(/admin/robots/robot/[^"]*/change/)"', text(client.get("/admin/robots/robot/")))[:1]
    [link] = re.findall('href="(/admin/timeline/robot/[^"]*)"', text(client.get(row)))
    assert "Timeline of &lt;R2&gt; 搬送 x" in text(client.get(link))


# --- The fleet -------------------------------------------------------------------------------------------------------

FLEET = "/admin/timeline/"


def test_a_day_of_the_fleet_is_shown_by_the_hour():
    make_robot(name="C3"), make_robot(name="R2"), make_robot(name="R3")
    make_finished(at(-30)), make_finished(at(-31), "FAILURE"), make_finished(at(-31), robot="C3")
    spans.roll_up(BEGUN)
    Absence.objects.create(id="a", robot="R3", kind="offline", begun=at(0), ended=at(60))
    page = unescape(text(admin("viewer").get(f"{FLEET}?from=2026-11-26T00:00Z&to=2026-11-27T00:00Z")))
    assert rects(page, "ok") == [("541.7", "0", "39.7")]
    assert rects(page, "failed") == [("541.7", "0", "39.7")]
    assert rects(page, "offline") == [("583.3", "18", "41.7")]
    assert f"{ROBOT}?from=2026-11-26T13%3A00Z&to=2026-11-26T14%3A00Z" in page
    assert "1 succeeded, 1 failed, 0 cancelled" in page


def test_an_hour_of_the_fleet_is_shown_by_attempt():
    make_robot(name="C3"), make_robot(name="R2")
    task = make_finished(at(30), took=900)
    page = text(admin("viewer").get(FLEET + SPAN))
    assert rects(page, "ok") == [("250.0", "0", "250.0")]
    assert f"/admin/tasks/task/{task.pk}/change/" in page


def test_cancels_and_changes_of_robots_are_beside_the_fleet():
    make_robot(name="R2")
    lines = [{"at": at(5), "status": "QUEUED", "attempt": 0, "note": ""}]
    lines.append({"at": at(10), "status": "REVOKED", "attempt": 0, "note": "cancel asked for by leela"})
    task = make_task(robot="R2", history=lines, status="REVOKED", finished_at=at(10), id=id_at(at(5)))
    entry = {"by": "fry", "action": "robot.disable", "kind": "robot", "key": "R2", "text": "in service: yes → no"}
    AuditEntry.objects.create(id=id_at(at(20)), **entry)
    client = admin("viewer")
    hour = text(client.get(FLEET + SPAN))
    assert rects(hour, "waits") == [("83.3", "15", "83.3")]
    assert f'<a href="/admin/tasks/task/{task.pk}/change/">wait: cancel asked for by leela</a>' in hour
    day = text(client.get(f"{FLEET}?from=2026-11-26T00:00Z&to=2026-11-27T00:00Z"))
    for page in (hour, day):
        assert "disable: in service: yes → no" in page


def test_a_week_of_the_fleet_has_few_cells_and_takes_four_commands():
    for number in range(3):
        make_robot(name=f"R{number}")
        for hour in range(0, 168, 5):
            make_finished(BEGUN + hour * HOUR, robot=f"R{number}")
    while spans.roll_up(BEGUN + 8 * DAY):
        pass
    client = admin("viewer")
    with listening() as commands:
        page = text(client.get(f"{FLEET}?from=2026-11-26T00:00Z&to=2026-12-03T00:00Z"))
    assert len(rects(page, "ok")) <= 3 * (pages.CELLS + 1)
    assert len(commands.sent) == 2 + 4, commands.sent


def test_the_robots_come_in_pages(monkeypatch):
    monkeypatch.setattr(pages, "ROBOTS", 2)
    for name in ("A", "B", "C"):
        make_robot(name=name)
    client = admin("viewer")
    page = unescape(text(client.get(FLEET + SPAN)))
    [link] = re.findall('rel="next" href="([^"]*)">More robots', page)
    assert ">C</a>" not in page
    page = text(client.get(FLEET + link))
    assert ">C</a>" in page
    assert "More robots" not in page


def test_a_fleet_without_robots():
    assert "There are no robots." in text(admin("viewer").get(FLEET))
