"""Holding the queue of a robot in service, and releasing it."""

import uuid

import pytest

import robots.services
from fmv import audit
from fmv.mongodb.counting import collection
from fmv.mongodb.server import server_now
from robots.errors import QueueHeld, UnknownRobot
from robots.models import Robot
from tasks.agents import services as agents
from tasks.models import Task
from tasks.queue import periodic, services
from tasks.queue.doorbell import ring_for
from tasks.worker.claim import run_next
from tests.support.agent_requests import Agent
from tests.support.agent_requests import submit as submit_on_robot
from tests.support.factories import make_robot, make_task
from tests.support.probes import at_once, fields_of, listening, started, statuses, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]


def hold(robot: Robot, by: str = "amy", why: str = "The lift is being repaired") -> Robot:
    return services.hold_queue(robot.name, by=by, why=why)


def submit(robot: Robot) -> Task:
    return services.submit({"robot": robot.name, "handler": "noop"}, by="test")


def stored(robot: Robot) -> Robot:
    return Robot.objects.get(pk=robot.pk)


def test_it_is_stored_with_who_since_when_and_why():
    robot = make_robot()
    before = server_now()
    held = hold(robot)
    assert (held.held_by, held.held_why, held.enabled) == ("amy", "The lift is being repaired", True)
    assert held.held_since is not None
    assert before <= held.held_since <= server_now()
    assert stored(robot).held_since == held.held_since
    assert held.revision == robot.revision + 1
    [entry] = audit.of("robot", robot.name)
    assert (entry.action, entry.by, entry.text) == ("robot.hold", "amy", "The lift is being repaired")


def test_nothing_new_starts_and_what_runs_goes_on(bells):
    robot = make_robot(lanes=2)
    runs, waits = started(robot=robot), make_task(robot=robot, handler="noop", params={})
    hold(robot)
    assert take(robot) is None
    run_next(robot.name, "message")
    assert periodic.ring_waiting() == 0
    ring_for([waits])
    assert bells() == []
    assert runs.succeed(None, "")
    assert [statuses(task)[-1:] for task in (runs, waits)] == [["SUCCESS"], []]


def test_it_takes_new_tasks_and_rings_for_none(bells):
    robot = make_robot()
    hold(robot)
    one = submit(robot)
    [other] = services.submit([{"robot": robot.name, "handler": "noop"}], by="test")
    assert bells() == []
    assert take(robot) is None
    assert [statuses(task) for task in (one, other)] == [["QUEUED"], ["QUEUED"]]


def test_an_agent_is_given_nothing_new_and_renews_what_it_runs():
    robot = make_robot(lanes=2)
    agent = Agent.signed_in(robot)
    submit_on_robot(robot)
    agent.take()
    waits = submit_on_robot(robot)
    hold(robot)
    assert agents.claim(robot.name, agent.session, uuid.uuid4()) is None
    assert agent.renew(progress=50).status_code == 200
    assert agent.finish(result={}).status_code == 200
    assert agent.claim().status_code == 204
    services.release_queue(robot.name, by="amy")
    assert agent.claim().json()["task"]["task_id"] == str(waits.pk)


def test_released_it_goes_on_at_once(bells):
    robot = make_robot(lanes=2)
    hold(robot)
    task = submit(robot)
    released = services.release_queue(robot.name, by="leela")
    assert (released.held_since, released.held_by, released.held_why) == (None, "", "")
    assert bells() == [("tasks.run_next", robot.name, 4)] * 2
    run_next(robot.name, "message")
    assert statuses(task)[-1] == "SUCCESS"
    entry = audit.of("robot", robot.name)[0]
    assert (entry.action, entry.by) == ("robot.release", "leela")
    assert entry.text.startswith("it was held by amy (“The lift is being repaired”) since 20")


def test_released_out_of_service_it_waits(bells):
    robot = make_robot()
    hold(robot)
    submit(robot)
    services.take_out_of_service(robot.name, by="amy")
    services.release_queue(robot.name, by="amy")
    assert bells() == []
    assert take(robot) is None


def test_put_in_service_it_is_still_held(bells):
    robot = make_robot(enabled=False)
    make_task(robot=robot)
    hold(robot)
    services.put_in_service(robot.name, by="amy")
    services.change_robot(robot.name, by="amy", lanes=2)
    robots.services.replace(robot.name, by="amy", location="x", description="y")
    assert stored(robot).held_by == "amy"
    assert bells() == []
    assert take(robot) is None


def test_the_same_hold_again_changes_nothing_and_another_is_refused():
    robot = make_robot()
    first = hold(robot)
    assert fields(hold(robot)) == fields(first)
    for other in ({"by": "fry"}, {"why": "Another reason"}):
        with pytest.raises(QueueHeld, match=r"held by amy .“The lift is being repaired”. since .* UTC. Release it"):
            hold(robot, **other)
    assert fields(stored(robot)) == fields(first)
    assert len(audit.of("robot", robot.name)) == 1


def fields(robot: Robot) -> dict[str, object]:
    return {field.attname: getattr(robot, field.attname) for field in Robot._meta.fields}


def test_a_queue_that_is_not_held_is_released_without_a_trace(bells):
    robot = make_robot()
    make_task(robot=robot)
    assert fields(services.release_queue(robot.name, by="amy")) == fields(stored(robot))
    assert bells() == []
    assert not audit.of("robot", robot.name)


def test_an_unknown_robot_has_no_queue():
    for act in (services.hold_queue, services.release_queue):
        with pytest.raises(UnknownRobot):
            act("Nobody", by="amy")


def test_a_robot_that_is_stored_since_before_holds_could_be_is_not_held():
    robot = make_robot()
    collection(Robot).update_one({"_id": robot.name}, {"$unset": {"held_since": 1, "held_by": 1, "held_why": 1}})
    task = submit(robot)
    assert stored(robot).starts_tasks
    assert list(Robot.objects.starting()) == [stored(robot)]
    assert hold(robot).held_by == "amy"
    services.release_queue(robot.name, by="amy")
    claimed = take(robot)
    assert claimed is not None
    assert claimed.pk == task.pk


def test_two_hold_it_and_one_wins():
    for _ in range(6):
        robot = make_robot()

        def try_to_hold(by: str, robot: Robot = robot) -> str:
            try:
                return hold(robot, by=by).held_by
            except QueueHeld as error:
                return str(error)

        answers = at_once(lambda: try_to_hold("amy"), lambda: try_to_hold("bob"))
        winner = stored(robot).held_by
        assert answers.count(winner) == 1
        assert len(audit.of("robot", robot.name)) == 1


def test_hold_against_claim():
    for _ in range(12):
        robot = make_robot()
        task = make_task(robot=robot)
        claimed, _ = at_once(lambda robot=robot: take(robot), lambda robot=robot: hold(robot))
        assert statuses(task) == (["STARTED"] if claimed else [])
        assert take(robot) is None


def test_a_claim_costs_no_command_more_for_it():
    robot = make_robot()
    submit(robot)
    hold(robot)
    with listening() as commands:
        run_next(robot.name, "message")
    assert commands.sent == ["aggregate tasks_task"]


def test_it_changes_no_task():
    robot = make_robot()
    task = submit(robot)
    before = fields_of(task)
    hold(robot)
    services.release_queue(robot.name, by="amy")
    assert fields_of(task) == before
