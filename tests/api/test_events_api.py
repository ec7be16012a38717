"""GET /task/{task_id}/events and GET /events: live, through the real web server."""

import itertools
import json
import os
import signal
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote, urlsplit

import pytest
from django.db import OperationalError
from django.test import RequestFactory
from pymongo.errors import AutoReconnect
from rest_framework.exceptions import AuthenticationFailed
from uuid_utils.compat import uuid7

from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken, User
from fmv.accounts.oidc import IssuerUnavailable
from fmv.accounts.permissions import Role, still_allowed
from fmv.accounts.sessions import Session, SessionStore
from fmv.devstack import embedded_mongodb, stack
from fmv.mongodb.server import server_now
from tasks.api.event_hub import hub, now
from tasks.api.event_log import before, milliseconds
from tasks.api.event_stream import CLOCK_TOLERANCE
from tasks.api.events import EventViewSet
from tasks.models import Task
from tasks.models.error_document import error_document
from tasks.queue import services
from tasks.queue.doorbell import ring
from tests.conftest import wait_until
from tests.support.api import Api, assert_refused, problems
from tests.support.factories import make_robot, make_task, make_token
from tests.support.probes import LEASE, claim, line, make_task_in
from tests.support.sse import Block, Sse

pytestmark = pytest.mark.django_db(transaction=True)

MANY = 200
ERROR = error_document("ValueError", "broken")


@pytest.fixture
def broker() -> str:
    return os.environ["FMV_BROKER_URL"]


@pytest.fixture
def server(web, broker) -> str:
    """A web server of one process that lets everybody in, and comments often."""
    return str(
        web(broker, FMV_ANONYMOUS="manager", FMV_WEB_PROCESSES="1", FMV_STREAM_COMMENT_SECONDS="0.5") + "/api/v1"
    )


@pytest.fixture(autouse=True)
def hub_at_rest():
    yield
    hub.join()


def queued(**fields: Any) -> Task:
    return make_task(history=[line("QUEUED", 0)], **fields)


def earlier(task: Task) -> Task:
    """Let the task's creation be over for a stream that begins now."""
    wait_until(lambda: now() > milliseconds(task.stored_at) + CLOCK_TOLERANCE)
    return task


def live(task: Task, *attempts: str) -> None:
    """Take the task through attempts that end so: "retry", "succeed"."""
    for outcome in attempts:
        assert claim(task.robot)
        owner = Task.objects.get(pk=task.pk)
        assert owner.renew(lease=LEASE, grace=1, progress=50.0, message=f"half of {owner.attempt}")
        if outcome == "retry":
            assert owner.retry(ERROR, delay=-1)
            assert Task.objects.filter(pk=task.pk).promote(server_now())
        else:
            assert owner.succeed({"attempt": owner.attempt}, "done")


def lines_of(blocks: list[Block]) -> list[tuple[str, int, int]]:
    """Status, attempt and length of history of each event that is a line of history, a report before it or not."""
    told = [(b.status, b.task["attempt"], len(b.task["history"])) for b in blocks]
    return [key for key, _ in itertools.groupby(told)]


HISTORY = [
    ("QUEUED", 0, 1),
    ("STARTED", 1, 2),
    ("RETRY", 1, 3),
    ("QUEUED", 1, 4),
    ("STARTED", 2, 5),
    ("SUCCESS", 2, 6),
]


# --- One task --------------------------------------------------------------------------------------------------------


def test_a_tasks_whole_life_through_a_real_worker(server, worker, broker):
    robot = make_robot()
    task = services.submit({"robot": robot.name, "handler": "wait", "params": {"seconds": 2.5}}, by="test")
    with Sse(f"{server}/task/{task.pk}/events") as stream:
        worker(broker)
        ring(robot.name)  # as the sweeper would, who is not there
        blocks = list(stream.blocks())
    assert (stream.status, stream.headers["content-type"]) == (200, "text/event-stream")
    assert blocks[0].retry == "2000"
    seen = [block for block in blocks if block.event]
    assert {block.event for block in seen} == {"task"}
    assert lines_of(seen) == [("QUEUED", 0, 1), ("STARTED", 1, 2), ("SUCCESS", 1, 3)]
    reports = [block.task["progress"] for block in seen if block.status == "STARTED" and block.task["progress"]]
    assert reports == sorted(set(reports))
    assert reports
    with urllib.request.urlopen(f"{server}/task/{task.pk}") as answer:
        assert seen[-1].task == json.load(answer)
    assert len({block.id for block in seen}) == len(seen)


def test_it_begins_with_the_present_and_ends_with_the_task(server):
    task = queued()
    assert claim(task.robot)
    with Sse(f"{server}/task/{task.pk}/events") as stream:
        first = next(stream.events())
        assert (first.status, first.task["attempt"]) == ("STARTED", 1)
        assert Task.objects.get(pk=task.pk).fail(ERROR)
        assert [block.status for block in stream.events()] == ["FAILURE"]


def test_a_finished_task_is_one_event_and_then_nothing_for_a_client_that_comes_back(server):
    task = queued()
    live(task, "succeed")
    with Sse(f"{server}/task/{task.pk}/events") as stream:
        (event,) = stream.events()
    assert event.status == "SUCCESS"
    with Sse(f"{server}/task/{task.pk}/events", **{"Last-Event-ID": event.id}) as again:
        assert (again.status, list(again.blocks())) == (204, [])


def test_a_client_that_comes_back_at_any_point_gets_the_rest(server):
    task = queued()
    with Sse(f"{server}/task/{task.pk}/events") as stream:
        live(task, "retry", "succeed")
        seen = list(stream.events())
    assert lines_of(seen) == HISTORY
    for number, event in enumerate(seen[:-1]):
        for url, headers in (("", {"Last-Event-ID": event.id}), (f"?last_event_id={event.id}", {})):
            with Sse(f"{server}/task/{task.pk}/events{url}", **headers) as stream:
                rest = [*seen[: number + 1], *stream.events()]
            assert lines_of(rest) == HISTORY
            assert rest[-1].task == seen[-1].task


def test_a_renewal_without_news_is_no_event(server):
    task = queued()
    assert claim(task.robot)
    owner = Task.objects.get(pk=task.pk)
    with Sse(f"{server}/task/{task.pk}/events") as stream:
        assert owner.renew(lease=LEASE, grace=1, progress=10.0, message="the same")
        for _ in range(3):
            assert owner.renew(lease=LEASE, grace=1)
            time.sleep(0.7)
        assert owner.succeed(None, "")
        assert [(b.status, b.task["progress"]) for b in stream.events()] == [
            ("STARTED", None), ("STARTED", 10.0), ("SUCCESS", 100.0)
        ]  # fmt: skip


# --- All tasks -------------------------------------------------------------------------------------------------------


def test_all_tasks_from_now_on_in_order(server):
    old = earlier(queued())
    with Sse(f"{server}/events") as stream:
        assert next(stream.blocks()).id
        new = queued()
        live(old, "succeed")
        live(new, "retry", "succeed")
        seen = stream.until(lambda block: block.task["task_id"] == str(new.pk) and block.status == "SUCCESS")
    of_old = [block for block in seen if block.task["task_id"] == str(old.pk)]
    of_new = [block for block in seen if block.task["task_id"] == str(new.pk)]
    assert lines_of(of_old) == [("STARTED", 1, 2), ("SUCCESS", 1, 3)]
    assert lines_of(of_new) == HISTORY
    ids = [block.id for block in seen]
    assert len(ids) == len(set(ids))
    assert [block.status for block in of_new if block.task["result"] is not None] == ["SUCCESS"]


def test_a_client_that_is_cut_again_and_again_loses_and_doubles_nothing(server):
    """Cut after every event, at another process or not: only the id counts."""
    tasks = [queued() for _ in range(6)]
    earlier(tasks[-1])
    with Sse(f"{server}/events") as stream:
        last_id = next(stream.blocks()).id
    with ThreadPoolExecutor(3) as threads:
        lives = [threads.submit(live, task, "retry", "succeed") for task in tasks]
        seen: dict[str, list[Block]] = {str(task.pk): [] for task in tasks}
        ids = []
        while any(not s or s[-1].status != "SUCCESS" for s in seen.values()):
            with Sse(f"{server}/events", **{"Last-Event-ID": last_id}) as stream:
                for event in itertools.islice(stream.events(), 2):
                    seen[event.task["task_id"]].append(event)
                    ids.append(event.id)
                last_id = stream.last_id
        for each in lives:
            each.result()
    assert ids == sorted(set(ids))
    for blocks in seen.values():
        assert lines_of(blocks) == HISTORY[1:]


@pytest.mark.slow
def test_a_client_that_reads_too_slowly_is_ended_before_many_bytes_wait_for_it_and_comes_back_for_the_rest(server):
    """Far more than what the kernel holds for a connection, and than what may wait."""
    with Sse(f"{server}/events") as slow, Sse(f"{server}/events?robot=Bender") as other:
        next(slow.blocks()), next(other.blocks())
        small = queued(robot=make_robot(name="Bender"))
        for _ in range(20):
            Task.objects.bulk_create(large_task() for _ in range(20))
        live(small, "succeed")
        assert len(other.until(lambda block: block.status == "SUCCESS")) == 3  # what it does not ask for does not wait
        seen = [block.id for block in slow.events()]
        assert len(seen) < 300  # none if one poll finds them all
        last_id = slow.last_id
    while len(seen) < 403:
        with Sse(f"{server}/events", **{"Last-Event-ID": last_id}) as stream:
            seen += [block.id for block in itertools.islice(stream.events(), 403 - len(seen))]
            last_id = stream.last_id
    assert seen == sorted(set(seen))


def large_task() -> Task:
    """Return one whose event takes 100 KB."""
    return Task(robot="Wall-E", handler="wait", timeout=30.0, result="x" * 100_000, history=[line("QUEUED", 0)])


def test_filters(server):
    tasks = {name: queued(robot=make_robot(name=name)) for name in ("Bender", "Crow T. Robot", "Wall-E")}
    earlier(tasks["Wall-E"])
    urls = {
        "?robot=Bender": lambda robot, status: robot == "Bender",
        f"?robot=Bender&robot={quote('Crow T. Robot')}": lambda robot, status: robot != "Wall-E",
        "?status=SUCCESS&status=RETRY": lambda robot, status: status in ("SUCCESS", "RETRY"),
        "?robot=Wall-E&status=SUCCESS": lambda robot, status: (robot, status) == ("Wall-E", "SUCCESS"),
    }
    streams = [Sse(server + "/events")] + [Sse(f"{server}/events{query}") for query in urls]
    start = next(streams[0].blocks()).id
    for stream in streams[1:]:
        next(stream.blocks())
    for task in tasks.values():
        live(task, "retry", "succeed")
    expected = [(robot, *step) for robot in tasks for step in HISTORY[1:]]

    def told(stream: Sse) -> list[Any]:
        last = [key for key in expected if wanted(key[0], key[1])][-1]
        blocks = stream.until(lambda b: (b.task["robot"], b.status, b.task["attempt"]) == last[:3])
        keys = ((b.task["robot"], b.status, b.task["attempt"], len(b.task["history"])) for b in blocks)
        return [key for key, _ in itertools.groupby(keys)]

    for stream, wanted in zip(streams, [lambda *_: True, *urls.values()], strict=True):
        assert told(stream) == [key for key in expected if wanted(key[0], key[1])]
        stream.close()
    for query, wanted in urls.items():  # the same, caught up with
        with Sse(f"{server}/events{query}&last_event_id={start}") as stream:
            assert told(stream) == [key for key in expected if wanted(key[0], key[1])]


def test_a_position_without_events_moves_on_with_the_comments(server):
    with Sse(f"{server}/events?robot=nobody") as stream:
        ids = [block.id for block in itertools.islice(stream.blocks(), 6)]
    assert ids == sorted(ids)
    assert ids[0] < ids[-1]


def test_an_old_id_is_good_for_an_hour_and_a_gap_is_told(server):
    a = queued(robot="a")
    live(queued(robot="b"), "succeed")
    with Sse(f"{server}/events?last_event_id={before(milliseconds(a.stored_at) - 60_000)}") as stream:
        seen = stream.until(lambda block: block.status == "SUCCESS")
    told = [(b.task["robot"], b.status) for b in seen if b.task["robot"] in ("a", "b") and not b.task["progress"]]
    assert told == [("a", "QUEUED"), ("b", "QUEUED"), ("b", "STARTED")]
    with Sse(f"{server}/events?last_event_id={before(1)}") as stream:
        gap = next(stream.events())
        assert gap.event == "gap"
        assert gap.task["before"].endswith("Z")
        assert stream.until(lambda block: block.status == "SUCCESS")


def test_an_id_of_the_future_means_now(server):
    with Sse(f"{server}/events?last_event_id={before(10**14)}") as stream:
        next(stream.blocks())
        live(queued(), "succeed")
        assert lines_of(stream.until(lambda block: block.status == "SUCCESS"))[0] == ("QUEUED", 0, 1)


# --- What every stream does ------------------------------------------------------------------------------------------


def test_headers_for_browsers_and_proxies(web, broker):
    url = web(broker, FMV_ANONYMOUS="viewer", FMV_CORS_ORIGINS="https://fleet.example.org") + "/api/v1"
    task = queued()
    for path in ("/events", f"/task/{task.pk}/events", f"/task/{task.pk}/events/", "/events/"):
        for method in ("GET", "HEAD"):
            headers = {
                "Origin": "https://fleet.example.org",
                "Accept-Encoding": "gzip",
                "X-Request-ID": "mine",
                "Accept": "text/event-stream",
            }
            with Sse(url + path, method=method, **headers) as stream:
                assert stream.status == 200
                assert stream.headers["content-type"] == "text/event-stream"
                assert stream.headers["cache-control"] == "no-cache"
                assert stream.headers["x-accel-buffering"] == "no"
                assert stream.headers["access-control-allow-origin"] == "https://fleet.example.org"
                assert stream.headers["x-request-id"] == "mine"
                assert not {"content-length", "content-encoding"} & stream.headers.keys()
                if method == "GET":
                    assert next(stream.blocks()).retry == "2000"
                else:
                    assert stream.answer.read() == b""


def test_comments_keep_a_quiet_stream_open(server):
    task = queued()
    for path in ("/events", f"/task/{task.pk}/events"):
        with Sse(server + path) as stream:
            comments = (block for block in stream.blocks() if block.comments)
            assert next(comments)
            assert next(comments)


def get_robots(server: str) -> int:
    with urllib.request.urlopen(f"{server}/robot/", timeout=30) as answer:
        assert "robots" in json.load(answer)
        return int(answer.status)


def test_many_listeners_leave_the_threads_to_requests(server):
    task = queued()
    half = MANY // 2
    streams = [Sse(f"{server}/events") for _ in range(half)]
    streams += [Sse(f"{server}/task/{task.pk}/events") for _ in range(MANY - half)]
    assert {stream.status for stream in streams} == {200}
    for stream in streams:
        next(stream.blocks())
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(get_robots, server) for _ in range(100)]
        live(task, "succeed")
        assert {answer.result() for answer in answers} == {200}
    for stream in streams:
        assert stream.until(lambda block: block.status == "SUCCESS")
    for stream in streams:
        stream.close()


def test_there_is_a_limit_and_whoever_goes_makes_room(web, broker):
    url = (
        web(
            broker, FMV_ANONYMOUS="viewer", FMV_WEB_PROCESSES="1", FMV_MAX_STREAMS="2", FMV_STREAM_COMMENT_SECONDS="0.2"
        )
        + "/api/v1"
    )
    first, second = Sse(f"{url}/events"), Sse(f"{url}/task/{queued().pk}/events")
    for path in ("/events", f"/task/{queued().pk}/events"):
        with Sse(url + path) as refused:
            assert refused.status == 503
            assert int(refused.headers["retry-after"]) > 0
            assert "event streams" in json.load(refused.answer)["detail"]
    finished = make_task_in("SUCCESS")
    with Sse(f"{url}/task/{finished.pk}/events") as stream:  # needs no place
        assert stream.status == 200
    with Sse(f"{url}/events", method="HEAD") as stream:
        assert stream.status == 200
    first.close()
    second.close()

    def still_allowed() -> bool:
        with Sse(f"{url}/events") as stream:
            return stream.status == 200

    wait_until(still_allowed)


def test_streams_end_with_the_server(run_process, broker):
    url, process = web_process(run_process, broker)
    streams = [Sse(f"{url}/events") for _ in range(20)] + [Sse(f"{url}/task/{queued().pk}/events") for _ in range(20)]
    stuck = socket.create_connection(urlsplit(url)[1].split(":"))  # asks, and reads nothing
    stuck.sendall(b"GET /api/v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for stream in streams:
        next(stream.blocks())
    before = time.monotonic()
    process.send_signal(signal.SIGTERM)
    for stream in streams:
        list(stream.blocks())  # to a clean end
        stream.close()
    ended = time.monotonic() - before
    assert process.wait(timeout=20) == 0
    assert ended < 20
    assert time.monotonic() - before < 25, "the server waited for its whole grace"
    stuck.close()


# --- Who is let in no longer ------------------------------------------------------------------------------------------


def revoke(token: ApiToken) -> None:
    api_tokens.revoke(token, by="test")


def switch_off(token: ApiToken) -> None:
    User.objects.filter(pk=token.user_id).update(is_active=False)


def take_role(token: ApiToken) -> None:
    User.objects.filter(pk=token.user_id).update(role=Role.NONE)


def sign_out(token: ApiToken) -> None:
    Session.objects.all().delete()


def cookie_of(user: User) -> dict[str, str]:
    return {"Cookie": f"sessionid={Api(user).client.cookies['sessionid'].value}"}


@pytest.mark.slow
def test_a_stream_ends_once_its_caller_is_no_longer_let_in(web, broker):
    server = web(broker, FMV_WEB_PROCESSES="1", FMV_STREAM_COMMENT_SECONDS="0.2") + "/api/v1"
    task = queued()
    stays = make_token()
    for end in (revoke, switch_off, take_role, sign_out):
        token = make_token()
        bearer, by_token = ({"Authorization": f"Bearer {each.text}"} for each in (stays, token))
        headers = cookie_of(token.user) if end is not revoke else by_token
        other = cookie_of(token.user) if end is sign_out else by_token
        others = [Sse(f"{server}{path}", **bearer) for path in ("/events", f"/task/{task.pk}/events")]
        theirs = [Sse(f"{server}/events", **headers), Sse(f"{server}/task/{task.pk}/events", **other)]
        for stream in (*others, *theirs):
            assert (stream.status, next(stream.blocks()).retry) == (200, "2000")
        for stream in theirs:
            assert next(block for block in stream.blocks() if block.comments), "ended while it was let in"
        end(token)
        began = time.monotonic()
        for stream in theirs:
            list(stream.blocks())  # to a clean end
            stream.close()
        assert time.monotonic() - began < 20  # and not after an hour
        for stream in others:
            list(itertools.islice((block for block in stream.blocks() if block.comments), 6))
            stream.close()


@pytest.mark.parametrize("error", [IssuerUnavailable(1), OperationalError("away"), AutoReconnect("away")])
def test_a_caller_is_let_in_while_nobody_can_tell(monkeypatch, error):
    request = RequestFactory().get("/", headers={"Authorization": f"Bearer {make_token().text}"})
    request.session = SessionStore()
    view = EventViewSet(action_map={"get": "of_all"}, action="of_all")
    assert still_allowed(view, request)
    with monkeypatch.context() as away:
        away.setattr(api_tokens, "sign_in", Mock(side_effect=error))
        assert still_allowed(view, request)
    monkeypatch.setattr(api_tokens, "sign_in", Mock(side_effect=AuthenticationFailed))
    assert not still_allowed(view, request)


@pytest.mark.slow
def test_a_stream_ends_after_its_time(monkeypatch):
    monkeypatch.setattr("tasks.api.event_stream.MAX_STREAM_AGE", 0.5)
    answer = Api("viewer")("GET", f"/task/{queued().pk}/events")
    assert b"event: task" in b"".join(answer)
    answer.close()


# --- What is refused -------------------------------------------------------------------------------------------------


def test_an_unknown_task_is_not_found():
    api = Api("viewer")
    assert_refused(api("GET", f"/task/{uuid7()}/events"), 404)
    assert_refused(api("GET", "/task/x/events"), 404)


@pytest.mark.parametrize("id", ["x", "1", "1-2-3", "0-" + "0" * 32, "é", "-1-" + "0" * 32 + "-0"])
def test_a_malformed_id_is_told(id):
    api, task = Api("viewer"), queued()
    for path in ("/events", f"/task/{task.pk}/events"):
        answer = api("GET", path, headers={"Last-Event-ID": id})
        assert_refused(answer, 422)
        assert problems(answer) == ["header.Last-Event-ID"]
        answer = api("GET", f"{path}?last_event_id={quote(id)}")
        assert_refused(answer, 422)
        assert problems(answer) == ["query.last_event_id"]


def test_an_id_of_another_task_is_told():
    api, task = Api("viewer"), queued()
    answer = api("GET", f"/task/{task.pk}/events?last_event_id=1-{uuid7().hex}-0")
    assert_refused(answer, 422)


def test_wrong_filters_are_told():
    api = Api("viewer")
    for query, places in {
        "status=DONE": ["query.status.0"],
        "status=SUCCESS&status=": ["query.status.1"],
        "robot=": ["query.robot.0"],
        "robot=a%00b": ["query.robot.0"],
    }.items():
        answer = api("GET", f"/events?{query}")
        assert_refused(answer, 422)
        assert problems(answer) == places


def test_who_may_listen():
    task = queued()
    for path in ("/events", f"/task/{task.pk}/events"):
        assert_refused(Api(None)("GET", path), 401)
        assert_refused(Api(Role.NONE)("GET", path), 403)
        for role in ("viewer", "operator", "manager"):
            answer = Api(role)("HEAD", path)
            assert (answer.status_code, answer.content if not answer.streaming else b"".join(answer)) == (200, b"")
        assert_refused(Api("manager")("POST", path, {}), 405)


def web_process(run_process, broker: str) -> tuple[str, Any]:
    port = str(embedded_mongodb.free_port(None))
    process = run_process(
        "web", *stack.WEB, FMV_BROKER_URL=broker, FMV_PORT=port, FMV_ANONYMOUS="manager", FMV_STOP_GRACE="30"
    )
    url = f"http://127.0.0.1:{port}/api/v1"
    wait_until(lambda: stack.answers(f"{url}/health", "localhost"))
    return url, process
