"""Agents, workers, the sweeper and users at the same time: one of them wins, and the others change nothing."""

import uuid
from types import SimpleNamespace

import pytest

from robots.errors import SessionReplaced
from tasks.agents import services as agents
from tasks.agents.errors import AlreadyReported, AttemptLost
from tasks.models import Status, Task
from tasks.queue import periodic, robots_lost, services
from tests.support.agent_requests import Agent, submit
from tests.support.factories import make_robot, make_task
from tests.support.probes import at_once, before_nth, listening, statuses, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]
DONE = {"degrees": 1}


def agent_with(**options) -> Agent:
    agent = Agent.signed_in(make_robot(**options))
    submit(agent.robot)
    return agent.take()


def outcome_of(act) -> str:
    try:
        return f"{act().status}"
    except (AttemptLost, AlreadyReported) as error:
        return error.code


@pytest.mark.parametrize("lanes", [1, 3])
def test_many_claims_at_once_start_each_task_once(lanes):
    agent = Agent.signed_in(make_robot(lanes=lanes))
    for _ in range(3):
        submit(agent.robot)
    claims = [lambda: agents.claim(agent.robot, agent.session, uuid.uuid4()) for _ in range(6)]
    started = [held.task.pk for held in at_once(*claims) if held]
    assert len(started) == len(set(started)) == lanes == Task.objects.started().count()


def test_the_same_claim_twice_at_once_starts_one_task():
    agent = Agent.signed_in(make_robot())
    submit(agent.robot)
    submit(agent.robot)
    id = uuid.uuid4()
    held = at_once(*[lambda: agents.claim(agent.robot, agent.session, id) for _ in range(4)])
    assert {each.task.pk for each in held if each} == {Task.objects.started().get().pk}
    assert Task.objects.started().get().attempt == 1


@pytest.mark.parametrize("more", [True, False])
@pytest.mark.parametrize("moment", [(1, "aggregate tasks_task"), (2, "aggregate tasks_task"), (1, "update tasks_task")])
def test_the_same_claim_twice_starts_one_task_however_the_two_interleave(moment, more):
    """`more`: meanwhile another lane becomes free, and another task is the next."""
    agent = Agent.signed_in(make_robot(lanes=3))
    submit(agent.robot)
    agent.take()
    other, id, first = agent.task, uuid.uuid4(), []
    for _ in range(3):
        submit(agent.robot)

    def meanwhile() -> None:
        if more:
            agents.finish(agent.robot, other.pk, agent.session, 1, "succeeded", result=DONE)
            submit(agent.robot, priority=9)
        first.append(agents.claim(agent.robot, agent.session, id))

    with listening(before_nth(*moment, meanwhile)):
        second = agents.claim(agent.robot, agent.session, id)
    assert first[0].task.pk == second.task.pk == Task.objects.started().exclude(pk=other.pk).get().pk
    assert {task.attempts_left for task in Task.objects.queued()} == {second.task.max_attempts}


def test_the_same_claim_many_times_at_once_starts_one_task_on_several_lanes():
    agent = Agent.signed_in(make_robot(lanes=4))
    for _ in range(4):
        submit(agent.robot)
    id = uuid.uuid4()
    held = at_once(*[lambda: agents.claim(agent.robot, agent.session, id) for _ in range(4)])
    assert {each.task.pk for each in held if each} == {Task.objects.started().get().pk}


def test_a_worker_and_an_agent_never_share_a_lane():
    robot = make_robot()
    agent = Agent.signed_in(robot)
    for handler in ("turn", "noop", "turn", "noop"):
        submit(robot, handler)
    for _ in range(4):
        by_worker = [lambda: take(SimpleNamespace(name=robot.name))] * 2
        at_once(*by_worker, *[lambda: agents.claim(robot.name, agent.session, uuid.uuid4())] * 2)
        running = Task.objects.started().get()
        if running.runs_on == "robot":
            agents.finish(robot.name, running.pk, agent.session, running.attempt, "succeeded", result=DONE)
        else:
            assert running.succeed(None, "")
    assert [statuses(task) for task in Task.objects.all()] == [["QUEUED", "STARTED", "SUCCESS"]] * 4


def test_two_outcomes_at_once_are_one():
    agent = agent_with()
    finish = [
        lambda outcome=outcome: agents.finish(
            agent.robot, agent.task.pk, agent.session, 1, outcome, result=DONE, retryable=False
        )
        for outcome in ("succeeded", "failed", "succeeded", "failed")
    ]
    found = at_once(*[lambda act=act: outcome_of(act) for act in finish])
    won = agent.task.status
    assert won in (Status.SUCCESS, Status.FAILURE)
    assert sorted(found) == sorted([won, won, "already_reported", "already_reported"])


def test_a_robot_that_is_heard_while_the_sweeper_decides_wins():
    agent = agent_with()
    read = Task.objects.get(pk=agent.task_id)
    assert agent.renew().status_code == 200
    for verdict in (robots_lost.Verdict.LOSE_CONTACT, robots_lost.Verdict.END, robots_lost.Verdict.RELEASE):
        assert robots_lost.recover(read, verdict) is None
    services.cancel(agent.task, by="fry")
    read = Task.objects.get(pk=agent.task_id)
    assert agent.renew().status_code == 200
    assert robots_lost.recover(read, robots_lost.Verdict.STOP) is None
    assert agent.task.status == Status.STARTED


def test_an_outcome_that_meets_a_cancel_is_stored_all_the_same():
    agent = agent_with()

    def cancel() -> None:
        assert Task.objects.get(pk=agent.task_id).request_cancel("cancel asked for by fry")

    with listening(before_nth(1, "update tasks_task", cancel)):
        task = agents.finish(agent.robot, agent.task.pk, agent.session, 1, "failed")
    assert (task.status, task.reported) == (Status.REVOKED, {"attempt": 1, "outcome": "failed"})


@pytest.mark.parametrize("handler", ["turn", "patrol"])
@pytest.mark.parametrize("moment", ["before the start", "after the start"])
def test_a_session_that_ends_during_a_claim_gets_no_task(moment, handler):
    agent = Agent.signed_in(make_robot())
    task = submit(agent.robot, handler, max_attempts=1)
    old, answers = agent.session, []
    command = (1, "update tasks_task") if moment == "before the start" else (2, "find robots_robotstate")
    with (
        listening(before_nth(*command, lambda: answers.append(agent.restarted()))),
        pytest.raises(SessionReplaced),
    ):
        agents.claim(agent.robot, old, uuid.uuid4())
    stored = Task.objects.get(pk=task.pk)
    if answers[0].json()["tasks"]:  # the new session has it, because its handler can go on
        assert (stored.status, stored.session, handler) == (Status.STARTED, agent.session, "patrol")
    else:
        assert (stored.status, stored.attempts_left) == (Status.QUEUED, 1)
        assert agent.claim().json()["task"]["task_id"] == str(task.pk)


def test_a_robot_that_is_deleted_has_no_task_that_runs():
    from tasks.queue.errors import RobotHasWork

    agent = agent_with()
    with pytest.raises(RobotHasWork):
        services.delete_robot(agent.robot, by="amy")
    agent.finish(result=DONE)
    services.delete_robot(agent.robot, by="amy")
    assert periodic.recover_lost() == {}
    make_task(robot=agent.robot, handler="turn", runs_on="robot")
    assert periodic.ring_waiting() == 1  # the worker that comes ends it
    assert take(SimpleNamespace(name=agent.robot)) is None
    assert Task.objects.get().status == Status.FAILURE
