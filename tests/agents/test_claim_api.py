"""POST /agent/claim: an agent asks for its robot's next task."""

import datetime as dt
import random
import uuid

import pytest

from tasks.agents import services as agents
from tasks.models import Status, Task
from tasks.queue import services
from tests.support.agent_requests import Agent, code, submit
from tests.support.factories import make_robot, make_task
from tests.support.probes import PAST, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def test_an_agent_runs_a_task_from_the_claim_to_its_end():
    agent = Agent.signed_in(make_robot(name="R2"))
    task = submit("R2", labels=["a"])
    claimed = agent.claim()
    assert claimed.status_code == 200
    body = claimed.json()
    assert body["task"]["task_id"] == str(task.pk)
    assert (body["task"]["status"], body["task"]["runs_on"], body["task"]["worker"]) == ("STARTED", "robot", "agent/R2")
    assert (body["attempt"], body["lease_seconds"], body["hold_seconds"], body["resumed"]) == (1, 15, 15, False)
    assert agent.task.lease_expires_at - agent.task.started_at == dt.timedelta(seconds=15)
    renewed = agent.renew(progress=40, message="turning", checkpoint={"at": 1})
    assert renewed.json() == {"lease_seconds": 30, "hold_seconds": 130, "cancel": None}
    stored = agent.task
    assert (stored.progress, stored.message, stored.checkpoint) == (40, "turning", {"at": 1})
    done = agent.finish(result={"degrees": 90})
    assert done.status_code == 200
    assert (done.json()["status"], done.json()["result"], done.json()["progress"]) == ("SUCCESS", {"degrees": 90}, 100)
    assert (agent.task.lane, agent.task.checkpoint, agent.task.lease_expires_at) == (None, None, None)
    assert [line["note"] for line in agent.task.history] == ["by amy", "by agent/R2", ""]


def test_the_same_claim_gets_the_same_attempt_and_its_first_lease_anew():
    agent = Agent.signed_in(make_robot(lanes=2))
    submit(agent.robot)
    submit(agent.robot)
    id = uuid.uuid4()
    first = agent.claim(id)
    Task.objects.filter(pk=agent.task_id).update(started_at=PAST, lease_expires_at=PAST + dt.timedelta(seconds=15))
    again = agent.claim(id)
    assert again.json()["task"]["task_id"] == first.json()["task"]["task_id"]
    assert (again.json()["attempt"], again.json()["lease_seconds"]) == (1, 15)
    assert agent.task.started_at > PAST
    assert agent.task.lease_expires_at - agent.task.started_at == dt.timedelta(seconds=15)
    assert agent.renew().status_code == 200
    assert agent.claim(id).json()["lease_seconds"] == 30
    assert agent.claim().json()["task"]["task_id"] != first.json()["task"]["task_id"]


def test_one_order_holds_over_both_kinds():
    robot = make_robot()
    agent = Agent.signed_in(robot)
    own = submit(robot)
    worker_task = make_task(robot=robot, handler="noop", priority=9)
    assert agent.claim().status_code == 204
    taken = take(robot)
    assert taken is not None
    assert taken.pk == worker_task.pk
    assert agent.claim().status_code == 204  # the lane is taken
    assert taken.succeed(None, "")
    assert take(robot) is None
    assert agent.claim().json()["task"]["task_id"] == str(own.pk)


def test_a_long_queue_of_both_kinds_is_run_in_one_order():
    robot = make_robot()
    agent = Agent.signed_in(robot)
    tasks = [submit(robot, random.choice(["carry", "noop"]), priority=random.randint(0, 9)) for _ in range(30)]
    order = []
    while len(order) < len(tasks):
        for _ in range(random.randint(0, 2)):  # whoever comes in vain changes nothing
            held = agents.claim(robot.name, agent.session, uuid.uuid4())
            if held:
                order.append(held.task.pk)
                agents.finish(robot.name, held.task.pk, agent.session, 1, "succeeded")
        if task := take(robot):
            order.append(task.pk)
            assert task.succeed(None, "")
    assert order == [task.pk for task in sorted(tasks, key=lambda task: (-task.priority, task.pk))]


def test_a_worker_leaves_a_task_of_the_robot_and_passes_no_message_on(bells):
    robot = make_robot()
    submit(robot)
    assert bells() == []
    make_task(robot=robot, handler="noop")
    assert take(robot) is None
    assert bells() == []


def test_out_of_service_no_claim_is_granted_and_what_runs_goes_on():
    agent = Agent.signed_in(make_robot())
    submit(agent.robot)
    submit(agent.robot)
    agent.take()
    services.take_out_of_service(agent.robot, by="amy")
    assert agent.renew().status_code == 200
    assert agent.finish(result={"degrees": 1}).status_code == 200
    refused = agent.claim()
    assert refused.status_code == 204
    assert 4 <= int(refused.headers["Retry-After"]) <= 6


def test_a_handler_that_the_agent_does_not_know_waits_and_so_do_those_behind_it():
    agent = Agent.signed_in(make_robot(), handlers=("grip",))
    submit(agent.robot, "turn")
    submit(agent.robot, "grip")
    assert agent.claim().status_code == 204


def test_an_expired_task_is_revoked_on_the_way_to_the_next():
    agent = Agent.signed_in(make_robot())
    late, task = submit(agent.robot), submit(agent.robot)
    Task.objects.filter(pk=late.pk).update(expires_at=PAST)
    assert agent.claim().json()["task"]["task_id"] == str(task.pk)
    assert Task.objects.get(pk=late.pk).status == Status.REVOKED


def remove_by_cancel(task, agent):
    services.cancel(task, by="fry")


def remove_by_move(task, agent):
    services.move(task, to=Agent.signed_in(make_robot()).robot, by="fry")


def remove_by_expiry(task, agent):
    Task.objects.filter(pk=task.pk).update(expires_at=PAST)
    assert agent.claim().status_code == 204


def start_beside(task, agent):
    services.change_robot(agent.robot, by="amy", lanes=2)
    assert agent.claim().status_code == 200


@pytest.mark.parametrize("act", [remove_by_cancel, remove_by_move, remove_by_expiry, start_beside])
def test_a_worker_comes_for_the_task_behind_one_of_the_robot_that_is_not_in_its_way_any_more(act, bells):
    agent = Agent.signed_in(make_robot())
    head = submit(agent.robot)
    make_task(robot=agent.robot, handler="noop")
    bells()
    act(head, agent)
    assert [robot for _, robot, _ in bells()] == [agent.robot]


def test_a_robot_with_two_lanes_runs_two_tasks():
    agent = Agent.signed_in(make_robot(lanes=2))
    for _ in range(3):
        submit(agent.robot)
    assert [agent.claim().status_code for _ in range(3)] == [200, 200, 204]
    assert sorted(Task.objects.started().values_list("lane", flat=True)) == [f"{agent.robot}/0", f"{agent.robot}/1"]


def test_a_claim_in_a_session_before_is_refused():
    agent = Agent.signed_in(make_robot())
    old = agent.session
    agent.restarted()
    submit(agent.robot)
    agent.session, new = old, agent.session
    assert code(agent.claim()) == "session_replaced"
    agent.session = new
    assert agent.claim().status_code == 200
