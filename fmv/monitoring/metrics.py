"""What Prometheus reads at /metrics.

Each web server counts its own requests, over all its processes: they share files in PROMETHEUS_MULTIPROC_DIR, which
`fmv.server.gunicorn` makes anew at each start. What the fleet does is read from MongoDB at each scrape, so every web
server tells the same, and no worker needs a port.
"""

import os
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from fmv.mongodb.server import is_unreachable

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
MONGODB_UP = "Whether MongoDB answers; while it does not, only the requests are told."
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

#: used where there is one process only: the tests, `runserver`
own = CollectorRegistry()
requests = Counter(
    "fmv_http_requests_total", "Requests answered by this web server.", ["method", "route", "status"], registry=own
)
seconds = Histogram(
    "fmv_http_request_seconds",
    "Time to answer them; of a stream, to its beginning.",
    ["method", "route"],
    buckets=BUCKETS,
    registry=own,
)


def count_request(method: str, route: str, status: int, duration: float) -> None:
    """Count one request; `duration` in seconds. Whatever callers make up must not make new series."""
    count, time = _series(method if method in METHODS else "OTHER", route, status)
    count.inc()
    time.observe(duration)


@lru_cache(maxsize=1024)  # each look for them takes a lock and builds a key
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return requests.labels(method, route, str(status)), seconds.labels(method, route)


class Fleet(Collector):
    """What settings.FMV_COLLECTORS tell from MongoDB; when it cannot be reached, only that."""

    def collect(self) -> Iterable[Any]:
        try:
            families = [family for path in settings.FMV_COLLECTORS for family in import_string(path)()]
        except Exception as error:
            if not is_unreachable(error):
                raise
            yield GaugeMetricFamily("fmv_mongodb_up", MONGODB_UP, value=0)
        else:
            yield GaugeMetricFamily("fmv_mongodb_up", MONGODB_UP, value=1)
            yield from families


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)
    else:
        registry.register(own)
    registry.register(Fleet())
    return generate_latest(registry)
