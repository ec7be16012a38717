import pytest
from django.core.exceptions import ImproperlyConfigured

from tasks.registry import RetryPolicy

POLICY = RetryPolicy(first=2, factor=3, longest=100)


@pytest.mark.parametrize(
    ("failures", "least", "most"),
    [(1, 1, 2), (2, 3, 6), (3, 9, 18), (4, 27, 54), (5, 50, 100), (6, 50, 100), (10_000, 50, 100)],
)
def test_the_delay_grows_up_to_the_longest(failures, least, most):
    assert POLICY.delay(failures, chance=lambda: 0) == least
    assert POLICY.delay(failures, chance=lambda: 1) == most
    assert POLICY.delay(failures, chance=lambda: 0.5) == (least + most) / 2


def test_chance_spreads_it():
    delays = {POLICY.delay(4) for _ in range(50)}
    assert len(delays) > 40
    assert min(delays) >= 27
    assert max(delays) <= 54


@pytest.mark.parametrize(
    ("policy", "delay"),
    [
        (RetryPolicy(first=0), 0),
        (RetryPolicy(first=5, factor=1), 5),
        (RetryPolicy(first=1, longest=1), 1),
        (RetryPolicy(first=1, factor=100, longest=7), 7),
    ],
)
def test_odd_policies(policy, delay):
    assert policy.delay(1000, chance=lambda: 1) == delay


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_attempts": 0},
        {"max_attempts": 101},
        {"first": -1},
        {"first": 5, "longest": 1},
        {"longest": 1e9},
        {"factor": 0.5},
        {"factor": 1e300},
    ],
)
def test_a_policy_that_makes_no_sense_stops_the_start(wrong):
    with pytest.raises(ImproperlyConfigured):
        RetryPolicy(**wrong)
