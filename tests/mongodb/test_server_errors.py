"""Errors of MongoDB: which of them mean that it cannot do something now, and which that it refuses it."""

import pytest
from django.db import DatabaseError, IntegrityError
from pymongo.errors import PyMongoError

from fmv.mongodb.server import database, is_unreachable, is_unstorable
from robots.models import Robot
from tests.support.api import Api
from tests.support.factories import make_robot

pytestmark = pytest.mark.django_db(transaction=True)

#: of a router that cannot reach a shard. PyMongo knows those of a primary that steps down as a ConnectionFailure.
NOT_NOW = [6, 7, 89, 133, 134, 262, 9001]


def error_of(read):
    with pytest.raises((DatabaseError, PyMongoError)) as caught:
        read()
    return caught.value


def test_the_codes_of_a_cluster_in_trouble_mean_that_it_is_unreachable(fail_command):
    for code in NOT_NOW:
        fail_command("aggregate", errorCode=code, times=2)  # PyMongo repeats some reads by itself
        error = error_of(Robot.objects.first)
        assert is_unreachable(error), code
        fail_command("insert", errorCode=code, times=2)
        assert is_unreachable(error_of(make_robot)), code


def test_the_label_of_an_unknown_code_counts(fail_command):
    fail_command("insert", errorCode=8, errorLabels=["RetryableWriteError"], times=2)
    assert is_unreachable(error_of(make_robot))


def test_a_write_that_no_majority_confirms_in_time_is_no_refusal(fail_command):
    fail_command("insert", writeConcernError={"code": 64, "errmsg": "waiting for replication timed out"})
    assert is_unreachable(error_of(make_robot))


@pytest.mark.parametrize("code", [8, 13, 14031, 20])
def test_other_refusals_are_neither(fail_command, code):
    fail_command("insert", errorCode=code)
    error = error_of(make_robot)
    assert not is_unreachable(error)
    assert not is_unstorable(error)


def test_a_taken_key_is_at_fault_itself():
    make_robot(name="Bender")
    with pytest.raises(IntegrityError) as caught:
        make_robot(name="Bender")
    assert is_unstorable(caught.value)
    assert not is_unreachable(caught.value)


def test_a_request_meanwhile_gets_503(fail_command):
    fail_command("aggregate", errorCode=133, times=2)
    answer = Api("viewer")("GET", "/task/")
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert database().command("ping")["ok"] == 1
