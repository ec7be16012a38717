import datetime as dt

import pytest

from tasks.models import LogLine
from tests.support.api import Api
from tests.support.factories import make_task

pytestmark = pytest.mark.django_db


@pytest.fixture
def api():
    return Api("viewer")


def texts(page):
    return [line["text"] for line in page["lines"]]


def test_it_is_oldest_first(api):
    task, other = make_task(), make_task()
    LogLine.objects.create(task=other.pk, attempt=1, text="another's")
    for text in ("first", "second\nline", "\0 third"):
        LogLine.objects.create(task=task.pk, attempt=2, text=text)
    page = api("GET", f"/task/{task.pk}/log").json()
    assert list(page) == ["lines", "next", "previous"]
    assert texts(page) == ["first", "second\nline", "\0 third"]
    assert list(page["lines"][0]) == ["at", "attempt", "text"]
    assert page["lines"][0]["attempt"] == 2
    at = dt.datetime.fromisoformat(page["lines"][0]["at"])
    assert abs(dt.datetime.now(dt.UTC) - at) < dt.timedelta(minutes=1)


def test_a_task_that_logged_nothing_has_an_empty_one(api):
    assert api("GET", f"/task/{make_task().pk}/log/").content == b'{"lines":[],"next":null,"previous":null}'


def test_it_is_paged_while_it_grows(api):
    task = make_task()
    LogLine.objects.bulk_create(LogLine(task=task.pk, attempt=1, text=str(number)) for number in range(250))
    path, seen = f"/task/{task.pk}/log?limit=60", []
    while path:
        page = api("GET", path).json()
        seen += texts(page)
        if len(seen) < 200:
            LogLine.objects.create(task=task.pk, attempt=1, text=f"later {len(seen)}")
        path = page["next"] and page["next"].removeprefix("http://testserver/api/v1")
    assert seen == [*map(str, range(250)), "later 60", "later 120", "later 180"]
