import base64
import datetime as dt
import uuid

import pytest

from fmv.mongodb.uuid7 import id_at
from tasks.models import Status, Task
from tests.support.api import Api, assert_refused, problems
from tests.support.factories import make_robot, make_task
from tests.support.probes import listening

pytestmark = pytest.mark.django_db

NOON = dt.datetime(2026, 11, 23, 12, tzinfo=dt.UTC)


@pytest.fixture
def api():
    return Api("viewer")


def ids(answer):
    assert answer.status_code == 200, answer.content
    return [task["task_id"] for task in answer.json()["tasks"]]


def local(url):
    return url and url.removeprefix("http://testserver/api/v1")


def test_it_is_newest_first(api):
    tasks = [make_task(robot="R2") for _ in range(3)]
    answer = api("GET", "/task/")
    assert ids(answer) == [str(task.pk) for task in reversed(tasks)]
    assert list(answer.json()) == ["tasks", "next", "previous"]
    assert answer.content == api("GET", "/task").content


def test_without_tasks_it_is_empty(api):
    assert api("GET", "/task/").content == b'{"tasks":[],"next":null,"previous":null}'


def test_a_row_is_what_the_task_s_own_route_gives(api):
    task = make_task(robot="R2", labels=["x"])
    assert api("GET", "/task/").json()["tasks"] == [api("GET", f"/task/{task.pk}").json()]


def test_filters_narrow_it(api):
    one = make_task(robot="Bender", status="QUEUED", labels=["red", "blue"], requested_by="Leela")
    two = make_task(robot="Crow T. Robot", status="STARTED", handler="primes", lane="x")
    three = make_task(robot="Crow T. Robot", status="SUCCESS", labels=["red"])
    for query, found in {
        "robot=Bender": [one],
        "robot=Crow%20T.%20Robot": [three, two],
        "robot=bender": [],
        "status=QUEUED": [one],
        "status=QUEUED&status=SUCCESS": [three, one],
        "status=SCHEDULED&status=RETRY&status=FAILURE&status=REVOKED": [],
        "handler=wait": [three, one],
        "handler=wai": [],
        "label=red": [three, one],
        "label=re": [],
        "requested_by=Leela": [one],
        "robot=Crow%20T.%20Robot&status=STARTED&handler=primes": [two],
        "robot=Bender&status=STARTED": [],
        "robot=$ne": [],
    }.items():
        assert ids(api("GET", f"/task/?{query}")) == [str(task.pk) for task in found], query


def test_created_after_begins_and_created_before_ends_before_its_moment(api):
    before, at, after = [
        make_task(robot="R2", id=uuid.UUID(int=id_at(NOON + dt.timedelta(milliseconds=ms)).int + 5))
        for ms in (-1, 0, 1)
    ]
    for query, found in {
        "created_after=2026-11-23T12:00:00Z": [after, at],
        "created_after=2026-11-23T12:00:00.001Z": [after],
        "created_before=2026-11-23T12:00:00Z": [before],
        "created_before=2026-11-23T13:00:00%2B01:00": [before],
        "created_after=2026-11-23T12:00:00Z&created_before=2026-11-23T12:00:00.001Z": [at],
        "created_after=2026-11-23t12:00:00z": [after, at],
        "created_after=0001-01-01T00:00:00Z": [after, at, before],
        "created_after=1969-12-31T23:59:59Z": [after, at, before],
        "created_before=1969-12-31T23:59:59Z": [],
        "created_after=9999-12-31T23:59:59Z": [],
        "created_before=9999-12-31T23:59:59.999999Z": [after, at, before],
    }.items():
        assert ids(api("GET", f"/task/?{query}")) == [str(task.pk) for task in found], query


def test_a_wrong_filter_is_named(api):
    for name, values in {
        "status": ["BOGUS", "", "queued", "QUEUED,STARTED", "%00", "PENDING", "CREATED"],
        "created_after": [
            *("garbage", "", "now", "1767225600", "1e400", "%00", "2026-01-01", "2026-01-01T00:00:00"),
            *(
                "0000-01-01T00:00:00Z",
                "10000-01-01T00:00:00Z",
                "9999-12-31T23:59:59-01:00",
                "2026-11-23T12:00:00+01:00",
            ),
        ],
        "created_before": ["garbage", "2026-02-30T00:00:00Z", "2026-01-01T25:00:00Z", "now"],
        "robot": ["", "%00", "a%00b"],
        "handler": ["", "%00"],
        "label": ["", "%00"],
        "requested_by": ["", "%00"],
    }.items():
        for value in values:
            answer = api("GET", f"/task/?{name}={value}")
            assert_refused(answer, 422)
            assert problems(answer)[0].startswith(f"query.{name}"), value


@pytest.mark.parametrize("path", ["/robot/", "/task/", "/task/{task}/log"])
def test_every_list_checks_its_limit(api, path):
    path = path.format(task=make_task(robot=make_robot()).pk)
    for limit in ("1", "1000", "007"):
        assert api("GET", f"{path}?limit={limit}").status_code == 200, limit
    for limit in (
        "-1",
        "0",
        "1001",
        "abc",
        "1e3",
        "%D9%A3",
        "%C2%B2",
        "",
        "5.0",
        "+5",
        "%00",
        "9" * 5000,
        "True",
        "1_0",
    ):
        answer = api("GET", f"{path}?limit={limit}")
        assert_refused(answer, 422)
        assert problems(answer) == ["query.limit"], limit


def forged(text):
    return base64.b64encode(text.encode()).decode().replace("+", "%2B").replace("=", "%3D")


CURSORS = ["", "abc", "%00", "%FF", "é", "%D9%A3", "A" * 5000, "null", "[]", "%7B%7D"]
CURSORS += map(forged, ["", "p=", "o=5", "o=-5", "o=abc", "r=1", "p=%00", "r=x&p=x", "\0", "{}", "o=1&r=1"])


@pytest.mark.parametrize("path", ["/robot/", "/task/", "/task/{task}/log"])
def test_every_list_checks_its_cursor(api, path):
    path = path.format(task=make_task(robot=make_robot()).pk)
    for cursor in CURSORS:
        answer = api("GET", f"{path}?cursor={cursor}")
        assert_refused(answer, 422)
        assert problems(answer) == ["query.cursor"], cursor


def test_the_list_of_robots_cursors_are_not_its_own(api):
    for _ in range(2):
        make_robot()
    cursor = api("GET", "/robot/?limit=1").json()["next"].partition("cursor=")[2]
    assert problems(api("GET", f"/task/?cursor={cursor}")) == ["query.cursor"]


def test_an_offset_in_a_forged_cursor_does_nothing(api):
    tasks = [make_task(robot="R2") for _ in range(4)]
    for offset in ("2", "99999999999999999999999"):
        answer = api("GET", f"/task/?cursor={forged(f'o={offset}&p={tasks[3].pk}')}")
        assert ids(answer) == [str(task.pk) for task in tasks[2::-1]]


def test_pages_forward_and_back_hold_every_task_once_while_others_are_added(api):
    Task.objects.bulk_create(
        Task(robot="R2" if number % 5 else "C3", handler="wait", timeout=1, requested_by="test")
        for number in range(320)
    )
    wanted = [str(id) for id in Task.objects.of_robot("R2").newest_first().values_list("pk", flat=True)]
    seen, path = [], "/task/?robot=R2&limit=30&status=QUEUED&status=STARTED"
    while path:
        page = api("GET", path).json()
        seen += [task["task_id"] for task in page["tasks"]]
        make_task(robot="R2")  # newer than all
        make_task(robot="C3")
        last, path = page, local(page["next"])
    assert seen == wanted
    path, back = local(last["previous"]), []
    while path:
        page = api("GET", path).json()
        back = [task["task_id"] for task in page["tasks"]] + back
        make_task(robot="R2")
        path = local(page["previous"])
    assert len(set(back)) == len(back)
    assert [id for id in back if id in wanted] == wanted[: -len(last["tasks"])]


def test_links_keep_the_filters(api):
    for _ in range(3):
        make_task(robot="Crow T. Robot", status=Status.QUEUED, labels=["a&b"])
    query = "label=a%26b&limit=1&robot=Crow+T.+Robot&status=QUEUED&status=STARTED"
    first = api("GET", f"/task/?{query}").json()
    second = api("GET", local(first["next"])).json()
    assert first["previous"] is None
    for link in (first["next"], second["next"], second["previous"]):
        assert set(query.split("&")) <= set(link.partition("?")[2].split("&"))
    assert ids(api("GET", local(second["previous"]))) == [first["tasks"][0]["task_id"]]


def test_a_page_holds_a_hundred_unless_told_otherwise(api):
    Task.objects.bulk_create(Task(robot="R2", handler="wait", timeout=1, requested_by="t") for _ in range(101))
    assert len(ids(api("GET", "/task/"))) == 100
    assert len(ids(api("GET", "/task/?limit=1000"))) == 101


def test_it_costs_the_same_whatever_there_is(api):
    for _ in range(5):
        make_task()
    with listening() as commands:
        api("GET", "/task/")
    assert [command.split()[1] for command in commands.sent] == ["fmv_session", "fmv_user", "tasks_task"]
