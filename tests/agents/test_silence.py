"""A robot of which nothing is heard: what the sweeper and operators do, and what it may do when it is heard again."""

import time
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from django.db import connection

from fmv.monitoring import counters
from tasks.models import Status, Task
from tasks.queue import periodic, robots_lost, services
from tasks.queue.errors import LaneNotBlocked, NotOutOfContact
from tests.support.agent_requests import Agent, code, submit
from tests.support.factories import make_robot, make_task
from tests.support.probes import statuses, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


class Sweeper:
    """The sweeper, whose clock a test sets on: `sweeper.after(15)`."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def after(self, seconds: float) -> dict[str, int]:
        self.ahead += seconds
        return periodic.recover_lost()


@pytest.fixture
def sweeper():
    made = Sweeper()
    periodic._sights.clear()
    with patch.object(periodic, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + made.ahead)):
        yield made
    periodic._sights.clear()


def agent_with(handler: str = "turn", *, sweeper: Sweeper | None = None, **options) -> Agent:
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, handler, **options)
    agent.take()
    if sweeper:
        assert sweeper.after(0) == {}
    return agent


def test_a_silent_robot_keeps_its_task_until_it_was_silent_for_too_long(sweeper):
    agent = agent_with(sweeper=sweeper)
    assert sweeper.after(29) == {}
    assert sweeper.after(2) == {"STARTED": 1}
    task = agent.task
    assert (task.status, task.lane) == (Status.STARTED, f"{agent.robot}/0")
    assert task.out_of_contact_since is not None
    assert task.history[-1]["note"] == "its robot is out of contact"
    assert Task.objects.out_of_contact().get() == task
    assert sweeper.after(98) == {}
    assert sweeper.after(3) == {"RETRY": 1}
    task = agent.task
    assert (task.lane, task.out_of_contact_since, task.error["type"]) == (None, None, "AgentLost")
    assert task.error["message"] == "The robot was silent for more than 130 s"
    assert counters.read()["agent_leases_lost"] == 1


def test_a_robot_that_is_heard_again_goes_on(sweeper):
    agent = agent_with(sweeper=sweeper)
    sweeper.after(31)
    answer = agent.renew(progress=70)
    assert answer.status_code == 200
    task = agent.task
    assert (task.out_of_contact_since, task.progress, task.history[-1]["note"]) == (
        None,
        70,
        "its robot is in contact again",
    )
    assert sweeper.after(29) == {}
    assert agent.finish(result={"degrees": 1}).json()["attempt"] == 1


@pytest.mark.parametrize("waits", ["RETRY", "QUEUED"])
def test_an_attempt_that_was_given_up_is_the_robots_again_while_no_later_one_has_begun(sweeper, waits):
    agent = agent_with(sweeper=sweeper)
    sweeper.after(31)
    sweeper.after(100)
    if waits == "QUEUED":
        Task.objects.get(pk=agent.task_id).promote()
    assert agent.renew(message="back").status_code == 200
    task = agent.task
    assert (task.status, task.attempt, task.lane, task.run_at) == ("STARTED", 1, f"{agent.robot}/0", None)
    assert (task.message, task.error) == ("back", None)
    assert task.history[-1]["note"] == "its robot is in contact again and goes on"
    assert agent.finish(result={"degrees": 1}).json()["status"] == "SUCCESS"


def test_the_outcome_of_an_attempt_that_was_given_up_counts(sweeper):
    agent = agent_with(sweeper=sweeper)
    sweeper.after(31)
    sweeper.after(100)
    assert agent.finish(result={"degrees": 1}).json()["status"] == "SUCCESS"
    assert agent.task.attempt == 1
    assert agent.task.run_at is None
    assert statuses(agent.task)[-2:] in (["RETRY", "SUCCESS"], ["QUEUED", "SUCCESS"])


def test_it_is_lost_once_a_later_attempt_has_begun(sweeper):
    agent = agent_with(sweeper=sweeper)
    sweeper.after(31)
    sweeper.after(100)
    Task.objects.get(pk=agent.task_id).promote()
    agent.claim()
    agent.attempt = 1
    assert code(agent.renew()) == "attempt_lost"
    assert code(agent.finish(result={"degrees": 1})) == "attempt_lost"


def test_it_is_lost_once_another_task_has_the_lane(sweeper):
    agent = agent_with(sweeper=sweeper)
    sweeper.after(31)
    sweeper.after(100)
    make_task(robot=agent.robot, handler="noop", priority=9)
    assert take(SimpleNamespace(name=agent.robot))
    assert code(agent.renew()) == "attempt_lost"


def test_a_claim_that_is_not_confirmed_goes_back_to_the_queue_uncounted(sweeper):
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, max_attempts=1)
    agent.claim()
    sweeper.after(0)
    assert sweeper.after(14) == {}
    assert sweeper.after(2) == {"RETRY": 1}
    task = agent.task
    assert (task.status, task.uncounted, task.attempts_left) == (Status.QUEUED, 1, 1)
    assert agent.renew().status_code == 200  # it has the task after all
    task = agent.task
    assert (task.status, task.attempt, task.uncounted, task.attempts_left) == (Status.STARTED, 1, 0, 0)
    assert agent.finish("failed").json()["status"] == "FAILURE"


@pytest.mark.parametrize(
    ("report", "status"),
    [({"outcome": "failed"}, "FAILURE"), ({"outcome": "succeeded", "result": {"degrees": 1}}, "SUCCESS")],
)
@pytest.mark.parametrize("promoted", [True, False])
def test_an_outcome_of_an_attempt_that_was_handed_back_counts_the_attempt(sweeper, report, status, promoted):
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, max_attempts=1)
    agent.claim()
    sweeper.after(0)
    sweeper.after(16)
    if not promoted:
        Task.objects.filter(pk=agent.task_id).update(status=Status.RETRY)
    assert agent.task.attempts_left == 1
    assert agent.finish(**report).json()["status"] == status
    assert agent.task.uncounted == 0


def test_an_attempt_that_is_regained_is_counted_once(sweeper):
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, max_attempts=3)
    agent.claim()
    sweeper.after(0)
    sweeper.after(16)
    agent.renew()
    sweeper.after(0)
    sweeper.after(31)
    sweeper.after(100)
    assert agent.task.error["type"] == "AgentLost"
    assert agent.renew().status_code == 200
    assert (agent.task.attempt, agent.task.uncounted) == (1, 0)


@pytest.mark.parametrize(("handler", "status"), [("grip", "RETRY"), ("pour", "FAILURE")])
def test_a_handler_may_give_a_silent_robot_up_at_once(sweeper, handler, status):
    agent = agent_with(handler, sweeper=sweeper)
    assert sweeper.after(59) == {}
    assert sweeper.after(2) == {status: 1}
    assert agent.task.error["type"] == "AgentLost"


def test_a_cancel_that_the_robot_does_not_confirm_ends_the_task_and_blocks_the_lane(sweeper):
    agent = agent_with("grip")
    services.cancel(agent.task, by="fry")
    sweeper.after(0)
    assert sweeper.after(19) == {}
    assert sweeper.after(2) == {"REVOKED": 1}
    task = agent.task
    assert task.lane == f"{agent.robot}/0"
    assert task.history[-1]["note"] == "not confirmed by the robot, so its lane stays blocked"
    make_task(robot=agent.robot, handler="noop")
    assert take(SimpleNamespace(name=agent.robot)) is None
    assert code(agent.renew()) == "attempt_lost"  # it has spoken
    assert agent.task.lane is None
    assert agent.task.history[-1]["note"] == "the robot was heard: its lane is free"
    assert take(SimpleNamespace(name=agent.robot))


@pytest.mark.parametrize("speaks", ["sign_in", "claim"])
def test_a_blocked_lane_is_free_when_the_agent_asks_for_work(sweeper, speaks):
    agent = agent_with("grip")
    services.cancel(agent.task, by="fry")
    sweeper.after(0)
    sweeper.after(21)
    blocked = agent.task
    new = submit(agent.robot)
    if speaks == "sign_in":
        assert agent.restarted().json()["tasks"] == []
    assert agent.claim().json()["task"]["task_id"] == str(new.pk)
    assert Task.objects.get(pk=blocked.pk).lane is None


def test_an_operator_may_free_a_blocked_lane(sweeper, bells):
    agent = agent_with("grip")
    services.cancel(agent.task, by="fry")
    sweeper.after(0)
    sweeper.after(21)
    make_task(robot=agent.robot, handler="noop")
    bells()
    robots_lost.free_lane(agent.task, by="amy")
    assert agent.task.history[-1]["note"] == "the robot stands still: lane freed by amy"
    assert [bell[1] for bell in bells()] == [agent.robot]
    with pytest.raises(LaneNotBlocked):
        robots_lost.free_lane(agent.task, by="amy")


def test_an_operator_need_not_wait_for_a_silent_robot(sweeper):
    agent = agent_with(sweeper=sweeper)
    with pytest.raises(NotOutOfContact):
        robots_lost.end_silent(agent.task, by="amy")
    sweeper.after(31)
    assert robots_lost.end_silent(agent.task, by="amy") == Status.RETRY
    assert agent.task.error["message"] == "The robot was out of contact, and amy did not wait longer"


def test_a_task_that_runs_longer_than_its_timeout_is_cancelled_and_fails(sweeper):
    agent = agent_with(sweeper=sweeper)
    sweeper.after(25)
    agent.renew()
    sweeper.after(25)
    agent.renew()
    assert sweeper.after(21) == {"STARTED": 1}
    cancel = agent.renew().json()["cancel"]
    assert (cancel["by"], cancel["reason"]) == ("FMV", "ran longer than 60 s")
    answer = agent.finish("cancelled").json()
    assert (answer["status"], answer["error"]["type"]) == ("FAILURE", "TimedOut")


@pytest.mark.parametrize("broken", ["max_attempts", "timeout"])
def test_a_task_that_somebody_has_changed_by_hand_does_not_hold_up_the_others(sweeper, caplog, broken):
    wrong, sound = agent_with("grip"), agent_with("grip")
    tasks = connection.database[Task._meta.db_table]
    assert tasks.update_one({"_id": wrong.task.pk.hex}, {"$set": {broken: None}}).modified_count
    sweeper.after(0)
    sweeper.after(29)
    sound.renew()
    sweeper.after(0)
    assert sweeper.after(61) == {"RETRY": 1 if broken == "max_attempts" else 2}
    assert sound.task.error["type"] == "AgentLost"
    assert f"Task {wrong.task_id} cannot be recovered" in caplog.text


def test_the_end_of_a_worker_process_ends_no_task_of_a_robot():
    agent = agent_with()
    assert periodic.recover_from(f"agent/{agent.robot}", "") == {}
    assert agent.task.status == Status.STARTED


def test_the_sweeper_rings_for_no_robot_whose_next_task_runs_on_it(bells):
    robot, mixed = make_robot(), make_robot()
    Agent.signed_in(robot)
    Agent.signed_in(mixed)
    submit(robot)
    submit(mixed)
    make_task(robot=mixed, handler="noop", priority=9)
    bells()
    assert periodic.ring_waiting() == 1
    assert [bell[1] for bell in bells()] == [mixed.name]


def test_a_batch_rings_for_a_task_behind_one_that_runs_on_the_robot(bells):
    robot = make_robot()
    Agent.signed_in(robot)
    submit(robot)
    services.submit([{"robot": robot.name, "handler": "noop", "priority": 9}], by="amy")
    assert [bell[1] for bell in bells()] == [robot.name]
