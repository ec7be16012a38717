"""Histograms of durations: counts by buckets, each 20 % wider than the one before.

A percentile read from one is within 10 % of the real one between FIRST and LAST: a bucket's answer is its middle. Any
two can be added, so those of an hour make that of a week. As stored, a histogram is {bucket: count} without the zeros.
"""

from collections.abc import Mapping
from math import ceil, floor, log, sqrt

RATIO = 1.2
FIRST = 0.01  # seconds; shorter durations are counted in the first bucket
BUCKETS = 100
LAST = FIRST * RATIO**BUCKETS  # seconds, about 9.6 days; longer ones are counted in the last
ERROR = 100 * (sqrt(RATIO) - 1)  # percent by which a percentile may be wrong


def bucket(seconds: float) -> int:
    """Return the number of the bucket, from 0, in which this duration is counted."""
    return min(BUCKETS - 1, max(0, floor(log(seconds / FIRST, RATIO)))) if seconds > FIRST else 0


def percentile(counts: Mapping[int, int], percent: float) -> float | None:
    """Return the duration in seconds that so many percent of those counted do not exceed; None if none is counted."""
    wanted = ceil(sum(counts.values()) * percent / 100)
    for number in sorted(counts):
        wanted -= counts[number]
        if wanted <= 0:
            return float(FIRST * RATIO ** (number + 0.5))
    return None
