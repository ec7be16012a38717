"""Times that people type and read in their own zone: fields, addresses, charts, and the days when the clocks change."""

import datetime as dt
import re
from html import unescape

import pytest
from django.utils import timezone

from fmv import local_time
from fmv.local_time import WrongTime, day_of, hour_of, read, written
from tasks.admin import dashboard
from tasks.models import Task
from tasks.reports import spans, tallies
from tasks.reports.comparison import Asked, compare
from tests.support.factories import make_finished, make_robot
from tests.support.pages import admin, robot_url, text
from tests.support.probes import listening

BERLIN, KOLKATA, NEW_YORK = "Europe/Berlin", "Asia/Kolkata", "America/New_York"
HOUR, DAY = dt.timedelta(hours=1), dt.timedelta(days=1)
MINUTE = dt.timedelta(minutes=1)


def utc(*parts: int) -> dt.datetime:
    return dt.datetime(*parts, tzinfo=dt.UTC)


def zone(name: str):
    return local_time.find(name)


@pytest.fixture
def berlin():
    with timezone.override(BERLIN):
        yield


# --- Texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("2026-11-28 14:00", utc(2026, 11, 28, 13)),
        ("2026-07-28T14:00:05", utc(2026, 7, 28, 12, 0, 5)),
        (" 2026-11-28 ", utc(2026, 11, 27, 23)),
        ("2026-11-28T14:00Z", utc(2026, 11, 28, 14)),
        ("2026-11-28 14:00-05:00", utc(2026, 11, 28, 19)),
        ("2026-10-25 02:30+02:00", utc(2026, 10, 25, 0, 30)),
        ("2026-10-25 02:30+01:00", utc(2026, 10, 25, 1, 30)),
    ],
)
def test_a_text_without_an_offset_is_a_time_of_the_zone(berlin, typed, means):
    assert read(typed) == means


@pytest.mark.parametrize("typed", ["", "soon", "2026-13-01 00:00", "28.11.2026 14:00", "0001-01-01 00:00", "24:00"])
def test_a_text_that_says_no_time_is_refused_with_an_example_in_the_zone(berlin, typed):
    with pytest.raises(WrongTime, match=r"Write a time as in 2027-01-31 08:00 \(Europe/Berlin\)"):
        read(typed)


def test_a_time_that_the_clocks_skip_is_refused(berlin):
    with pytest.raises(
        WrongTime, match=r"^2026-03-29 02:30 does not exist in Europe/Berlin: the clocks are put forward"
    ):
        read("2026-03-29 02:30")


def test_a_time_that_comes_twice_is_refused_and_both_ways_to_write_it_are_named(berlin):
    with pytest.raises(WrongTime, match="comes twice in Europe/Berlin") as refused:
        read("2026-10-25 02:30")
    assert refused.value.twice
    ways = re.findall(r"[0-9-]{10} [0-9:]{5}\+[0-9:]{5}", str(refused.value))
    assert [read(way) for way in ways] == [utc(2026, 10, 25, 0, 30), utc(2026, 10, 25, 1, 30)]


@pytest.mark.parametrize("name", [BERLIN, KOLKATA, NEW_YORK, "UTC", "Australia/Lord_Howe", "America/St_Johns"])
def test_what_a_field_shows_it_takes_back_also_when_the_clocks_change(name):
    with timezone.override(name):
        for day in (utc(2026, 3, 8), utc(2026, 3, 29), utc(2026, 4, 5), utc(2026, 10, 4), utc(2026, 10, 25)):
            for minutes in range(0, 36 * 60, 15):
                moment = day + minutes * MINUTE
                assert read(written(moment)) == moment, (name, moment)
        assert read(written(utc(2026, 11, 28, 1, 2, 3).replace(microsecond=4))).microsecond == 4


def test_days_have_23_24_or_25_hours_and_begin_when_the_clock_does():
    lengths = {
        date: (day_of(date, 1, zone(BERLIN)) - day_of(date, 0, zone(BERLIN))) / HOUR
        for date in (utc(2026, 3, 29, 12), utc(2026, 7, 1), utc(2026, 10, 25, 12))
    }
    assert list(lengths.values()) == [23, 24, 25]
    beirut = zone("Asia/Beirut")  # its clocks go from 0:00 to 1:00
    assert day_of(utc(2026, 3, 29, 12), 0, beirut) == utc(2026, 3, 28, 22)
    with timezone.override(KOLKATA):
        assert hour_of(utc(2026, 11, 28, 10, 45)) == utc(2026, 11, 28, 10, 30)


# --- Lists and forms -------------------------------------------------------------------------------------------------

pages = pytest.mark.django_db


@pages
def test_the_list_of_tasks_takes_times_of_the_zone_and_its_address_then_holds_utc():
    make_finished(utc(2026, 11, 27, 13, 30))
    make_finished(utc(2026, 11, 27, 14, 30))
    client = admin("viewer", time_zone=BERLIN)
    form = {
        "finished_after": "2026-11-27 14:00",
        "finished_before": "2026-11-27 15:00",
        "robot": "",
        "status": "SUCCESS",
    }
    answer = client.get("/admin/tasks/task/", form)
    address = unescape(answer.headers["Location"])
    assert "finished_after=2026-11-27T13%3A00Z&finished_before=2026-11-27T14%3A00Z" in address
    assert "status=SUCCESS" in address
    page = text(client.get(address))
    assert "1 task matches" in page
    assert "Finished after (Europe/Berlin)" in page
    assert 'value="2026-11-27 14:00"' in page
    colleague = text(admin("viewer", time_zone=NEW_YORK).get(address))
    assert "1 task matches" in colleague
    assert 'value="2026-11-27 08:00"' in colleague


@pages
@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("2026-03-29 02:30", "Finished after: 2026-03-29 02:30 does not exist in Europe/Berlin"),
        ("2026-10-25 02:30", "Finished after: 2026-10-25 02:30 comes twice in Europe/Berlin"),
        ("yesterday", "Finished after: Write a time as in 2027-01-31 08:00 (Europe/Berlin)"),
    ],
)
def test_a_wrong_time_lists_no_tasks(typed, says):
    make_finished(utc(2026, 11, 27, 13, 30))
    page = text(admin("operator", time_zone=BERLIN).get("/admin/tasks/task/", {"finished_after": typed}))
    assert says in page
    assert "no tasks are listed" in page
    assert "Cancel all" not in page


@pytest.mark.django_db(transaction=True)
def test_a_task_runs_at_a_time_of_the_zone_that_its_form_said():
    make_robot(name="R2")
    client, url = admin("operator", time_zone=BERLIN), f"{robot_url('R2', 'run')}?handler=wait"
    page = text(client.get(url))
    assert "Run at (Europe/Berlin)" in page
    assert '<input type="hidden" name="zone" value="Europe/Berlin">' in page
    form = {"params.seconds": "1", "run_at": "2036-07-01T08:00", "zone": BERLIN}
    assert client.post(url, form).status_code == 302
    assert Task.objects.get().run_at == utc(2036, 7, 1, 6)
    client.post("/admin/settings/", {"time_zone": "Asia/Tokyo"})  # in another tab, while the form is open
    assert client.post(url, form | {"run_at": "2036-07-01T09:00"}).status_code == 302
    assert Task.objects.order_by("-id")[0].run_at == utc(2036, 7, 1, 7)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("typed", "says", "kind"),
    [
        ({"run_at": "2036-03-30T02:30"}, "does not exist in Europe/Berlin", "datetime-local"),
        ({"run_at": "2036-10-26T02:30"}, "Write 2036-10-26 02:30+02:00 for the first", "text"),
        ({"run_at": "2036-10-26T03:30", "zone": "Mars/Olympus"}, "There is no time zone &#x27;Mars/Olympus&#x27;", ""),
        ({"run_at": "x" * 36}, "at most 35 characters", "datetime-local"),
    ],
)
def test_a_form_with_a_time_that_is_not_certain_submits_nothing(typed, says, kind):
    make_robot(name="R2")
    client, url = admin("operator", time_zone=BERLIN), f"{robot_url('R2', 'run')}?handler=wait"
    page = text(client.post(url, {"params.seconds": "1", "zone": BERLIN} | typed))
    assert "No task was submitted" in page
    assert says in page
    assert not kind or re.search(f'<input type="{kind}"[^>]* name="run_at"|name="run_at"[^>]* type="{kind}"', page)
    assert not Task.objects.exists()
    if kind == "text":
        assert client.post(url, {"params.seconds": "1", "run_at": "2036-10-26 02:30+01:00"}).status_code == 302
        assert Task.objects.get().run_at == utc(2036, 10, 26, 1, 30)


# --- Charts ----------------------------------------------------------------------------------------------------------

ROBOT = "/admin/timeline/robot/R2/"


def links(page: str) -> dict[str, str]:
    """Return the addresses of the links by their text or label."""
    found = re.findall(r'href="(\?from=[^"]*)"(?: aria-label="([^"]*)")?[^>]*>([^<]*)</a>', page)
    return {label or words: unescape(address).replace("%3A", ":") for address, label, words in found}


@pages
def test_the_day_on_which_the_clocks_are_put_back_has_25_hours_to_zoom_into():
    make_robot(name="R2")
    make_finished(utc(2026, 10, 25, 0, 30)), make_finished(utc(2026, 10, 25, 1, 30), "FAILURE")
    client = admin("viewer", time_zone=BERLIN)
    answer = client.get(ROBOT, {"from": "2026-10-25", "to": "2026-10-26 00:00"})
    assert answer.headers["Location"].endswith("?from=2026-10-24T22%3A00Z&to=2026-10-25T23%3A00Z")
    page = text(client.get(answer.headers["Location"]))
    found = links(page)
    hours = [label for label in found if re.match("[0-9]{2}:[0-9]{2}.* to ", label)]
    assert len(hours) == 25
    assert found["02:00+02:00 to 02:00+01:00, Sun 25 Oct"] == "?from=2026-10-25T00:00Z&to=2026-10-25T01:00Z"
    assert found["02:00+01:00 to 03:00, Sun 25 Oct"] == "?from=2026-10-25T01:00Z&to=2026-10-25T02:00Z"
    assert found["Earlier"] == "?from=2026-10-23T22:00Z&to=2026-10-24T22:00Z"
    assert found["Later"] == "?from=2026-10-25T23:00Z&to=2026-10-26T23:00Z"
    assert found["Week"] == "?from=2026-10-18T22:00Z&to=2026-10-25T23:00Z"
    assert "In Europe/Berlin" in page
    assert "UTC</p>" not in page
    assert ">2026-10-25 02:29:00+01:00</time>" in page


@pages
def test_a_day_of_the_fleet_and_its_hours_are_those_of_the_zone():
    make_robot(name="R2")
    make_finished(utc(2026, 11, 26, 23, 30))
    spans.roll_up(utc(2026, 11, 27, 12))
    client = admin("viewer", time_zone=BERLIN)
    page = text(client.get("/admin/timeline/", {"from": "2026-11-26T23:00Z", "to": "2026-11-27T23:00Z"}))
    assert "Fri 27 Nov 00:00 to 01:00 Europe/Berlin: 1 succeeded" in page
    assert "Fri 27 Nov 00:00 to Sat 28 Nov 00:00</h2>" in page.replace("  ", " ")
    assert links(page)["Day"] == "?from=2026-11-26T23:00Z&to=2026-11-27T23:00Z"


@pages
def test_today_and_yesterday_are_the_reader_s():
    make_robot(name="R2")
    for name in ("Pacific/Kiritimati", "Pacific/Pago_Pago"):
        page = text(admin("viewer", time_zone=name).get(ROBOT))
        begun = day_of(timezone.now(), 0, zone(name))
        assert links(page)["Today"].startswith(f"?from={local_time.in_utc(begun)}")


@pages
def test_comparing_counts_a_task_on_the_reader_s_day_and_costs_little_more():
    until = utc(2026, 11, 26, 14)
    make_robot(name="R2")
    for day in range(14):
        make_finished(utc(2026, 11, 25, 23, 30) - day * DAY)  # the day after, in Berlin
    while spans.roll_up(until):
        pass
    here, there = compare(Asked(until=until)), compare(Asked(until=until, zone=zone(BERLIN)))
    assert (here.now.begun, there.now.begun) == (utc(2026, 11, 20), utc(2026, 11, 19, 23))
    assert [column.figures.finished for column in here.columns] == [1] * 6 + [0] + [1] * 6 + [0]
    assert [column.figures.finished for column in there.columns] == [1] * 14
    assert there.total.now.finished == sum(column.figures.finished for column in there.columns if column.is_now)
    client = admin("viewer", time_zone=BERLIN)
    client.get("/admin/compare/?until=2026-11-26T14:00Z")
    with listening() as commands:
        page = text(client.get("/admin/compare/?until=2026-11-26T14:00Z"))
    assert len(commands.sent) <= 2 + 2 * 5, commands.sent
    assert "In Europe/Berlin." in page
    assert "Thu 26 Nov until 15:00" in page
    assert "until=2026-11-26T14%3A00Z" in page


@pages
def test_comparing_over_a_change_of_the_clocks_keeps_whole_days():
    until = utc(2026, 10, 28, 11)
    asked = Asked(until=until, zone=zone(BERLIN))
    now, before = asked.periods()
    assert (now.begun, before.begun) == (utc(2026, 10, 21, 22), utc(2026, 10, 14, 22))
    assert before.until == utc(2026, 10, 21, 10)  # noon there, as now
    hours = [column.period.hours for column in compare(asked).columns if column.is_now]
    assert hours == [24, 24, 24, 25, 24, 24, 12]


@pages
def test_so_many_robots_that_their_hours_are_too_much_are_shown_by_days_of_utc_that_say_so(monkeypatch):
    from tasks.reports import comparison

    monkeypatch.setattr(comparison, "MAX_HOURS", 100)
    make_robot(name="R2")
    make_finished(utc(2026, 11, 25, 23, 30))
    spans.roll_up(utc(2026, 11, 26, 1))
    found = compare(Asked(until=utc(2026, 11, 26, 14), zone=zone(BERLIN)))
    assert sum(column.figures.finished for column in found.columns) == found.total.now.finished == 1
    page = text(admin("viewer", time_zone=BERLIN).get("/admin/compare/?until=2026-11-26T14:00Z"))
    assert "Wed 25 Nov 01:00 until Thu 26 Nov 01:00" in page


@pages
def test_a_zone_with_half_hours_is_compared_by_the_full_hours_of_utc():
    asked = Asked(until=utc(2026, 11, 26, 14), zone=zone(KOLKATA))
    now, before = asked.periods()
    assert (now.begun, before.begun) == (utc(2026, 11, 19, 18), utc(2026, 11, 12, 18))
    make_robot(name="R2")
    for day in range(14):
        make_finished(utc(2026, 11, 25, 23, 30) - day * DAY)
    while spans.roll_up(utc(2026, 11, 26, 14)):
        pass
    found = compare(asked)
    assert len(found.columns) == 14
    assert sum(column.figures.finished for column in found.columns) == 14


@pages
def test_the_last_day_on_the_dashboard_is_in_each_reader_s_zone_although_it_is_kept_for_all():
    dashboard.forget()
    make_finished(timezone.now() - 40 * MINUTE)
    tallies.roll_up()
    pages = [text(admin("viewer", time_zone=name).get("/admin/dashboard/day/")) for name in (BERLIN, NEW_YORK)]
    dashboard.forget()
    assert "By half hour, in Europe/Berlin" in pages[0]
    assert "By half hour, in America/New_York" in pages[1]
    first, second = (re.findall('<th scope="row">([0-9:-]*)</th>', page) for page in pages)
    assert len(first) == len(second) == 48
    assert first[0] != second[0]
