"""POST /agent/task/{id}/finish and /release: how an attempt ends, reported once, twice, or late."""

import dataclasses
import datetime as dt
import uuid
from unittest.mock import patch

import pytest
from pydantic import BaseModel, field_validator

from tasks import registry
from tasks.agents import services as agent_services
from tasks.models import Status, Task
from tasks.queue import services
from tasks.queue.robots_lost import MAX_RELEASED
from tests.support.agent_requests import Agent, code, submit
from tests.support.api import Api
from tests.support.factories import make_robot, make_task, make_user
from tests.support.probes import PAST, statuses

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]
DONE = {"result": {"degrees": 90}}


def agent_with(handler: str = "turn", **options) -> Agent:
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, handler, **options)
    return agent.take()


def test_the_same_outcome_again_has_the_same_answer():
    agent = agent_with()
    first, again = agent.finish(**DONE), agent.finish(**DONE)
    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()


def test_another_outcome_is_refused_with_what_is_stored():
    agent = agent_with()
    agent.finish(**DONE)
    other = agent.finish("failed")
    assert code(other) == "already_reported"
    assert other.json()["stored"] == {"attempt": 1, "outcome": "succeeded", "status": "SUCCESS"}
    assert code(agent.release()) == "already_reported"


def test_a_failure_is_repeated_and_its_report_again_changes_nothing():
    agent = agent_with()
    failed = agent.finish("failed", error={"type": "Stuck", "message": "a chair"}).json()
    assert failed["status"] == "RETRY"
    assert failed["error"] == {"type": "Stuck", "message": "a chair", "traceback": ""}
    Task.objects.get(pk=agent.task_id).promote()
    agent.claim()
    assert agent.attempt == 2
    agent.attempt = 1
    late = agent.finish("failed", error={"type": "Stuck", "message": "a chair"})
    assert late.status_code == 200
    assert late.json()["attempt"] == 2
    assert statuses(agent.task) == ["QUEUED", "STARTED", "RETRY", "QUEUED", "STARTED"]
    assert code(agent.finish(**DONE)) == "already_reported"


@pytest.mark.parametrize("body", [{"retryable": False}, {}])
def test_a_failure_is_final_if_another_attempt_cannot_help_or_none_is_left(body):
    agent = agent_with(max_attempts=3 if body else 1)
    assert agent.finish("failed", **body).json()["status"] == "FAILURE"


def test_a_result_that_is_not_as_declared_is_a_failure():
    agent = agent_with()
    answer = agent.finish(result={"degrees": "many"})
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["error"]["type"]) == ("FAILURE", "InvalidResult")
    assert "degrees" in answer.json()["error"]["message"]
    assert agent.finish(result={"degrees": "many"}).json() == answer.json()


def test_a_handler_without_a_declared_result_takes_any():
    agent = agent_with("grip")
    assert agent.finish(result=["$robot", {"a.b": None}]).json()["result"] == ["$robot", {"a.b": None}]


def test_a_cancel_rides_on_the_renewal_and_is_confirmed():
    agent = agent_with()
    services.cancel(agent.task, by="fry")
    answer = agent.renew(progress=10).json()
    cancel = answer["cancel"]
    assert (cancel["by"], cancel["reason"]) == ("fry", "")
    assert 50 < cancel["grace_seconds"] <= 60
    earlier = agent.task.cancel_requested_at - dt.timedelta(seconds=45)
    Task.objects.filter(pk=agent.task_id).update(cancel_requested_at=earlier)
    assert agent.renew().json()["cancel"]["grace_seconds"] < 15  # seconds to go
    Task.objects.filter(pk=agent.task_id).update(cancel_requested_at=PAST)
    assert agent.renew().json()["cancel"]["grace_seconds"] == 0
    assert agent.task.progress == 10
    assert agent.task.cancel_requested_at is not None
    assert agent.finish("cancelled").json()["status"] == "REVOKED"
    assert agent.task.history[-1]["note"] == "stopped, as asked"
    assert agent.task.lane is None


def test_the_reason_of_a_cancel_reaches_the_robot():
    agent = agent_with()
    user = Api(make_user("operator", username="fry", password=None))
    assert user("POST", f"/task/{agent.task_id}/cancel", {"reason": "Wet floor: go home"}).status_code == 202
    cancel = agent.renew().json()["cancel"]
    assert (cancel["by"], cancel["reason"]) == ("fry", "Wet floor: go home")


@pytest.mark.parametrize("verb", ["finish", "release"])
def test_a_text_that_is_too_long_is_cut_and_the_robot_is_heard(verb):
    agent = agent_with()
    if verb == "finish":
        error = {"type": "E" * 300, "message": "m" * 20_000}
        found = agent.finish("failed", error=error, retryable=False).json()
        assert found["status"] == "FAILURE"
        assert found["error"]["type"] == "E" * 199 + "…"
        assert found["error"]["message"] == "m" * 1999 + "…"
    else:
        found = agent.release(reason="r" * 3000).json()
        assert found["history"][-2]["note"] == "handed back: " + "r" * 499 + "…"


def test_a_report_with_texts_that_are_too_long_is_stored():
    agent = Agent.signed_in(make_robot(name="R2"))
    error = {"type": "t" * 300, "level": "fatal", "description": "d" * 3000, "hint": "h" * 3000}
    state = {"session": agent.session, "errors": [error], "load": {"description": "l" * 600}}
    assert agent.api("PUT", "/agent/state", state).status_code == 200
    shown = Api("viewer")("GET", "/robot/R2").json()["state"]
    assert [len(shown["errors"][0][name]) for name in ("type", "description", "hint")] == [200, 2000, 2000]
    assert shown["errors"][0]["description"].endswith("d…")
    assert len(shown["load"]["description"]) == 500


def test_a_failure_while_it_is_cancelled_is_not_repeated():
    agent = agent_with()
    services.cancel(agent.task, by="fry")
    assert agent.finish("failed").json()["status"] == "REVOKED"


def test_a_cancelled_task_may_still_succeed():
    agent = agent_with()
    services.cancel(agent.task, by="fry")
    assert agent.finish(**DONE).json()["status"] == "SUCCESS"


def test_a_cancel_that_nobody_asked_for_is_a_failure():
    agent = agent_with()
    answer = agent.finish("cancelled").json()
    assert (answer["status"], answer["error"]["message"]) == ("RETRY", "Cancelled by the robot")


def test_the_end_of_a_task_wakes_the_worker_of_the_next(bells):
    agent = agent_with()
    make_task(robot=agent.robot, handler="noop")
    bells()
    agent.finish(**DONE)
    assert [bell[:2] for bell in bells()] == [("tasks.run_next", agent.robot)]


def test_a_release_does_not_count():
    agent = agent_with(max_attempts=1)
    answer = agent.release(reason="the doors are locked")
    assert answer.json()["status"] == "QUEUED"
    assert answer.json()["history"][-2]["note"] == "handed back: the doors are locked"
    assert agent.release().status_code == 200
    assert (agent.task.attempts_left, agent.task.uncounted) == (1, 1)
    assert agent.claim().json()["attempt"] == 2


def test_a_release_may_wait():
    agent = agent_with()
    assert agent.release(reason="charging", delay=600).json()["status"] == "RETRY"
    assert agent.claim().status_code == 204


def test_a_task_is_released_ten_times_at_most():
    agent = agent_with()
    for _ in range(MAX_RELEASED):
        assert agent.release(reason="no").json()["status"] == "QUEUED"
        agent.take()
    answer = agent.release(reason="no").json()
    assert (answer["status"], answer["error"]["type"]) == ("FAILURE", "ReleasedTooOften")


def test_after_a_release_the_attempt_is_nobodys():
    agent = agent_with()
    agent.release()
    assert code(agent.renew()) == "attempt_lost"
    assert code(agent.finish(**DONE)) == "already_reported"
    assert agent.task.status == Status.QUEUED


@pytest.mark.parametrize("verb", ["renew", "finish", "release", "log"])
def test_other_robots_tasks_are_not_found(verb):
    mine, other = agent_with(), Agent.signed_in(make_robot())
    other.task_id, other.attempt = mine.task_id, 1
    more = {"finish": {"outcome": "failed"}, "log": {"first": 0, "lines": ["x"]}}.get(verb, {})
    assert other.call(verb, **more).status_code == 404
    other.task_id = str(make_task(robot=other.robot, handler="noop", status="STARTED", attempt=1).pk)
    assert other.call(verb, **more).status_code == 404


@pytest.mark.parametrize("verb", ["renew", "finish", "release", "log"])
def test_an_earlier_attempt_changes_nothing(verb):
    agent = agent_with()
    agent.finish("failed")
    Task.objects.get(pk=agent.task_id).promote()
    agent.take()
    before = agent.task
    agent.attempt = 1
    more = {"finish": {"outcome": "succeeded"}, "log": {"first": 0, "lines": ["x"]}}.get(verb, {})
    refused = agent.call(verb, **more)
    stored = {"attempt": 2, "outcome": None, "status": "STARTED"}
    if verb in ("finish", "release"):
        assert code(refused) == "already_reported"
        stored |= {"attempt": 1, "outcome": "failed"}
    else:
        assert code(refused) == "attempt_lost"
    assert refused.json()["stored"] == stored
    after = agent.task
    assert (after.history, after.lease_expires_at) == (before.history, before.lease_expires_at)
    assert after.log_lines().count() == 0


def test_lines_of_the_log_are_stored_once_and_without_gaps():
    agent = agent_with()
    assert agent.log(0, "one", "two").json() == {"next": 2}
    assert agent.log(1, "two", "three", "  ").json() == {"next": 4}
    assert agent.log(0, "one").json() == {"next": 4}
    assert agent.log(4).json() == {"next": 4}
    gap = agent.log(6, "seven")
    assert (code(gap), gap.json()["next"]) == ("lines_missing", 4)
    assert [line.text for line in agent.task.log_lines()] == ["one", "two", "three", "  "]
    agent.finish(**DONE)
    assert agent.log(4, "after the end").json() == {"next": 5}


def test_lines_beyond_the_most_that_are_kept_are_dropped_without_a_gap():
    agent = agent_with()
    with patch.object(agent_services, "MAX_LOG_LINES", 3):
        assert agent.log(0, "one", "two", "three", "four").json() == {"next": 4}
        assert agent.log(4, "five").json() == {"next": 5}
    assert [line.text for line in agent.task.log_lines()] == ["one", "two", "three"]


TIMED_OUT = "cancel asked for: ran longer than 60 s"


@pytest.mark.parametrize(
    ("note", "status"),
    [
        (TIMED_OUT, "FAILURE"),
        ("cancel asked for by FMV: ran longer than 60 s", "REVOKED"),  # a user may have that name
        ("cancel asked for by fry", "REVOKED"),
    ],
)
@pytest.mark.parametrize("reports", ["cancelled", "failed", "released", "restarted"])
def test_a_task_that_ran_for_too_long_fails_however_its_robot_ends_it(reports, note, status):
    agent = agent_with()
    agent.task.request_cancel(note)
    if reports == "restarted":
        agent.restarted()
    else:
        assert (agent.release() if reports == "released" else agent.finish(reports)).status_code == 200
    assert agent.task.status == status
    assert reports == "failed" or status == "REVOKED" or agent.task.error["type"] == "TimedOut"


class Unsure(BaseModel):
    degrees: float

    @field_validator("degrees")
    @classmethod
    def check(cls, value: float) -> float:
        raise KeyError(value)


def test_a_result_whose_check_breaks_is_a_failure_and_not_reported_for_ever():
    agent = agent_with()
    with patch.dict(registry._handlers, turn=dataclasses.replace(registry.get("turn"), result=Unsure)):
        answer = agent.finish(**DONE)
    assert answer.status_code == 200
    assert answer.json()["error"]["message"] == "Unsure cannot check it: KeyError: 90.0"


@pytest.mark.parametrize("wrong", [1e30, 2**63, 2**70, 1.5, True, "1", None, 0])
@pytest.mark.parametrize("verb", ["renew", "log", "finish", "release", "state"])
def test_an_attempt_is_a_whole_number(verb, wrong):
    agent = Agent.signed_in(make_robot())
    agent.task_id = str(uuid.uuid4())
    more = {"finish": {"outcome": "succeeded"}, "log": {"first": 0, "lines": []}}.get(verb, {})
    if verb == "state":
        refused = agent.api("PUT", "/agent/state", {"task": {"task_id": agent.task_id, "attempt": wrong}})
    else:
        refused = agent.call(verb, **more, attempt=wrong)
    assert refused.status_code == 422
    assert [problem["loc"][-1] for problem in refused.json()["detail"]] == ["attempt"]


@pytest.mark.parametrize(("verb", "field"), [("renew", "progress"), ("release", "delay"), ("log", "first")])
@pytest.mark.parametrize("wrong", ["5", True, -1, 1e30])
def test_numbers_are_numbers_and_within_bounds(verb, field, wrong):
    agent = Agent.signed_in(make_robot())
    agent.task_id, agent.attempt = str(uuid.uuid4()), 1
    refused = agent.call(verb, **{"lines": []} if verb == "log" else {}, **{field: wrong})
    assert refused.status_code == 422
    assert [problem["loc"][-1] for problem in refused.json()["detail"]] == [field]


def test_unknown_fields_are_ignored_and_wrong_ones_named():
    agent = agent_with()
    assert agent.renew(progress=1, mood="sunny").status_code == 200
    refused = agent.renew(progress=101, checkpoint="x" * 70_000)
    assert refused.status_code == 422
    assert {problem["loc"][-1] for problem in refused.json()["detail"]} == {"progress", "checkpoint"}
    assert agent.finish("done").status_code == 422
    assert agent.call("renew", attempt=1e300).status_code == 422
