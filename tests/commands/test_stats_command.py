"""`manage.py stats`: how queue and fleet are doing."""

import json

import pytest

from tasks.models import Status
from tasks.reports import queue_stats, tallies
from tests.support.commands import run
from tests.support.factories import make_robot, make_task
from tests.support.probes import make_task_in

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def fleet():
    make_robot(name="R2")
    make_robot(name="C3", enabled=False)
    for status in Status:
        make_task_in(status, robot="R2")
    make_task(robot="R2", handler="primes")
    tallies.roll_up()


def test_it_prints_what_the_api_answers(fleet):
    printed = json.loads(run("stats", "--json").out)
    overview = queue_stats.overview()
    for each in (printed, overview):
        each.pop("queue_age")
    assert printed == overview
    assert printed["tasks"]["QUEUED"] == 2


def test_it_prints_a_table_for_people(fleet):
    outcome = run("stats")
    head, everything, primes, wait, empty, age, hour, robots = outcome.out.splitlines()
    assert head.split() == ["HANDLER", *Status]
    assert everything.split() == ["all", "1", "2", "1", "1", "1", "1", "1"]
    assert primes.split() == ["primes", "0", "1", "0", "0", "0", "0", "0"]
    assert wait.split() == ["wait", *"1111111"]
    assert empty == ""
    assert age.startswith("Longest wait in a queue: ")
    assert hour == "Finished in the last hour: 0 SUCCESS, 0 FAILURE, 0 REVOKED."
    assert robots == "Robots: 1 in service, 1 out of service; 1 busy."


def test_it_prints_an_empty_fleet_too():
    assert "Robots: 0 in service, 0 out of service; 0 busy." in run("stats").out
