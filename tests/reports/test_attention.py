"""What needs a person: each kind of trouble, and what a look at all of them costs."""

import datetime as dt

import pytest

import robots.services
from fmv.mongodb.server import server_now
from fmv.mongodb.uuid7 import id_at
from robots import absences, agents
from robots.models import Robot, RobotState
from tasks.models import Status, Task
from tasks.queue import services
from tasks.reports.attention import sources
from tasks.reports.remedies import LABELS
from tests.support.factories import make_process, make_robot, make_task
from tests.support.probes import PAST, listening, make_task_in

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]

HOUR = dt.timedelta(hours=1)
JAM = {"type": "gripper jam", "level": "fatal", "description": "It is stuck.", "hint": "Open it"}


@pytest.fixture(autouse=True)
def workers():
    make_process("host/1", ago=-3600, queues=["work", "maintenance"], handlers=["wait@1"])


def ago(hours: float) -> dt.datetime:
    return server_now() - hours * HOUR


def lines(shown: int = 5) -> dict[str, list[str]]:
    """The sentences of what needs a person, by kind, without their times."""
    found = sources.found(shown)
    for each in found:
        for line in each.lines:
            assert line.remedy is None or line.remedy.do in LABELS
            assert not line.reason.endswith(".")
    return {
        each.source.kind: [line.sentence.partition(", since ")[0].rstrip(".") for line in each.lines] for each in found
    }


def connected(name: str, handlers=(), **state) -> str:
    session = agents.open_session(make_robot(name=name).name, handlers=handlers)
    agents.report(name, session.id, state)
    return name


def short(task: Task) -> str:
    return f"{task.handler} …{str(task.pk)[-8:]} for {task.robot}"


def ended(robot: str, *statuses: str, handler: str = "wait") -> list[Task]:
    """Store finished tasks, the latest last."""
    error = {"type": "RobotOnFire", "message": "It burns", "traceback": ""}
    return [
        make_task(robot=robot, handler=handler, status=status, attempt=1, finished_at=ago(1 - place / 60), error=error)
        for place, status in enumerate(statuses)
    ]


def test_a_fleet_without_trouble():
    connected("Fine", battery={"charge": 80.0}, errors=[])
    make_robot(name="Without an agent"), make_robot(name="Out since now", enabled=False)
    make_task(robot="Fine"), ended("Fine", "FAILURE", "SUCCESS")
    assert lines() == {}


def test_each_kind_is_there_once_and_says_what_to_do():
    kinds = [source.kind for source in sources.SOURCES]
    assert len(kinds) == len(set(kinds))
    assert all(source.hint and source.title for source in sources.SOURCES)


# --- Workers ---------------------------------------------------------------------------------------------------------


def test_a_handler_that_no_worker_knows():
    make_task(handler="new")
    assert lines() == {"handler_unknown": ["new: No worker knows this handler: 1 task waits"]}


def test_a_worker_that_was_lost():
    make_process("host/2", ago=3600)
    assert lines() == {"worker_lost": ["host/2: Nothing is heard from it, and its tasks were recovered"]}


# --- Robots ----------------------------------------------------------------------------------------------------------


def test_robots_that_are_offline_those_for_which_tasks_wait_first():
    for name in ("Gone", "Away", "Out"):
        agents.close_session(connected(name))
    RobotState.objects.filter(pk=connected("Silent")).update(last_seen=PAST)
    make_robot(name="Never")
    Robot.objects.filter(pk="Out").update(enabled=False)
    for name in ("Gone", "Never", "Out"):
        make_task(robot=name, handler="drive", runs_on="robot")
    make_process("host/2", handlers=["drive@1"])
    assert lines() == {
        "offline": [
            "Gone: Its agent is offline, because it said goodbye, and tasks wait for it",
            "Never: No agent has connected yet, and tasks wait for it",
            "Away: Its agent is offline, because it said goodbye",
            "Silent: Its agent is offline, because nothing is heard from it",
        ]
    }


def test_an_agent_that_does_not_know_what_waits_for_it():
    make_process("host/2", handlers=["drive@1"])
    make_task(robot=connected("R2", ["lift"]), handler="drive", runs_on="robot")
    text = "R2: Its agent does not know drive: tasks wait, and so do those behind them"
    assert lines() == {"skill_unknown": [text]}


def test_robots_that_report_errors_fatal_ones_first():
    connected("A", errors=[JAM | {"level": "warning", "description": ""}])
    connected("B", errors=[JAM])
    assert lines() == {"reports_error": ["B: It reports gripper jam: It is stuck", "A: It reports gripper jam"]}


def test_a_robot_that_runs_what_it_should_not():
    task = make_task_in(Status.SUCCESS, robot="R2")
    Task.objects.filter(pk=task.pk).update(changed_at=PAST)
    connected("R2", task={"task_id": str(task.pk), "attempt": 1})
    [text] = lines()["wrong_task"]
    assert text == f"R2: It says that it runs task {task.pk}, which FMV does not count as running on it"


def test_two_agents_that_replace_each_other():
    make_robot(name="R2")
    for boot in ("a", "b", "a"):
        agents.open_session("R2", boot_id=boot)
    assert lines()["two_agents"] == ["R2: The session of its agent was replaced 2 times within an hour"]


def test_robots_on_which_the_last_three_tasks_of_a_handler_failed():
    *_, last = ended("Bad", "SUCCESS", "FAILURE", "FAILURE", "REVOKED", "FAILURE")
    ended("Better", "FAILURE", "FAILURE", "FAILURE", "SUCCESS")
    ended("Twice", "FAILURE", "FAILURE")
    ended("Mixed", "FAILURE", "FAILURE"), ended("Mixed", "FAILURE", handler="noop")
    assert lines() == {"failing": ["Bad: The last 3 tasks of wait failed, the last with RobotOnFire"]}
    [found] = sources.found(5)
    [line] = found.lines
    assert line.remedy is not None
    assert (line.remedy.do, line.remedy.task) == ("show_failure", last.pk)


def test_a_success_of_another_handler_does_not_hide_a_failing_one():
    ended("Bad", "FAILURE", "FAILURE", "FAILURE")
    ended("Bad", "SUCCESS", "SUCCESS", handler="noop")
    assert list(lines()) == ["failing"]


def test_a_robot_that_is_out_of_service_for_more_than_a_day():
    for name in ("Old", "New", "Serving"):
        make_robot(name=name)
    for name, hours in (("Old", 25), ("New", 23), ("Serving", 25)):
        services.take_out_of_service(name, by="fry")
        Robot.objects.filter(pk=name).update(updated_at=ago(hours))
    absences.note()
    services.put_in_service("Serving", by="fry")
    robots.services.change("Old", by="fry", location="Moon")  # it is out of service since then all the same
    assert lines() == {"out_of_service": ["Old: It has been out of service for more than a day"]}
    [found] = sources.found(5)
    assert found.lines[0].since is not None
    assert abs(found.lines[0].since - ago(25)) < HOUR


def test_queues_that_are_held_those_held_longest_first():
    for name, why in (("A", "The lift is being repaired"), ("B", "")):
        make_task(robot=make_robot(name=name), id=id_at(ago(2)))  # and no long wait besides
        services.hold_queue(name, by="amy", why=why)
    Robot.objects.filter(pk="B").update(held_since=ago(1))
    assert lines() == {
        "queue_held": ["B: Its queue is held by amy", "A: Its queue is held by amy (“The lift is being repaired”)"]
    }
    for name in "AB":
        services.release_queue(name, by="amy")
    assert list(lines()) == ["long_wait"]


def test_a_robot_out_of_contact_and_a_lane_that_is_blocked():
    silent = make_task_in(Status.STARTED, robot="Silent", runs_on="robot", out_of_contact_since=PAST)
    blocked = make_task_in(Status.REVOKED, robot="Blocked", runs_on="robot", lane="Blocked/0")
    text = "The task is over, and its robot has not confirmed that it stopped: a lane is blocked"
    assert lines() == {
        "out_of_contact": [f"{short(silent)}: Its robot is out of contact, and may still run it"],
        "lane_blocked": [f"{short(blocked)}: {text}"],
    }


# --- Tasks -----------------------------------------------------------------------------------------------------------


def test_tasks_that_are_stuck():
    asked = make_task_in(Status.STARTED, robot="A", cancel_requested=True)
    Task.objects.filter(pk=asked.pk).update(changed_at=PAST)
    lost = make_task_in(Status.STARTED, robot="B", lease_expires_at=PAST)
    due = make_task_in(Status.SCHEDULED, robot="C")
    assert set(lines()["stuck"]) == {
        f"{short(asked)}: It was cancelled, and whoever runs it has not stopped",
        f"{short(lost)}: Its worker has not renewed its lease",
        f"{short(due)}: Its time has come, and it was not queued",
    }


def test_a_robot_whose_queue_waits_for_long_says_why():
    for name, hours in (("Late", 2), ("Later", 3), ("New", 0.5)):
        make_robot(name=name)
        make_task(robot=name, id=id_at(ago(hours)))
    make_task(robot=make_robot(name="Out", enabled=False), id=id_at(ago(3)))
    make_task_in(Status.STARTED, robot="Elsewhere")
    found = lines()
    assert list(found) == ["long_wait"]
    later, late = found["long_wait"]
    assert later.endswith("for Later: It waits. The only worker is busy with wait for Elsewhere")
    assert "for Late:" in late


def test_beyond_the_first_lines_the_others_are_counted_up_to_a_bound(monkeypatch):
    for number in range(8):
        make_task(robot=f"R{number}", status="RETRY", run_at=PAST)
    [found] = sources.found(5)
    assert (len(found.lines), found.more) == (5, 3)
    monkeypatch.setattr(sources, "MAX_COUNTED", 2)
    [found] = sources.found(5)
    assert found.more == 2


# --- What it costs ---------------------------------------------------------------------------------------------------


def trouble(times: int) -> None:
    for number in range(times):
        name = f"{times} {number}"
        agents.close_session(connected(f"offline {name}"))
        connected(f"sick {name}", errors=[JAM])
        make_task(robot=connected(f"unskilled {name}"), handler="drive", runs_on="robot")
        ended(f"failing {name}", "FAILURE", "FAILURE", "FAILURE")
        make_robot(name=f"late {name}"), make_task(robot=f"late {name}", id=id_at(ago(2)))
        make_robot(name=f"out {name}", enabled=False)
        make_task(robot=f"due {name}", status="RETRY", run_at=PAST)
        make_task_in(Status.STARTED, robot=f"silent {name}", runs_on="robot", out_of_contact_since=PAST)
        make_process(f"lost {name}", ago=3600)
    Robot.objects.filter(enabled=False).update(updated_at=ago(25))
    absences.note()


def test_much_trouble_costs_as_many_questions_as_a_little():
    spent = []
    for times in (2, 20):
        trouble(times)
        with listening() as commands:
            found = sources.found(5)
        spent.append(len(commands.sent))
    assert {each.source.kind for each in found} >= {"offline", "failing", "stuck", "long_wait", "reports_error"}
    assert spent[0] == spent[1]
    assert spent[0] <= 30
