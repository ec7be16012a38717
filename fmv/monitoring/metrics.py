"""The metrics that Prometheus reads at /metrics.

Each web server counts the requests to all its processes: they share files in PROMETHEUS_MULTIPROC_DIR, which
`fmv.server.gunicorn` creates at each start. Metrics of the fleet are read from MongoDB at each scrape, so every web
server reports the same numbers, and workers need no port.
"""

import os
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.utils.module_loading import import_string
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from fmv.mongodb.server import is_unreachable
from fmv.monitoring import servers

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
MONGODB_UP = "Whether MongoDB answers; while it does not, only metrics of requests are exposed."
BROKER_UP = "Whether the broker takes this web server's messages; asked every ten seconds."
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

#: used if there is only one process: in tests, with `runserver`
own = CollectorRegistry()
requests = Counter(
    "fmv_http_requests_total", "Requests answered by this web server.", ["method", "route", "status"], registry=own
)
seconds = Histogram(
    "fmv_http_request_seconds",
    "Time to answer a request; for a stream, until it begins.",
    ["method", "route"],
    buckets=BUCKETS,
    registry=own,
)
#: how many claims of agents wait in this web server
waiting_claims = Gauge(
    "fmv_waiting_claims", "Claims of agents that wait for a task.", registry=own, multiprocess_mode="livesum"
)


def count_request(method: str, route: str, status: int, duration: float) -> None:
    """Count one request; `duration` in seconds. Unknown methods share one series, so that clients cannot add any."""
    count, time = _series(method if method in METHODS else "OTHER", route, status)
    count.inc()
    time.observe(duration)


@lru_cache(maxsize=1024)  # each `labels` call takes a lock and builds a key
def _series(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return requests.labels(method, route, str(status)), seconds.labels(method, route)


class MongoDBCollector(Collector):
    """The metrics of settings.FMV_COLLECTORS, or only fmv_mongodb_up 0 if MongoDB cannot be reached."""

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


class BrokerCollector(Collector):
    """Whether the broker takes this web server's messages, as asked at most every INTERVAL seconds."""

    def collect(self) -> Iterable[Any]:
        yield GaugeMetricFamily("fmv_broker_up", BROKER_UP, value=servers.broker.health().state == "ok")


def exposition() -> bytes:
    """Return all metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)
    else:
        registry.register(own)
    registry.register(MongoDBCollector())
    registry.register(BrokerCollector())
    return generate_latest(registry)
