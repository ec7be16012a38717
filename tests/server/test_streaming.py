"""Reading any number of rows by their keys."""

from operator import itemgetter

import pytest
from pymongo.errors import CursorNotFound

from fmv.mongodb import streaming
from fmv.mongodb.streaming import by_key
from robots.models import Robot
from tests.support.factories import make_robot
from tests.support.pipelines import stages

pytestmark = pytest.mark.django_db(transaction=True)

NAMES = [f"R{number:02}" for number in range(20)]


@pytest.fixture
def robots():
    for number, name in enumerate(NAMES):
        make_robot(name=name, location="Lab" if number % 2 else "Hall")


@pytest.fixture(params=[1, 3, 10, 20, 100])
def page(request, monkeypatch):
    monkeypatch.setattr(streaming, "QUERY_ROWS", request.param)


@pytest.mark.usefixtures("robots", "page")
def test_all_rows_come_once_and_in_order_whatever_the_page():
    assert [robot.name for robot in by_key(Robot.objects.all())] == NAMES
    assert [robot.name for robot in by_key(Robot.objects.all(), descending=True)] == NAMES[::-1]


@pytest.mark.usefixtures("robots", "page")
def test_the_rows_are_narrowed_and_limited():
    lab = Robot.objects.filter(location="Lab")
    assert [robot.name for robot in by_key(lab)] == NAMES[1::2]
    assert [robot.name for robot in by_key(lab, limit=4)] == NAMES[1:8:2]
    assert [robot.name for robot in by_key(lab, descending=True, limit=1)] == NAMES[-1:]
    rows = by_key(lab.values_list("name", "location"), limit=2, key=itemgetter(0))
    assert list(rows) == [("R01", "Lab"), ("R03", "Lab")]


@pytest.mark.usefixtures("robots")
def test_a_page_is_one_query_that_an_index_answers():
    assert stages(Robot.objects.all(), lambda rows: list(by_key(rows))) == ["$sort", "$limit"]
    later = Robot.objects.filter(pk__gt="R05")
    assert stages(later, lambda rows: list(by_key(rows))) == ["$match", "$sort", "$limit"]


@pytest.mark.usefixtures("robots")
def test_no_more_rows_are_made_than_are_read():
    rows = by_key(Robot.objects.all())
    assert next(rows).name == "R00"
    make_robot(name="R99")  # after the query
    Robot.objects.filter(name="R99").delete()
    rows.close()


@pytest.mark.usefixtures("robots")
def test_where_the_server_has_given_up_a_cursor_the_next_begins(monkeypatch):
    monkeypatch.setattr(streaming, "OBJECTS", 1)
    rows = by_key(Robot.objects.all())
    names = [next(rows).name for _ in range(5)]
    asked = []

    def given_up(cursor, *args, **options):
        asked.append(cursor)
        monkeypatch.undo()
        raise CursorNotFound("cursor id 1 not found")

    monkeypatch.setattr("pymongo.synchronous.command_cursor.CommandCursor.next", given_up)
    monkeypatch.setattr("pymongo.synchronous.command_cursor.CommandCursor.__next__", given_up)
    assert names + [robot.name for robot in rows] == NAMES
    assert asked
