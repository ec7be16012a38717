"""The events of robots, in the stream of all tasks and robots."""

import datetime as dt
import os
from typing import Any

import orjson
import pytest

from robots import agents
from robots.models import RobotState
from tasks.api import event_hub
from tasks.api.event_hub import Hub
from tasks.api.event_log import milliseconds, robot_events
from tests.support.factories import make_robot, make_task
from tests.support.sse import Sse

pytestmark = pytest.mark.django_db(transaction=True)


class Fake:
    """A stream of all tasks and robots, or of one task."""

    def __init__(self, task: Any = None) -> None:
        self.task = task
        self.handed: list[Any] = []

    def hand(self, events: Any) -> None:
        self.handed += events

    def seen(self) -> list[tuple[str, bool]]:
        found = [(event.robot, orjson.loads(event.data)["state"]["online"]) for event in self.handed]
        self.handed = []
        return found


@pytest.fixture
def hub(monkeypatch) -> Any:
    monkeypatch.setattr(event_hub, "VISIBILITY_DELAY", 0)
    hub: Any = Hub()
    hub.watermark = event_hub.now() - event_hub.OVERLAP
    return hub


def changed_at(robot: str) -> dt.datetime:
    return RobotState.objects.get(pk=robot).changed_at


def until_visible(robot: str) -> None:
    """Wait until MongoDB's clock is past the robot's last change."""
    while event_hub.now() <= milliseconds(changed_at(robot)):
        pass


def test_each_change_of_a_robot_comes_once(hub):
    stream = Fake()
    hub._streams.add(stream)
    session = agents.open_session(make_robot(name="R2").name)
    until_visible("R2")
    hub.poll()
    assert stream.seen() == [("R2", True)]
    agents.report("R2", session.id, {"battery": {"charge": 5.0}})
    hub.poll()
    assert stream.seen() == []
    agents.close_session("R2", session.id)
    until_visible("R2")
    hub.poll()
    hub.poll()
    assert stream.seen() == [("R2", False)]


def test_events_of_robots_and_tasks_have_one_order(hub):
    stream = Fake()
    hub._streams.add(stream)
    agents.open_session(make_robot(name="A").name)
    make_task(robot=make_robot(name="B"))
    agents.open_session(make_robot(name="C").name)
    until_visible("C")
    hub.poll()
    assert {event.robot for event in stream.handed} == {"A", "B", "C"}
    assert [event.id for event in stream.handed] == sorted(event.key for event in stream.handed)


def test_a_stream_of_one_task_gets_none_and_costs_no_question(hub, monkeypatch):
    stream = Fake(make_task().pk)
    hub._streams.add(stream)
    agents.open_session(make_robot(name="A").name)
    monkeypatch.setattr(event_hub, "robot_events", lambda *_: 1 / 0)
    hub.poll()
    assert stream.handed[-1].task.pk == stream.task


def test_two_robots_have_two_keys_and_a_robot_one_a_change():
    for name in ("A", "B"):
        agents.open_session(make_robot(name=name).name)
    first, second = sorted(robot_events(0, 10), key=lambda event: event.robot)
    assert first.key.task != second.key.task
    assert first.key == next(event for event in robot_events(0, 10) if event.robot == "A").key
    assert list(robot_events(first.key.at + 10**6, 10)) == []


def test_a_client_gets_events_of_robots_live_and_catches_up(web):
    url = web(os.environ["FMV_BROKER_URL"], FMV_ANONYMOUS="viewer")
    make_robot(name="R2"), make_robot(name="R3")
    stream = Sse(f"{url}/api/v1/events")
    next(stream.blocks())
    session = agents.open_session("R2", agent="fmv-agent", version="1")
    live = next(event for event in stream.events() if event.event == "robot")
    data = orjson.loads(live.data)
    assert (data["name"], data["state"]["online"], data["state"]["agent"]["name"]) == ("R2", True, "fmv-agent")
    stream.close()
    agents.open_session("R3")
    agents.close_session("R2", session.id)
    again = Sse(f"{url}/api/v1/events?last_event_id={live.id}")
    events = again.events()
    assert [orjson.loads(next(events).data)["name"] for _ in range(2)] == ["R3", "R2"]
    again.close()
    filtered = Sse(f"{url}/api/v1/events?last_event_id={live.id}&robot=R2")
    assert orjson.loads(next(filtered.events()).data)["name"] == "R2"
    filtered.close()
    make_task(robot="R2")
    tasks = Sse(f"{url}/api/v1/events?last_event_id={live.id}&status=QUEUED")
    assert next(tasks.events()).event == "task"
    tasks.close()
