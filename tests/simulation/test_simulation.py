"""`make simulate` agrees with queueing theory where theory has an answer, and with FMV where it models FMV."""

import math
import statistics
from collections import Counter
from dataclasses import fields

import pytest
from celery.schedules import schedule
from django.conf import settings
from django.test import override_settings

from fmv.celery import app
from tasks import jobs
from tasks.queue import periodic, services
from tasks.worker import claim as claiming
from tests.simulation import __main__ as command
from tests.simulation.figures import figures
from tests.simulation.model import Costs, Fleet, Plan
from tests.simulation.periodic import JOBS, RESULT, Maintenance, Work, run_and_store
from tests.support.environment import override_environment
from tests.support.factories import make_robot, make_task
from tests.support.probes import PAST, STARTED, a_lease_later, listening

FREE = Costs(**{cost.name: 0.0 for cost in fields(Costs)})
BEAT = settings.CELERY_BEAT_SCHEDULE
HANDLING = 0.1  # seconds within which an idle fleet starts a task after its message


def quiet(**changed) -> Fleet:
    """Return a fleet to which only the test submits; its tasks take almost no time."""
    plan = {"robots": 1000, "load": 0, "processes": 100, "seconds": 0.001, "distribution": "constant"}
    return Fleet(Plan(**plan | changed))


def submit(fleet: Fleet, robots: int) -> None:
    for number in range(robots):
        fleet.submit(fleet.robots[number])


def worked(seconds: float, **plan) -> Fleet:
    fleet = Fleet(Plan(**plan))
    fleet.env.run(seconds)
    return fleet


def mean_wait(fleet: Fleet) -> float:
    return statistics.fmean(queued for queued, _ in fleet.waits)


# --- Theory ----------------------------------------------------------------------------------------------------------


def test_a_robot_with_one_lane_and_workers_enough_is_an_m_m_1_queue():
    fleet = worked(3000, robots=20, processes=20, load=0.5, costs=FREE)
    assert mean_wait(fleet) == pytest.approx(0.5 / (1 - 0.5), rel=0.07)
    longer = sum(queued > 1 for queued, _ in fleet.waits) / len(fleet.waits)
    assert longer == pytest.approx(0.5 * math.exp(-0.5), rel=0.05)


def test_few_workers_of_many_robots_are_an_m_m_c_queue():
    c, load = 8, 0.8
    fleet = worked(5000, robots=100_000, processes=c, load=load, costs=FREE)
    offered = c * load
    all_busy = offered**c / math.factorial(c) / (1 - load)
    waits = all_busy / (sum(offered**k / math.factorial(k) for k in range(c)) + all_busy)  # Erlang C
    assert sum(queued > 0 for queued, _ in fleet.waits) / len(fleet.waits) == pytest.approx(waits, rel=0.07)
    assert mean_wait(fleet) == pytest.approx(waits / (c - offered), rel=0.1)
    assert fleet.busy.mean / c == pytest.approx(load, rel=0.02)


def test_messages_that_machines_reserve_make_tasks_wait_although_another_machine_is_idle():
    one, many = (worked(300, robots=10_000, processes=32, machines=n, load=0.8, costs=FREE) for n in (1, 16))
    assert mean_wait(many) > 2 * mean_wait(one)


@pytest.mark.parametrize("robots", [20, 10_000])
def test_little_s_law_holds(robots):
    fleet = worked(1000, robots=robots, processes=20, machines=4, load=0.7)
    assert fleet.queued.mean == pytest.approx(fleet.submitted / 1000 * mean_wait(fleet), rel=0.02)


def test_the_measured_load_is_the_requested_one():
    fleet = worked(1000, robots=1000, processes=20, machines=3, load=0.6)
    assert fleet.busy.mean / 20 == pytest.approx(0.6, rel=0.05)


# --- Nothing is lost -------------------------------------------------------------------------------------------------


def test_every_task_has_finished_or_waits_or_runs_whatever_dies():
    fleet = Fleet(Plan(robots=200, processes=20, machines=5, load=0.7, lost=0.3, deaths=60))
    Maintenance(fleet)
    for _ in range(50):
        fleet.env.run(fleet.env.now + 7.3)
        under_way = sum(len(robot.queue) + robot.running for robot in fleet.robots.values())
        assert fleet.submitted == fleet.finished + under_way
        assert all(0 <= robot.running <= 1 for robot in fleet.robots.values())
    assert fleet.restarts
    assert fleet.repairs


@pytest.mark.parametrize("lost", [0.0, 1.0])
def test_a_held_queue_starts_nothing_and_all_of_it_when_it_is_released(lost):
    fleet = quiet(lost=lost, seconds=1.0)
    Maintenance(fleet)
    submit(fleet, 20)
    fleet.env.run(fleet.env.now + 60)
    robots = [fleet.robots[number] for number in range(20)]
    for robot in robots[:10]:
        robot.held = True
    submit(fleet, 20)
    submit(fleet, 20)
    fleet.env.run(fleet.env.now + 120)
    assert fleet.finished == 20 + 2 * 10
    assert [len(robot.queue) for robot in robots] == [2] * 10 + [0] * 10
    for robot in robots[:10]:
        fleet.release(robot)
    fleet.env.run(fleet.env.now + 60)
    assert fleet.finished == fleet.submitted


def test_a_task_that_is_put_in_front_is_the_next_to_start():
    fleet = quiet(seconds=10.0)
    robot = fleet.robots[0]
    for _ in range(5):
        fleet.submit(robot)
    fleet.env.run(1.0)
    last = robot.queue[-1]
    fleet.put_first(last)
    assert robot.running == 1
    fleet.env.run(15.0)
    assert last not in robot.queue
    assert last.started_at < 11.0
    fleet.env.run(100.0)
    assert fleet.finished == 5


def test_every_task_ends_although_most_messages_are_lost_and_machines_die():
    fleet = quiet(lost=0.9, deaths=30, machines=5, seconds=2.0)
    Maintenance(fleet)
    for _ in range(4):
        submit(fleet, 100)
    fleet.env.run(900)
    assert fleet.finished == fleet.submitted == 400
    assert not fleet.orphans
    assert not fleet.missed


# --- Repairs ---------------------------------------------------------------------------------------------------------


def test_a_lost_message_costs_at_most_two_periods_of_ring_waiting():
    fleet = quiet(lost=1.0)
    Maintenance(fleet)
    fleet.env.run(17)
    submit(fleet, periodic.MAX_ROBOTS_RUNG)
    fleet.env.run(60)
    period = BEAT["ring_waiting"]["schedule"].seconds
    most = 2 * period + periodic.MAX_ROBOTS_RUNG * fleet.costs.message + HANDLING
    assert len(fleet.repairs) == periodic.MAX_ROBOTS_RUNG
    assert period < max(fleet.repairs) <= most


def test_more_lost_messages_than_one_pass_of_ring_waiting_sends_take_several():
    fleet = quiet(lost=1.0)
    Maintenance(fleet)
    submit(fleet, 4 * periodic.MAX_ROBOTS_RUNG)
    fleet.env.run(60)
    assert (
        5 * BEAT["ring_waiting"]["schedule"].seconds
        <= max(fleet.repairs)
        <= 6 * BEAT["ring_waiting"]["schedule"].seconds
    )


def restart(**plan) -> float:
    """Return the seconds from a machine's death to the next start of a task that it had run for 25 seconds."""
    fleet = quiet(machines=2, seconds=100.0, **plan)
    Maintenance(fleet)
    submit(fleet, 1)
    fleet.env.run(25)
    for machine in fleet.machines:
        fleet.kill(machine)
    fleet.env.run(600)
    [seconds] = fleet.restarts
    return seconds


def test_a_dead_machine_s_task_starts_again_when_its_lease_ends():
    left = settings.ENVIRONMENT.lease_seconds - 25 % settings.ENVIRONMENT.renew_seconds
    assert left - HANDLING <= restart() <= left + BEAT["recover_lost"]["schedule"].seconds + HANDLING


# --- It is FMV's -----------------------------------------------------------------------------------------------------


def test_a_longer_lease_in_fmv_makes_the_restart_later():
    before = restart()
    with override_environment(lease_seconds=settings.ENVIRONMENT.lease_seconds + 60):
        assert restart() == pytest.approx(before + 60, abs=1.1)


def test_a_longer_period_of_ring_waiting_in_fmv_makes_the_repair_later():
    rarer = BEAT | {"ring_waiting": BEAT["ring_waiting"] | {"schedule": schedule(40.0)}}
    with override_settings(CELERY_BEAT_SCHEDULE=rarer):
        fleet = quiet(lost=1.0)
        Maintenance(fleet)
        submit(fleet, 1)
        fleet.env.run(100)
    assert 80 <= fleet.repairs[0] <= 80 + HANDLING


def test_smaller_passes_of_ring_waiting_in_fmv_wake_fewer_robots(monkeypatch):
    monkeypatch.setattr(periodic, "MAX_ROBOTS_RUNG", 3)
    fleet = quiet(lost=1.0)
    Maintenance(fleet)
    submit(fleet, 30)
    fleet.env.run(2 * BEAT["ring_waiting"]["schedule"].seconds + 1)
    assert len(fleet.repairs) == 3


def test_a_process_keeps_a_robot_for_the_time_that_fmv_sets(monkeypatch):
    messages = []
    for turn in (claiming.TIME_SLICE, 0.0):
        monkeypatch.setattr(claiming, "TIME_SLICE", turn)
        fleet = quiet()
        for _ in range(5):
            fleet.submit(fleet.robots[0])
        fleet.env.run(5)
        messages.append(fleet.messages)
    assert messages == [5, 9]  # one for each submit; and one more after each task but the last


def test_a_higher_prefetch_in_fmv_reserves_more_messages():
    waits = []
    for multiplier in (settings.CELERY_WORKER_PREFETCH_MULTIPLIER, 8):
        with override_settings(CELERY_WORKER_PREFETCH_MULTIPLIER=multiplier):
            waits.append(mean_wait(worked(300, robots=10_000, processes=32, machines=8, load=0.9, costs=FREE)))
    assert waits[1] > 1.5 * waits[0]


def test_each_of_beat_s_jobs_is_modelled():
    assert JOBS.keys() == BEAT.keys()


def commands_of(fleet: Fleet) -> Counter[str]:
    """Return the commands that the simulation counted, named as `listening` names them."""
    return Counter({name.removeprefix("maintenance: "): n for name, n in fleet.commands.items() if "hello" not in name})


def modelled(name: str, fleet: Fleet) -> Counter[str]:
    fleet.commands.clear()
    for _ in JOBS[name](Work(fleet)):
        pass
    return commands_of(fleet)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(("tasks", "lanes"), [(1, 1), (2, 1), (5, 1), (1, 3), (3, 3)])
def test_tasks_take_the_same_commands_as_in_fmv(tasks, lanes, bells, monkeypatch):
    monkeypatch.setattr(claiming, "TIME_SLICE", 60.0)  # a test's MongoDB may be slow
    monkeypatch.setattr(claiming, "LOOK_LIFETIME", 60.0)
    monkeypatch.setattr(claiming, "_pace", None)
    robot = make_robot(lanes=lanes)
    with listening() as real:
        for _ in range(tasks):
            services.submit({"robot": robot.name, "handler": "noop"}, by="test")
        for _ in range(tasks):
            claiming.run_next(robot.name, "message")
    fleet = quiet(processes=1, lanes=lanes)
    for _ in range(tasks):
        fleet.submit(fleet.robots[0])
    fleet.env.run(5)
    assert fleet.finished == tasks
    assert commands_of(fleet) == Counter(real.sent)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", sorted(JOBS))
def test_an_idle_job_takes_the_same_commands_as_in_fmv(name, bells, trusted_clock):
    getattr(jobs, name)()  # the first one stores how far it came
    with listening() as real:
        getattr(jobs, name)()
    assert modelled(name, quiet()) == Counter(real.sent)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("lanes", [1, 2])
def test_waking_waiting_robots_takes_the_same_commands_as_in_fmv(lanes, bells, monkeypatch):
    monkeypatch.setattr(periodic, "PATIENCE", 0.0)
    for _ in range(3):
        make_task(robot=make_robot(lanes=lanes).name)
    with listening() as real:
        periodic.ring_waiting()
    fleet = quiet(lost=1.0, lanes=lanes)
    submit(fleet, 3)
    assert modelled("ring_waiting", fleet) == Counter(real.sent)
    assert len(bells()) == fleet.messages - 3


@pytest.mark.django_db(transaction=True)
def test_recovering_lost_tasks_takes_the_same_commands_as_in_fmv(bells):
    for _ in range(2):
        robot = make_robot().name
        lost = {"lease_expires_at": PAST, "timeout": 1e9, "max_attempts": 3}
        make_task(robot=robot, status="STARTED", lane=f"{robot}/0", **STARTED | lost)
    with a_lease_later(), listening() as real:
        assert periodic.recover_lost() == {"RETRY": 2}
    fleet = quiet(machines=2, seconds=100.0)
    submit(fleet, 2)
    fleet.env.run(1)
    for machine in fleet.machines:
        fleet.kill(machine)
    fleet.env.run(100)
    assert modelled("recover_lost", fleet) == Counter(real.sent)


@pytest.mark.django_db(transaction=True)
def test_storing_a_result_takes_the_same_commands_as_in_celery():
    with listening() as real:
        app.backend.store_result("an-id", 0, "SUCCESS")
    assert list(RESULT) == real.sent


# --- The command -----------------------------------------------------------------------------------------------------


def run_of(seed: int) -> dict:
    options = command.read_options(["--seed", str(seed), "--span", "20"])
    return command.run("steady", command.plan_of(options, 500, 0.5), options)


def test_the_same_seed_gives_the_same_figures_and_another_does_not():
    assert run_of(3) == run_of(3) != run_of(4)


def test_a_job_whose_period_is_longer_than_the_span_is_reported_too():
    fleet = worked(9, robots=100, processes=4, load=0.5)
    found = figures(fleet, Maintenance(fleet))["periodic_steps"]["purge"]
    assert found["written"] == 2 * round(fleet.plan.rate * 10)  # the tasks, and the endings of their ids
    assert found["share"] > 0


def test_a_job_takes_as_long_as_its_steps():
    fleet = quiet()
    begun = fleet.env.now
    fleet.env.run(fleet.env.process(run_and_store("forget_runs", work := Work(fleet))))
    assert work.done.seconds == pytest.approx(fleet.env.now - begun)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--robots", "0"], "'0' is not a whole number above 0"),
        (["--robots", "10,many"], "'many' is not a whole number above 0"),
        (["--loads", "0.5,1.2"], "'1.2' is not a share above 0 and below 1, like 0.6 or 60%"),
        (["--loads", "110%"], "is not a share above 0 and below 1, like 0.6 or 60%"),
        (["--seconds", "-1"], "'-1' is not a number above 0"),
        (["--span", "nan"], "'nan' is not a number above 0"),
        (["--write", "-0.1"], "'-0.1' is not a number, 0 or more"),
        (["--distribution", "uniform"], "invalid choice: 'uniform'"),
        (["--seed", "x"], "invalid int value: 'x'"),
    ],
)
def test_a_wrong_option_is_refused_with_a_sentence(arguments, sentence, capsys):
    with pytest.raises(SystemExit) as refusal:
        command.read_options(arguments)
    assert refusal.value.code == 2
    assert sentence in capsys.readouterr().err


def test_the_report_is_a_table_and_json(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "REPORT", tmp_path / "var" / "report.json")
    monkeypatch.setattr(command, "TASKS", 50)
    assert command.main(["--robots", "20", "--loads", "50%", "--span", "5", "--lost", "20%"]) == 0
    table = capsys.readouterr().out
    assert "RabbitMQ is away" in table
    assert "ring_waiting" in table
    text = (tmp_path / "var" / "report.json").read_text()
    assert '"scenario": "a machine dies"' in text
    assert f'"lease_seconds": {settings.ENVIRONMENT.lease_seconds}' in text
