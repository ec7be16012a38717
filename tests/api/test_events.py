"""What the event streams are made of: keys, the states a document still tells, and the hub that hands them out."""

import datetime as dt
import itertools
import re
import socket
import threading
import time
from typing import Any

import pytest
from django.test import RequestFactory
from pymongo.errors import ServerSelectionTimeoutError

from fmv.http.sse import Stream, TooManyStreams
from fmv.mongodb import server
from fmv.mongodb.server import server_now, stored_now
from tasks.api import event_hub, event_stream
from tasks.api.event_hub import Hub
from tasks.api.event_log import Event, Key, as_of, before, events_of, keys_of, milliseconds, missed, parse_id
from tasks.models import Status, Task
from tests.support.factories import make_task
from tests.support.probes import LEASE, claim, line, started

HEX = "019ab0f37c1e7a319d3c2f6c1b7e4a10"
T0 = dt.datetime(2026, 11, 23, 8, tzinfo=dt.UTC)


def at(seconds: float) -> dt.datetime:
    return T0 + dt.timedelta(seconds=seconds)


def task_with(*statuses: str, changed: float | None = None, **fields: Any) -> Task:
    """A task, not stored, that entered these statuses, one a second; the attempt grows with each STARTED."""
    history, attempt = [], 0
    for second, status in enumerate(statuses):
        attempt += status == "STARTED"
        history.append({"at": at(second), "status": status, "attempt": attempt, "note": str(second)})
    changed_at = at(len(statuses) - 1 if changed is None else changed)
    fields = {"robot": "Bender", "handler": "wait", "timeout": 30.0, "status": statuses[-1]} | fields
    return Task(history=history, attempt=attempt, stored_at=T0, changed_at=changed_at, **fields)


# --- Ids -------------------------------------------------------------------------------------------------------------


def test_an_id_is_read_as_it_is_written():
    for key in (Key(1795420800020, HEX, 4), Key(0, "0" * 32, 0), before(17)):
        assert parse_id(str(key)) == key


@pytest.mark.parametrize(
    "text",
    ["", " ", "1", "1-2-3", f"1-{HEX}", f"1-{HEX}-", f"-{HEX}-1", f"1-{HEX.upper()}-1", f" 1-{HEX}-1", f"1-{HEX}-1\n",
     f"-1-{HEX}-1",
     f"1.5-{HEX}-1", f"1-{HEX}-x", f"{'9' * 16}-{HEX}-1", f"1-{HEX}-{'9' * 10}", f"\u0661-{HEX}-1", "null"],
)  # fmt: skip
def test_what_is_no_id_is_told(text):
    with pytest.raises(ValueError, match=rf"\A{re.escape(text)}\Z"):
        parse_id(text)


def test_keys_sort_by_time_then_task_then_step():
    keys = [before(1), Key(1, HEX, 0), Key(1, HEX, 1), Key(1, "f" * 32, 0), before(2), Key(10, HEX, 0)]
    assert sorted(keys) == keys


# --- What a document tells -------------------------------------------------------------------------------------------


def steps(task: Task) -> list[tuple[float, int]]:
    keys = keys_of(task.pk, task.stored_at, task.changed_at, task.history)
    assert {key.task for key in keys} == {task.pk.hex}
    return [((key.at - milliseconds(T0)) / 1000, key.step) for key in keys]


def test_each_line_of_history_is_a_step_and_so_is_a_report_since():
    assert steps(task_with("QUEUED")) == [(0, 0)]
    assert steps(task_with("QUEUED", changed=0.001)) == [(0, 0)]
    assert steps(task_with("QUEUED", "STARTED")) == [(0, 0), (1, 2)]
    assert steps(task_with("QUEUED", "STARTED", changed=5)) == [(0, 0), (1, 2), (5, 3)]
    assert steps(task_with("QUEUED", "STARTED", "SUCCESS")) == [(0, 0), (1, 2), (2, 4)]


def test_the_first_line_counts_from_when_the_task_was_stored_by_the_servers_clock():
    task = task_with("QUEUED", "STARTED")
    task.history[0]["at"] = at(-3600)
    assert steps(task) == [(0, 0), (1, 2)]


def test_the_last_step_is_the_task_itself():
    task = task_with("QUEUED", "STARTED", changed=5, progress=40.0, message="busy")
    assert as_of(task, 3) is task
    assert as_of(task, 2) is task


def test_an_earlier_step_shows_status_attempt_and_history_of_then_and_nothing_later():
    task = task_with(
        "QUEUED", "STARTED", "RETRY", "QUEUED", "STARTED", "SUCCESS",
        progress=100.0, message="done", result=7, worker="host/2", started_at=at(4), finished_at=at(5),
    )  # fmt: skip
    for step, status, attempt, worker in (
        (0, "QUEUED", 0, ""),
        (2, "STARTED", 1, ""),
        (4, "RETRY", 1, ""),
        (6, "QUEUED", 1, ""),
        (8, "STARTED", 2, "host/2"),
    ):
        past = as_of(task, step)
        assert (past.status, past.attempt) == (status, attempt)
        assert (past.worker, past.started_at) == (worker, at(4) if worker else None)
        assert past.history == task.history[: step // 2 + 1]
        assert (past.progress, past.message, past.result, past.error, past.finished_at) == (None, "", None, None, None)
    assert (task.status, task.result, len(task.history)) == ("SUCCESS", 7, 6)


def test_without_an_id_the_present_is_what_was_missed():
    task = task_with("QUEUED", "STARTED", changed=5)
    assert [event.key.step for event in missed(task, None)] == [3]
    assert [event.key.step for event in missed(task, Key(0, task.pk.hex, 0))] == [2, 3]
    assert [event.key.step for event in missed(task, Key(milliseconds(at(4)), task.pk.hex, 3))] == [3]
    assert missed(task, Key(milliseconds(at(5)), task.pk.hex, 3)) == []


def test_an_event_is_one_line_of_json_whatever_the_task_holds():
    task = task_with("QUEUED", message="a\nb\r\nc\u2028d\0")
    (event,) = events_of(task)
    head, data, *rest = event.render(event.key).split(b"\ndata: ")
    assert head == f"id: {event.key}\nevent: task".encode()
    assert rest == []
    assert data.endswith(b"}\n\n")
    assert not {b"\n", b"\r"} & {data[i : i + 1] for i in range(len(data) - 2)}


# --- What is written for them ----------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_a_task_is_stored_with_the_servers_time(monkeypatch):
    server.clock.read()
    monkeypatch.setattr(server.clock, "_ahead", server.clock._ahead + 3600)
    task = make_task()
    for stored in (task.stored_at, task.changed_at, stored_now()):
        assert abs(stored - dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)) < dt.timedelta(seconds=5)
        assert stored.microsecond % 1000 == 0


@pytest.mark.django_db(transaction=True)
def test_each_change_is_later_than_the_one_before_even_if_the_clock_is_not():
    task = started()
    ahead = server_now() + dt.timedelta(minutes=1)
    Task.objects.filter(pk=task.pk).update(changed_at=ahead)
    assert task.request_cancel("asked")
    task = Task.objects.get(pk=task.pk)
    assert task.changed_at == task.history[-1]["at"] == ahead + dt.timedelta(milliseconds=1)


@pytest.mark.django_db(transaction=True)
def test_a_report_is_a_change_and_a_mere_renewal_is_none():
    task = started()

    def change_by(**report: Any) -> bool:
        before = Task.objects.get(pk=task.pk).changed_at
        assert task.renew(lease=LEASE, grace=1, **report)
        return bool(Task.objects.get(pk=task.pk).changed_at > before)

    assert not change_by()
    assert change_by(progress=10.0, message="a")
    assert not change_by()
    assert change_by(progress=10.0, message="b")
    assert change_by(progress=11.0, message="b")


# --- The hub ---------------------------------------------------------------------------------------------------------


class Fake:
    """A stream that keeps what it is handed."""

    def __init__(self, task: Any = None) -> None:
        self.task = task
        self.events: list[Event] = []
        self.ended = False

    def hand(self, events: Any) -> None:
        self.events += events

    def end(self) -> None:
        self.ended = True

    def seen(self) -> list[tuple[str, int]]:
        return [(event.task.robot, event.key.step) for event in self.events]


class Clock:
    """MongoDB's clock as the hub sees it."""

    def __init__(self, monkeypatch) -> None:
        self.now = milliseconds(T0)
        monkeypatch.setattr(event_hub, "now", lambda: self.now)


@pytest.fixture
def clock(monkeypatch, transactional_db):
    return Clock(monkeypatch)


@pytest.fixture
def watch(clock):
    """A hub that looks only when told, and what a stream of all tasks is handed."""
    hub: Any = Hub()
    hub.watermark = clock.now - event_hub.VISIBILITY_DELAY
    stream = Fake()
    hub._streams.add(stream)
    return hub, stream


def store(robot: str, *moments: float, **fields: Any) -> Task:
    """Store a task that was queued, then started and so on, at these seconds after T0, as if it had happened then."""
    words = ["QUEUED", "STARTED", "RETRY", "QUEUED", "STARTED"]
    history = [line(words[n], 0) | {"at": at(moment)} for n, moment in enumerate(moments)]
    last = at(moments[-1])
    status = words[len(moments) - 1]
    return make_task(robot=robot, status=status, history=history, stored_at=at(moments[0]), changed_at=last, **fields)


def look(watch: Any, clock: Clock, second: float) -> list[tuple[str, int]]:
    """Let the hub look at this second after T0; return what it handed out."""
    hub, stream = watch
    stream.events.clear()
    clock.now = milliseconds(at(second))
    hub.poll()
    return stream.seen()


def test_events_of_all_tasks_come_in_order_once_they_are_settled(watch, clock):
    store("b", 0.3)
    store("a", 0.2, 0.6)
    assert look(watch, clock, 0.4) == []
    assert look(watch, clock, 1.0) == [("a", 0), ("b", 0)]
    assert look(watch, clock, 1.5) == [("a", 2)]
    assert look(watch, clock, 2.0) == []


def test_what_becomes_visible_late_still_comes_once_under_an_id_that_does_not_go_back(watch, clock):
    store("a", 2.0)
    assert look(watch, clock, 3.0) == [("a", 0)]
    shown = watch[1].events[-1].id
    late = store("b", 1.0)
    assert look(watch, clock, 4.0) == [("b", 0)]
    assert watch[1].events[0].key.task == late.pk.hex
    assert watch[1].events[0].id == shown
    assert look(watch, clock, 5.0) == look(watch, clock, 9.0) == []


def test_all_lines_written_between_two_looks_come(watch, clock):
    store("a", 0.1, 0.2, 0.3, 0.4, 0.5)
    assert look(watch, clock, 2.0) == [("a", 0), ("a", 2), ("a", 4), ("a", 6), ("a", 8)]
    assert [event.task.status for event in watch[1].events] == ["QUEUED", "STARTED", "RETRY", "QUEUED", "STARTED"]


def test_a_burst_of_reports_is_one_event_and_the_line_after_it_another(watch, clock):
    task = store("a", 0.1, 0.2)
    assert look(watch, clock, 1.0) == [("a", 0), ("a", 2)]
    for second in (1.1, 1.2, 1.3):
        Task.objects.filter(pk=task.pk).update(changed_at=at(second), progress=second)
    assert look(watch, clock, 2.0) == [("a", 3)]
    assert watch[1].events[0].task.progress == 1.3
    history = [*task.history, line("SUCCESS", 1) | {"at": at(2.1)}]
    Task.objects.filter(pk=task.pk).update(changed_at=at(2.1), history=history, status=Status.SUCCESS)
    assert look(watch, clock, 3.0) == [("a", 4)]


def test_a_task_that_was_quiet_for_long_brings_only_what_is_new(watch, clock):
    task = store("a", 0.1)
    assert look(watch, clock, 1.0) == [("a", 0)]
    for second in range(2, 60):
        assert look(watch, clock, second) == []
    assert watch[0]._published == watch[0]._versions == {}
    history = [*task.history, line("STARTED", 1) | {"at": at(60)}]
    Task.objects.filter(pk=task.pk).update(changed_at=at(60), history=history, status=Status.STARTED)
    assert look(watch, clock, 61.0) == [("a", 2)]


def test_a_failed_look_loses_nothing(watch, clock, monkeypatch):
    store("a", 0.1)
    with monkeypatch.context() as patched:
        patched.setattr(event_hub, "read", lambda ids: [1 / 0])
        with pytest.raises(ZeroDivisionError):
            look(watch, clock, 1.0)
    store("b", 40.0)
    assert look(watch, clock, 60.0) == [("a", 0), ("b", 0)]


def test_a_stream_of_one_task_is_handed_its_document_at_once_and_no_other_is_read(watch, clock, monkeypatch):
    hub = watch[0]
    task = store("a", 0.1)
    store("b", 0.1)
    single = Fake(task.pk)
    hub._streams = {single}
    read = []
    monkeypatch.setattr(event_hub, "read", lambda ids, real=event_hub.read: real(read.append(list(ids)) or read[-1]))
    look(watch, clock, 0.1)
    assert read == [[task.pk]]
    assert single.seen() == [("a", 0)]


def test_after_too_much_at_once_all_streams_end_and_catch_up_by_themselves(watch, clock, monkeypatch):
    monkeypatch.setattr(event_hub, "MAX_BACKLOG", 3)
    for number in range(4):
        store(f"robot {number}", 0.1)
    assert look(watch, clock, 1.0) == []
    assert watch[1].ended


def test_after_mongodbs_clock_was_put_back_streams_end_and_new_ones_get_what_changes_then(watch, clock):
    hub, old = watch
    hub._thread = object()
    assert look(watch, clock, 1.0) == []
    assert look(watch, clock, -7200.0) == []
    assert old.ended
    hub.discard(old)
    new = Fake()
    hub.add(new)
    store("a", -7199.0)
    assert look((hub, new), clock, -7198.0) == [("a", 0)]
    assert not new.ended


def test_a_stream_that_comes_while_the_hub_looks_is_not_forgotten(watch, clock, monkeypatch):
    """Neither by that poll, if the task changes meanwhile, nor between that poll's watermark and the one before."""
    hub = watch[0]
    hub._thread = object()
    task = store("a", 0.1)
    of_all, of_one = Fake(), Fake(task.pk)
    watermarks = []

    def read_late(ids, real=event_hub.read):
        watermarks.extend([hub.add(of_all), hub.add(of_one)])
        return real(ids)

    monkeypatch.setattr(event_hub, "read", read_late)
    assert look(watch, clock, 1.0) == [("a", 0)]
    assert of_one.seen() == [("a", 0)]
    assert watermarks == [hub.watermark] * 2


def test_claims_and_outcomes_make_the_events_of_a_life(watch, monkeypatch):
    monkeypatch.undo()  # the server's own clock
    hub, stream = watch
    hub.watermark = event_hub.now()
    task = make_task(history=[line("QUEUED", 0)])
    assert claim(task.robot)
    owner = Task.objects.get(pk=task.pk)
    assert owner.renew(lease=LEASE, grace=1, progress=50.0, message="half")
    assert owner.succeed({"a": 1}, "done")
    monkeypatch.setattr(event_hub, "VISIBILITY_DELAY", 0)
    hub.poll()
    hub.poll()
    assert [event.task.status for event in stream.events] == ["QUEUED", "STARTED", "SUCCESS"]
    assert stream.events[-1].task.result == {"a": 1}


# --- Streams ---------------------------------------------------------------------------------------------------------


class Repeating(Stream):
    """A stream without end."""

    def pieces(self):
        yield from itertools.repeat(b"x" * 1000)

    def end(self) -> None:
        pass


@pytest.fixture
def stream():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        request = RequestFactory().get("/", **{"gunicorn.socket": ours})
        stream = Repeating(request)
        yield stream, theirs
        stream.close()


def test_a_client_that_takes_nothing_is_cut_and_no_other(stream):
    sent, client = stream
    sent.cut_if_stuck(0)  # nothing is being sent yet
    next(sent)
    sent.cut_if_stuck(10)
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    time.sleep(0.02)
    sent.cut_if_stuck(0.01)
    assert client.recv(1) == b""


def test_a_place_is_given_back_once(stream, settings):
    settings.ENVIRONMENT.max_streams = len(Stream._open)
    with pytest.raises(TooManyStreams):
        Repeating(RequestFactory().get("/"))
    stream[0].close()
    stream[0].close()
    again = Repeating(RequestFactory().get("/"))
    with pytest.raises(TooManyStreams):
        Repeating(RequestFactory().get("/"))
    again.close()


@pytest.mark.django_db(transaction=True)
def test_a_stream_with_too_much_to_send_ends_so_that_its_client_comes_back(monkeypatch):
    task = make_task(history=[line("QUEUED", 0)])
    monkeypatch.setattr(event_stream, "MAX_WAITING", 3 * len(events_of(task)[0].data))
    stream = event_stream.AllTasks(RequestFactory().get("/"), None, still_allowed=lambda: True)
    try:
        pieces = iter(stream)
        next(pieces)
        for _ in range(4):
            stream.hand(events_of(task))
        assert len(list(pieces)) == 3
    finally:
        stream.close()
        event_hub.hub.join()


@pytest.mark.django_db(transaction=True)
def test_while_mongodb_cannot_be_reached_streams_wait_and_say_so(monkeypatch):
    stream = event_stream.AllTasks(RequestFactory().get("/"), None, still_allowed=lambda: True)
    try:
        pieces = iter(stream)
        next(pieces)
        with monkeypatch.context() as away:
            away.setattr(event_hub.hub, "poll", unreachable)
            assert b"MongoDB cannot be reached" in next(pieces)
        task = make_task(history=[line("QUEUED", 0)])
        while task.pk.hex.encode() not in (piece := next(pieces)):
            assert piece.startswith(b": ")
    finally:
        stream.close()
        event_hub.hub.join()


def unreachable() -> None:
    raise ServerSelectionTimeoutError("away")


@pytest.mark.django_db(transaction=True)
def test_a_hub_that_breaks_ends_its_streams_and_the_next_starts_another(monkeypatch):
    stream = event_stream.AllTasks(RequestFactory().get("/"), None, still_allowed=lambda: True)
    broken = []
    monkeypatch.setattr(threading, "excepthook", broken.append)
    with monkeypatch.context() as breaking:
        breaking.setattr(event_hub.hub, "poll", lambda: 1 / 0)
        pieces = list(stream)
        event_hub.hub.join()
    stream.close()
    assert len(broken) == 1
    assert pieces
    another = event_stream.AllTasks(RequestFactory().get("/"), None, still_allowed=lambda: True)
    task = make_task(history=[line("QUEUED", 0)])
    assert any(task.pk.hex.encode() in piece for piece in another)
    another.close()
    event_hub.hub.join()
