"""A robot of which nothing is heard: what the sweeper and operators do, and what it may do when it is heard again."""

import re
import time
import uuid
from types import SimpleNamespace
from unittest.mock import patch

import pytest
from django.db import DatabaseError, connection
from pymongo.errors import ServerSelectionTimeoutError, WriteError

from fmv.mongodb.plan import planned_indexes
from fmv.monitoring import counters
from robots import agents
from tasks import jobs
from tasks.agents import services as agents_services
from tasks.models import Status, Task
from tasks.queue import periodic, robots_lost, services
from tasks.queue.errors import LaneNotBlocked, NotOutOfContact
from tests.support.agent_requests import Agent, code, submit
from tests.support.factories import make_robot, make_task
from tests.support.probes import before_nth, listening, make_task_in, statuses, take

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


def that_blocks_its_lane(sweeper, agent: Agent | None = None) -> Agent:
    """An agent whose last task was cancelled, which it does not confirm."""
    agent = agent or agent_with("grip")
    services.cancel(agent.task, by="fry")
    sweeper.after(0)
    sweeper.after(21)
    assert (agent.task.status, agent.task.lane is None) == (Status.REVOKED, False)
    return agent


@pytest.mark.parametrize("outcome", ["cancelled", "released"])
def test_a_robot_that_comes_back_is_asked_to_stop_and_its_lane_is_free_when_it_has(sweeper, outcome, bells):
    agent = that_blocks_its_lane(sweeper)
    make_task(robot=agent.robot, handler="noop")
    for _ in range(2):
        answer = agent.renew(progress=50)
        assert (answer.status_code, answer.json()["cancel"]["by"]) == (200, "fry")
        assert agent.log(0, "still on the way").json() == {"next": 1}
        assert (agent.task.lane, agent.task.progress) == (f"{agent.robot}/0", None)
        assert take(SimpleNamespace(name=agent.robot)) is None
    bells()
    ended = agent.release() if outcome == "released" else agent.finish(outcome)
    assert (ended.status_code, ended.json()["status"]) == (200, "REVOKED")
    assert [bell[1] for bell in bells()] == [agent.robot]
    task = agent.task
    assert (task.lane, task.reported) == (None, {"attempt": 1, "outcome": outcome})
    assert task.history[-1]["note"] == "stopped, as asked: its lane is free"
    again = agent.release() if outcome == "released" else agent.finish(outcome)
    assert (again.status_code, again.content) == (200, ended.content)
    assert take(SimpleNamespace(name=agent.robot))


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_another_end_of_it_frees_the_lane_too_and_changes_nothing_else(sweeper, outcome, bells):
    agent = that_blocks_its_lane(sweeper)
    make_task(robot=agent.robot, handler="noop")
    bells()
    for _ in range(2):
        answer = agent.finish(outcome)
        assert code(answer) == "attempt_lost"
        assert answer.json()["stored"] == {"attempt": 1, "outcome": None, "status": "REVOKED"}
    assert (agent.task.lane, agent.task.status, agent.task.reported) == (None, Status.REVOKED, None)
    assert [bell[1] for bell in bells()] == [agent.robot]


@pytest.mark.parametrize("asks", ["claim", "sign_in", "renew"])
def test_what_does_not_show_that_the_attempt_is_over_frees_no_lane(sweeper, asks):
    agent = that_blocks_its_lane(sweeper)
    blocked = agent.task
    submit(agent.robot)
    assert getattr(agent, asks)().status_code in (200, 204)
    assert agent.claim().status_code == 204
    assert Task.objects.get(pk=blocked.pk).lane == f"{agent.robot}/0"


def test_a_blocked_lane_is_free_when_the_agent_was_started_again(sweeper):
    agent = that_blocks_its_lane(sweeper)
    blocked, new = agent.task, submit(agent.robot)
    assert agent.restarted().json()["tasks"] == []
    assert Task.objects.get(pk=blocked.pk).history[-1]["note"] == "its agent was started again: its lane is free"
    assert agent.claim().json()["task"]["task_id"] == str(new.pk)


@pytest.mark.parametrize("look", [1, 2])
def test_so_is_one_that_becomes_blocked_while_it_signs_in(sweeper, look):
    agent = agent_with("grip")
    services.cancel(agent.task, by="fry")
    sweeper.after(0)
    with listening(before_nth(look, "aggregate tasks_task", lambda: sweeper.after(21))):
        assert agent.restarted().json()["tasks"] == []
    assert (agent.task.status, agent.task.lane) == (Status.REVOKED, None)


def test_a_claim_that_finds_all_lanes_blocked_tries_none(sweeper):
    agent = that_blocks_its_lane(sweeper)
    submit(agent.robot)
    with listening() as commands:
        assert agents_services.claim(agent.robot, agent.session, uuid.uuid4()) is None
    look = ["aggregate tasks_task", "aggregate tasks_task"]
    assert commands.sent == ["find robots_robotstate", *look]


def test_an_outcome_from_the_disk_frees_the_lane_before_the_agent_signs_in(sweeper):
    agent = that_blocks_its_lane(sweeper)
    agents.close_session(agent.robot, agent.session)
    assert agent.finish("cancelled").status_code == 200
    assert agent.task.lane is None


def test_a_new_session_of_the_same_start_can_confirm(sweeper):
    agent = that_blocks_its_lane(sweeper)
    agents.close_session(agent.robot, agent.session)
    agent.sign_in()
    assert agent.task.lane is not None
    assert agent.renew().json()["cancel"]["by"] == "fry"
    assert agent.finish("cancelled").status_code == 200
    assert agent.task.lane is None


def test_the_end_of_one_attempt_frees_its_lane_and_no_other(sweeper):
    agent = Agent.signed_in(make_robot(lanes=3))
    lanes = {}
    for _ in range(2):
        submit(agent.robot, "grip")
        agent.take()
        that_blocks_its_lane(sweeper, agent)
        lanes[agent.task_id] = agent.task.lane
    submit(agent.robot, "grip")
    running = agent.take().task_id
    first, second = lanes
    assert {task.lane for task in Task.blocking(agent.robot)} == set(lanes.values())
    agent.task_id = first
    agent.finish("succeeded")
    assert code(agent.renew()) == "attempt_lost"
    assert [str(task.pk) for task in Task.blocking(agent.robot)] == [second]
    agent.task_id = running
    assert agent.renew().status_code == 200


@pytest.mark.parametrize("handler", ["noop", "turn"])
def test_a_blocked_lane_beyond_those_that_the_robot_has_now_counts_until_it_is_free(sweeper, handler):
    agent = Agent.signed_in(make_robot(lanes=2))
    submit(agent.robot)
    other = agent.take().task
    submit(agent.robot, "grip")
    agent.take()
    that_blocks_its_lane(sweeper, agent)
    blocking = agent.task
    assert blocking.lane == f"{agent.robot}/1"
    agent.task_id = str(other.pk)
    assert agent.finish(result={"degrees": 1}).status_code == 200
    services.change_robot(agent.robot, by="amy", lanes=1)
    new = submit(agent.robot, handler)

    def start():
        return take(SimpleNamespace(name=agent.robot)) if handler == "noop" else agent.claim().content

    assert not start()
    assert blocking.free_lane("the robot stands still")
    assert start()
    assert Task.objects.get(pk=new.pk).lane == f"{agent.robot}/0"


def test_an_attempt_that_the_robot_has_not_confirmed_blocks_no_lane(sweeper):
    """It begins when it has renewed the first lease, so it has not begun."""
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, "grip")
    agent.claim()
    services.cancel(agent.task, by="fry")
    make_task(robot=agent.robot, handler="noop")
    sweeper.after(0)
    assert sweeper.after(16) == {"REVOKED": 1}
    assert agent.task.lane is None
    assert code(agent.renew()) == "attempt_lost"
    assert take(SimpleNamespace(name=agent.robot))


def test_it_costs_a_robot_with_many_revoked_tasks_no_more_than_another_to_find_what_blocks_its_lanes(sweeper):
    """The index `task_lane` holds the tasks that hold lanes. MongoDB uses it if the query contains its condition."""
    agent = that_blocks_its_lane(sweeper)
    Task.objects.bulk_create(
        Task(robot=agent.robot, handler="grip", timeout=1, requested_by="fry", status=status)
        for status in ("REVOKED", "FAILURE", "SUCCESS")
        for _ in range(100)
    )
    [index] = [index for index in planned_indexes(Task) if index["name"] == "task_lane"]
    for find in (lambda: Task.blocking(agent.robot), lambda: Task.lanes_held([agent.robot, "another"])):
        with listening() as commands:
            assert len(find()) == 1
        [command] = commands.bodies
        match = command["pipeline"][0]["$match"]
        assert command["hint"] == "task_lane"
        for column, condition in index["partialFilterExpression"].items():
            assert condition.items() <= match[column].items()
        explain = {
            "aggregate": command["aggregate"],
            "pipeline": command["pipeline"],
            "hint": "task_lane",
            "cursor": {},
        }
        plan = str(connection.database.command("explain", explain, verbosity="executionStats"))
        read = [int(number) for number in re.findall("'totalDocsExamined': ([0-9]+)", plan)]
        assert max(read, default=0) <= 1, plan


def test_an_operator_may_free_a_blocked_lane(sweeper, bells):
    agent = that_blocks_its_lane(sweeper)
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


def too_large() -> None:
    raise DatabaseError from WriteError("Resulting document after update is larger than 16777216", 17419)


def unreachable() -> None:
    raise DatabaseError from ServerSelectionTimeoutError("No servers found yet")


@pytest.mark.parametrize("handler", ["grip", "noop"])
def test_neither_does_one_whose_change_mongodb_refuses_unless_it_cannot_be_reached(sweeper, caplog, handler):
    wrong = make_task_in(Status.STARTED, robot=make_robot().name)
    sound = make_task_in(Status.STARTED, robot=make_robot().name)
    if handler == "grip":
        Task.objects.update(runs_on="robot", handler="grip", session="s")
    place, name = (robots_lost, "_act") if handler == "grip" else (periodic, "_recover")
    original = getattr(place, name)

    def fails(fault):
        return patch.object(place, name, lambda task, *how: fault() if task == wrong else original(task, *how))

    sweeper.after(0)
    with fails(unreachable), pytest.raises(DatabaseError):
        sweeper.after(61)
    with fails(too_large):
        sweeper.after(0)
    assert Task.objects.get(pk=sound.pk).error is not None
    assert Task.objects.get(pk=wrong.pk).error is None
    assert f"Task {wrong.pk} cannot be recovered" in caplog.text


@pytest.mark.parametrize("left", [0, 2])
def test_one_that_the_robot_does_not_stop_after_its_timeout_fails_and_keeps_its_lane(sweeper, left, bells):
    """It is not tried again, as no task that has timed out is."""
    agent = agent_with(sweeper=sweeper, max_attempts=1 + left)
    make_task(robot=agent.robot, handler="noop")
    for seconds in (25, 25, 21):
        sweeper.after(seconds)
        assert agent.renew().status_code == 200
    bells()
    sweeper.after(0)
    for seconds in (25, 25):
        assert sweeper.after(seconds) == {}
        assert agent.renew().json()["cancel"]["by"] == "FMV"
    assert sweeper.after(11) == {"FAILURE": 1}
    task = agent.task
    assert (task.status, task.lane) == (Status.FAILURE, f"{agent.robot}/0")
    assert (task.error["type"], task.error["message"]) == ("TimedOut", "Ran longer than 60 s")
    assert (
        task.history[-1]["note"]
        == "TimedOut: Ran longer than 60 s, not confirmed by the robot, so its lane stays blocked"
    )
    assert Task.blocking(agent.robot) == [task]
    assert bells() == []
    assert take(SimpleNamespace(name=agent.robot)) is None
    assert agent.renew().json()["cancel"]["reason"] == "ran longer than 60 s"
    assert agent.finish("cancelled").json()["status"] == "FAILURE"
    assert agent.task.lane is None
    assert take(SimpleNamespace(name=agent.robot))


def test_an_attempt_that_has_not_begun_does_not_time_out(sweeper):
    agent = Agent.signed_in(make_robot())
    submit(agent.robot, timeout=1)
    agent.claim()
    sweeper.after(0)
    assert sweeper.after(14) == {}
    assert sweeper.after(2) == {"RETRY": 1}
    assert (agent.task.status, agent.task.uncounted) == (Status.QUEUED, 1)


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


def rings(seconds: int) -> list[float]:
    """The times at which the sweeper rings, in so many seconds of its clock."""
    moment, rung = 1000.0, []
    with (
        patch.object(periodic, "_waits", {}),
        patch.object(periodic, "time", SimpleNamespace(monotonic=lambda: moment)),
    ):
        while moment < 1000.0 + seconds:
            if jobs.ring_waiting():
                rung.append(moment - 1000.0)
            moment += 5.0
    return rung


def test_the_sweeper_rings_once_for_a_robot_whose_agent_has_never_come():
    submit(make_robot())
    assert rings(100) == [5]


def test_it_rings_for_no_robot_whose_lane_is_blocked(sweeper):
    agent = that_blocks_its_lane(sweeper)
    make_task(robot=agent.robot, handler="noop")
    assert rings(100) == []
    agent.finish("cancelled")
    assert rings(20) == [5, 15]


def test_it_rings_for_the_lane_beside_one_that_is_blocked(sweeper, bells):
    agent = Agent.signed_in(make_robot(lanes=2))
    submit(agent.robot, "grip")
    that_blocks_its_lane(sweeper, agent.take())
    for _ in range(3):
        make_task(robot=agent.robot, handler="noop")
    bells()
    assert periodic.ring_waiting() == 1
    assert [bell[1] for bell in bells()] == [agent.robot]


def test_a_batch_rings_for_a_task_behind_one_that_runs_on_the_robot(bells):
    robot = make_robot()
    Agent.signed_in(robot)
    submit(robot)
    services.submit([{"robot": robot.name, "handler": "noop", "priority": 9}], by="amy")
    assert [bell[1] for bell in bells()] == [robot.name]
