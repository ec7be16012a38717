"""Each outcome that an agent may report of an attempt, in each state in which it may find the task."""

from collections.abc import Callable
from typing import Any

import pytest

from tasks.models import Status, Task
from tasks.models.error_document import error_document
from tasks.models.transitions import HANDED_BACK, TIMEOUT_ASKED
from tasks.queue import services
from tasks.queue.robots_lost import MAX_RELEASED
from tests.support.agent_requests import Agent, submit
from tests.support.factories import make_robot
from tests.support.probes import changes, fields_of

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

LOST = error_document("AgentLost", "silent")


def handed_back(agent: Agent, *, queued: bool = True) -> None:
    assert agent.task.release(f"{HANDED_BACK}the robot has not confirmed that it has the task")
    assert not queued or agent.task.promote()


def handed_back_for_the_last_time(agent: Agent) -> None:
    Task.objects.filter(pk=agent.task_id).update(uncounted=MAX_RELEASED - 1, attempt=MAX_RELEASED)
    agent.attempt = MAX_RELEASED
    handed_back(agent)


def begun_again(agent: Agent) -> None:
    handed_back(agent)
    agent.claim()
    agent.attempt = 1


def moved(agent: Agent) -> None:
    handed_back(agent)
    services.move(agent.task, to=Agent.signed_in(make_robot()).robot, by="fry")


def revoked(agent: Agent) -> None:
    handed_back(agent)
    services.cancel(agent.task, by="fry")


def out_of_contact_and_cancelled(agent: Agent) -> None:
    assert agent.task.lose_contact()
    services.cancel(agent.task, by="fry")


STATES: dict[str, Callable[[Agent], Any]] = {
    "running": lambda agent: None,
    "out of contact": lambda agent: agent.task.lose_contact(),
    "being cancelled": lambda agent: services.cancel(agent.task, by="fry"),
    "timed out": lambda agent: agent.task.request_cancel(f"{TIMEOUT_ASKED}ran longer than 1 s"),
    "out of contact and being cancelled": out_of_contact_and_cancelled,
    "given up": lambda agent: agent.task.retry(LOST, delay=60),
    "given up and queued": lambda agent: (agent.task.retry(LOST, delay=0), agent.task.promote()),
    "given up for good": lambda agent: agent.task.fail(LOST),
    "handed back": lambda agent: handed_back(agent, queued=False),
    "handed back and queued": handed_back,
    "handed back for the last time": handed_back_for_the_last_time,
    "handed back and begun again": begun_again,
    "handed back and moved": moved,
    "handed back and revoked": revoked,
    "blocking its lane after a cancel": lambda agent: agent.task.stop_unconfirmed("not confirmed"),
    "blocking its lane after its timeout": lambda agent: agent.task.fail_unconfirmed(LOST, "not confirmed"),
}
OUTCOMES: dict[str, dict[str, Any]] = {
    "succeeded": {"result": {"degrees": 1}},
    "failed": {},
    "cancelled": {},
    "released": {},
}


def report(agent: Agent, outcome: str) -> Any:
    return agent.release() if outcome == "released" else agent.finish(outcome, **OUTCOMES[outcome])


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("state", STATES)
def test_it_is_stored_once_or_refused_for_good(state, outcome):
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, max_attempts=2)
    assert agent.claim().status_code == 200
    STATES[state](agent)
    task = agent.task
    answer = report(agent, outcome)
    stored = agent.task
    if answer.status_code == 200:
        assert stored.reported == {"attempt": agent.attempt, "outcome": outcome}
    else:
        assert answer.status_code == (404 if state == "handed back and moved" else 409)
        assert stored.reported == task.reported
        assert (stored.status, stored.uncounted) == (task.status, task.uncounted)
    assert 0 <= stored.uncounted <= stored.attempt
    status, again = answer.status_code, {}
    assert changes(stored, lambda: again.update(status=report(agent, outcome).status_code)) == {}
    assert again == {"status": status}
    assert agent.restarted().status_code == 200


@pytest.mark.parametrize("state", ["handed back", "handed back and queued", "handed back for the last time"])
def test_a_release_of_an_attempt_that_was_handed_back_counts_no_second_time(state):
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, max_attempts=2)
    agent.claim()
    STATES[state](agent)
    before = fields_of(agent.task)
    changed = changes(agent.task, lambda: agent.release(reason="shutting down"))
    assert changed.keys() == {"history", "changed_at", "reported"}
    assert changed["history"][-1]["note"] == f"{HANDED_BACK}shutting down"
    assert changed["history"][-1]["status"] == before["status"]
    Task.objects.filter(pk=agent.task_id, status=Status.RETRY).update(status=Status.QUEUED)
    assert agent.claim().json()["attempt"] == before["attempt"] + 1
