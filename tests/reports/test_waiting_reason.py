"""Why a task waits: each reason, in the order in which workers and agents look."""

import datetime as dt

import pytest

from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import id_at
from robots import absences, agents
from robots.models import Robot, RobotState
from tasks.models import Status, Task
from tasks.queue import services
from tasks.reports import waiting_reason
from tasks.reports.remedies import LABELS
from tests.support.factories import make_process, make_robot, make_task
from tests.support.probes import PAST, listening, make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

MINUTE = dt.timedelta(minutes=1)


@pytest.fixture(autouse=True)
def a_worker():
    make_process("host/1", ago=-3600, handlers=["wait@1"])


def ago(minutes: float) -> dt.datetime:
    return server_now() - minutes * MINUTE


def queued(robot: str, minutes: float = 0, **fields) -> Task:
    return make_task(robot=robot, id=id_at(ago(minutes)), **fields)


def running(robot: str, worker: str = "host/1", lane: int = 0, **fields) -> Task:
    return make_task_in(Status.STARTED, **{"robot": robot, "worker": worker, "lane": f"{robot}/{lane}"} | fields)


def why(task: Task) -> waiting_reason.Waiting:
    waiting = waiting_reason.of_task(task)
    assert waiting is not None
    assert waiting.reason in waiting_reason.REASONS
    assert waiting.remedy is None or waiting.remedy.do in LABELS
    assert not waiting.text.endswith(".")
    return waiting


# --- Its time --------------------------------------------------------------------------------------------------------


def test_a_scheduled_task_waits_for_its_time():
    later = server_now().replace(microsecond=0) + 60 * MINUTE
    waiting = why(make_task(status="SCHEDULED", run_at=later))
    assert (waiting.reason, waiting.until, waiting.is_urgent) == ("scheduled", later, False)
    assert waiting.sentence == f"It waits for its time, until {later:%Y-%m-%d %H:%M:%S} UTC."


def test_a_failed_attempt_waits_for_the_next():
    waiting = why(make_task_in(Status.RETRY, run_at=server_now() + MINUTE))
    assert (waiting.reason, waiting.text) == ("retry", "Attempt 1 is over, and the next one waits")


@pytest.mark.parametrize(("status", "reason"), [(Status.SCHEDULED, "scheduled"), (Status.RETRY, "retry")])
def test_a_task_whose_time_has_just_come_waits_until_no_time_that_is_over(status, reason):
    due = server_now().replace(microsecond=0) - dt.timedelta(seconds=5)
    waiting = why(make_task_in(status, run_at=due))
    assert (waiting.reason, waiting.since, waiting.until, waiting.is_urgent) == (reason, due, None, False)
    assert waiting.text == "Its time has come, and it is queued in a moment"


@pytest.mark.parametrize("status", [Status.SCHEDULED, Status.RETRY])
def test_a_task_whose_time_has_come_and_that_nobody_queues(status):
    waiting = why(make_task_in(status, run_at=PAST))
    assert (waiting.reason, waiting.since, waiting.is_urgent) == ("overdue", PAST, True)


@pytest.mark.parametrize("status", [Status.STARTED, Status.SUCCESS, Status.FAILURE, Status.REVOKED])
def test_what_does_not_wait_has_no_reason(status):
    assert waiting_reason.of_task(make_task_in(status)) is None


# --- Its robot and its lanes -----------------------------------------------------------------------------------------


def test_a_robot_that_was_deleted():
    assert why(queued("Gone")).reason == "robot_gone"


def test_a_queue_that_somebody_holds():
    held = services.hold_queue(make_robot(name="Marvin").name, by="fry", why="The lift is being repaired")
    running("Marvin")
    first, second = queued("Marvin", minutes=5), queued("Marvin")
    for task in (first, second):
        waiting = why(task)
        assert waiting.reason == "queue_held"
        assert waiting.text == "The queue of the robot is held by fry (“The lift is being repaired”)"
        assert (waiting.since, waiting.first, waiting.is_urgent) == (held.held_since, None, False)
        assert waiting.remedy is not None
        assert (waiting.remedy.do, waiting.remedy.robot) == ("release_queue", "Marvin")
    services.take_out_of_service("Marvin", by="fry")
    assert why(first).reason == "out_of_service"


def test_a_robot_out_of_service_since_somebody_took_it_out():
    make_robot(name="Marvin")
    before = server_now().replace(microsecond=0)
    services.take_out_of_service("Marvin", by="fry")
    waiting = why(queued("Marvin"))
    assert (waiting.reason, waiting.text) == ("out_of_service", "The robot is out of service")
    assert waiting.since is not None
    assert before - MINUTE < waiting.since < before + MINUTE
    assert waiting.remedy is not None
    assert (waiting.remedy.do, waiting.remedy.robot) == ("put_in_service", "Marvin")


def test_a_change_of_a_robot_out_of_service_does_not_change_since_when_it_is_so():
    Robot.objects.filter(pk=make_robot(name="Marvin", enabled=False).pk).update(updated_at=PAST)
    absences.note()
    Robot.objects.update(updated_at=ago(1))
    assert why(queued("Marvin")).sentence == "The robot is out of service, since 2020-01-01 00:00:00 UTC."


def test_a_robot_that_runs_another_task():
    make_robot(name="Marvin")
    other = running("Marvin")
    waiting = why(queued("Marvin"))
    assert (waiting.reason, waiting.since, waiting.task) == ("robot_busy", other.started_at, other.pk)
    assert waiting.text == f"The robot runs wait …{str(other.pk)[-8:]}"


def test_a_robot_whose_lanes_are_all_in_use_names_the_task_that_runs_longest():
    make_robot(name="Marvin", lanes=2)
    new, old = running("Marvin", started_at=ago(1)), running("Marvin", lane=1, started_at=ago(5))
    waiting = why(queued("Marvin"))
    assert waiting.text == f"All 2 lanes of the robot are in use, the longest by wait …{str(old.pk)[-8:]}"
    Task.objects.filter(pk=new.pk).update(status="SUCCESS", lane=None)
    assert why(queued("Marvin")).reason != "robot_busy"


def test_a_robot_out_of_contact_that_may_still_run_a_task():
    make_robot(name="Marvin")
    other = running("Marvin", runs_on="robot", out_of_contact_since=PAST)
    waiting = why(queued("Marvin"))
    assert (waiting.reason, waiting.since, waiting.is_urgent) == ("out_of_contact", PAST, True)
    assert waiting.remedy is not None
    assert (waiting.remedy.do, waiting.remedy.task) == ("end", other.pk)


def test_a_lane_that_a_robot_has_not_confirmed_to_be_free():
    make_robot(name="Marvin")
    other = make_task_in(Status.REVOKED, robot="Marvin", lane="Marvin/0", runs_on="robot")
    waiting = why(queued("Marvin"))
    assert (waiting.reason, waiting.since) == ("lane_blocked", PAST)
    assert waiting.remedy is not None
    assert (waiting.remedy.do, waiting.remedy.task) == ("free_lane", other.pk)


# --- The task before it ----------------------------------------------------------------------------------------------


def test_an_older_task_is_first_and_the_reason_is_why_that_one_waits():
    make_robot(name="Marvin")
    first, second = queued("Marvin", 2), queued("Marvin", 1)
    running("Elsewhere")
    assert why(first).first is None
    waiting = why(second)
    assert waiting.reason == "workers_busy"
    assert waiting.first is not None
    assert waiting.first.pk == first.pk
    short = f"wait …{str(first.pk)[-8:]}"
    assert waiting.sentence.startswith(
        f"An older task is first: {short}. The only worker is busy with wait for Elsewhere"
    )


def test_a_task_of_higher_priority_is_first():
    make_robot(name="Marvin")
    old, urgent = queued("Marvin", 2), queued("Marvin", 1, priority=9)
    assert why(old).before == "A task of higher priority is first"
    assert why(urgent).first is None


# --- Workers ---------------------------------------------------------------------------------------------------------


def test_both_workers_are_busy_since_the_second_became_so():
    make_robot(name="Marvin"), make_process("host/2", handlers=["wait@1"])
    old, new = running("A", started_at=ago(11)), running("B", "host/2", handler="noop", started_at=ago(9))
    waiting = why(queued("Marvin", 5))
    assert waiting.reason == "workers_busy"
    assert waiting.text == "Both workers are busy, with wait for A and noop for B"
    assert waiting.task == old.pk
    assert waiting.since is not None
    assert abs(waiting.since - new.started_at) < dt.timedelta(milliseconds=2)


def test_of_many_busy_workers_the_one_is_named_that_runs_longest():
    make_robot(name="Marvin")
    for number in (2, 3):
        make_process(f"host/{number}", handlers=["wait@1"])
        running(f"R{number}", f"host/{number}", started_at=ago(number))
    running("R1", started_at=ago(1))
    assert why(queued("Marvin")).text == "All 3 workers are busy, the longest with wait for R3"


def test_only_workers_that_know_the_handler_count():
    make_robot(name="Marvin"), make_process("host/2", handlers=["noop@1"])
    running("A")
    assert why(queued("Marvin")).text == "The only worker that knows wait is busy with wait for A"


def test_no_worker_knows_the_handler():
    make_robot(name="Marvin")
    waiting = why(queued("Marvin", handler="echo"))
    assert (waiting.reason, waiting.text) == ("handler_unknown", "No worker knows the handler echo")
    assert waiting.remedy is not None
    assert waiting.remedy.handler == "echo"


def test_no_worker_knows_the_version_of_its_parameters():
    make_robot(name="Marvin")
    assert why(queued("Marvin", params_version="9")).reason == "starting"
    assert why(queued("Marvin", 2, params_version="9")).reason == "parameters_unknown"


def test_no_worker_is_running():
    from tasks.models import WorkerProcess

    make_robot(name="Marvin")
    WorkerProcess.objects.update(queues=["maintenance"])
    assert why(queued("Marvin")).sentence == "No worker is running."


def test_nothing_is_in_its_way():
    make_robot(name="Marvin"), make_robot(name="Bender")
    assert why(queued("Marvin")).reason == "starting"
    assert why(queued("Bender", 2)).reason == "not_taken"


# --- The robot's agent -----------------------------------------------------------------------------------------------


def test_a_task_for_an_agent_that_never_came_is_offline_or_lacks_the_skill():
    make_robot(name="Marvin")
    task = queued("Marvin", handler="grip", runs_on="robot")
    assert why(task).text == "grip runs on the robot, and no agent has connected yet"
    session = agents.open_session("Marvin", handlers=["turn"])
    assert why(task).text == "The robot's agent does not know grip"
    agents.open_session("Marvin", handlers=["grip"])
    assert why(task).reason == "starting"
    RobotState.objects.filter(pk="Marvin").update(last_seen=PAST)
    waiting = why(task)
    assert (waiting.text, waiting.since) == ("The robot's agent is offline: nothing is heard from it", PAST)
    agents.close_session("Marvin")
    assert why(task).text == "The robot's agent is offline: it said goodbye"
    assert session.robot == "Marvin"


def test_an_agent_that_is_there_and_does_not_ask():
    make_robot(name="Marvin")
    agents.open_session("Marvin", handlers=["grip"])
    assert why(queued("Marvin", 2, handler="grip", runs_on="robot")).reason == "not_taken"


# --- What it costs ---------------------------------------------------------------------------------------------------


def a_bit_of_everything(number: int) -> list[Task]:
    off, busy, idle, own = (make_robot(name=f"{kind} {number}").name for kind in ("off", "busy", "idle", "own"))
    services.take_out_of_service(off, by="fry")
    agents.open_session(own, handlers=[])
    running(busy)
    return [
        *(queued(off), queued(busy), queued(idle), queued(idle), queued(own, handler="grip", runs_on="robot")),
        make_task_in(Status.RETRY, robot=idle),
    ]


def test_many_tasks_of_many_robots_cost_as_many_questions_as_one_task_of_each_kind():
    spent = []
    for times in (1, 12):
        tasks = [task for number in range(times) for task in a_bit_of_everything(100 * times + number)]
        with listening() as commands:
            found = waiting_reason.of_tasks(tasks)
        spent.append(commands.sent)
        assert found.keys() == {task.pk for task in tasks}
        kinds = {"out_of_service", "robot_busy", "workers_busy", "skill_unknown", "overdue"}
        assert {waiting.reason for waiting in found.values()} == kinds
    assert spent[0] == spent[1]
    assert len(spent[0]) == 5


def test_an_idle_robot_with_a_queue_has_the_reason_of_its_first_task():
    make_robot(name="Marvin"), make_robot(name="Bender")
    first = queued("Marvin", 2)
    queued("Marvin", 1)
    running("Elsewhere")
    found = waiting_reason.of_robots(["Marvin", "Bender"])
    assert list(found) == ["Marvin"]
    head, waiting = found["Marvin"]
    assert (head.pk, waiting.reason, waiting.first) == (first.pk, "workers_busy", None)
    assert waiting_reason.of_robots([]) == {}


def test_each_query_is_served_by_an_index():
    a_bit_of_everything(1)
    with listening() as commands:
        waiting_reason.of_tasks(Task.objects.all())
    matched = {"_id", "robot", "status", "stopped_at"}
    for body in commands.bodies[1:]:
        first = body["pipeline"][0]["$match"]
        assert matched & set(str(first).replace("'", " ").split()), body
        joined = [stage["$lookup"]["foreignField"] for stage in body["pipeline"] if "$lookup" in stage]
        assert set(joined) <= {"_id"}, body
    [lanes] = [body for body in commands.bodies if body.get("hint") == "task_lane"]
    text = {"$type": "string"}  # the condition of the index
    match = lanes["pipeline"][0]["$match"]
    assert (match["lane"], match["robot"]["$type"]) == (text, "string")
