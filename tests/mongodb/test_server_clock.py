"""MongoDB's clock, as this machine continues it whatever its own wall clock says."""

import datetime as dt
import logging
import os
import subprocess
import sys

import pytest
from django.db import connection
from pymongo.errors import ConnectionFailure

from fmv.mongodb import server
from fmv.mongodb.server import ServerClock, server_now
from fmv.mongodb.uuid7 import new_id, time_of
from tests.conftest import with_database
from tests.support.clocks import ShiftedClock

pytestmark = pytest.mark.django_db(transaction=True)

SHIFT_AND_COMPARE = """
import os, struct, sys, time
import django
django.setup()
from fmv.mongodb.server import server_now, stored_now
for hours in map(float, sys.argv[1:]):
    with open(os.environ["CLOCK_SHIFT_FILE"], "r+b") as file:
        file.write(struct.pack("q", round(hours * 3600)))
    assert abs((stored_now() - server_now()).total_seconds()) < 1, hours
"""


@pytest.mark.clocks
@pytest.mark.parametrize("hours", [(0, 2, -2, 25, -25), (25, 0), (-25, 0)])
def test_a_wall_clock_that_is_wrong_or_jumps_does_not_change_the_time_that_is_stored(clock: ShiftedClock, hours):
    uri = with_database(os.environ["MONGODB_URI"], connection.settings_dict["NAME"])
    command = [sys.executable, "-c", SHIFT_AND_COMPARE, *map(str, hours)]
    subprocess.run(command, env=os.environ | {"MONGODB_URI": uri} | clock.environment, check=True)


@pytest.mark.clocks
def test_a_jump_of_mongodbs_clock_is_noticed_and_logged(mongodb_clock: ShiftedClock, caplog):
    clock = ServerClock()
    clock.read()
    assert clock.take_jumps() == 0
    for hours, text in ((2, "+7200.0 s"), (-23, "-90000.0 s")):
        mongodb_clock.shift(hours=hours)
        with caplog.at_level(logging.WARNING):
            clock.read()
        assert f"MongoDB's clock has jumped by {text}" in caplog.text
        assert (clock.take_jumps(), clock.take_jumps()) == (1, 0)
        assert clock.even_for() < 5


def test_a_clock_that_runs_evenly_is_not_said_to_jump():
    clock = ServerClock()
    for _ in range(20):
        assert abs(clock.read() - clock.now()) < dt.timedelta(seconds=1)
    assert clock.take_jumps() == 0


def test_the_last_reading_is_continued_while_mongodb_does_not_answer(monkeypatch):
    def refuse() -> None:
        raise ConnectionFailure("no")

    clock = ServerClock()
    clock.read()
    monkeypatch.setattr(server, "READING_LIFETIME", 0.0)
    monkeypatch.setattr(server, "database", refuse)
    before = clock.now()
    assert dt.timedelta() <= clock.now() - before < dt.timedelta(seconds=5)
    with pytest.raises(ConnectionFailure):
        ServerClock().now()


def test_ids_grow_and_hold_mongodbs_time():
    ids = [new_id() for _ in range(5000)]
    assert ids == sorted(set(ids))
    assert {id.version for id in ids} == {7}
    assert abs(time_of(ids[-1]) - server_now()) < dt.timedelta(seconds=1)
