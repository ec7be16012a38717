import contextlib
import datetime as dt
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest
import requests
from django.test import Client
from prometheus_client.parser import text_string_to_metric_families
from pymongo.errors import PyMongoError

from fmv.mongodb.server import server_now
from fmv.monitoring import counters, middleware
from fmv.publisher import publisher
from robots import agents
from tasks.queue import doorbell, periodic
from tasks.reports import tallies
from tests.conftest import wait_until
from tests.support.api import Api, assert_refused
from tests.support.factories import make_process, make_robot, make_task, make_user
from tests.support.probes import a_lease_later, using_broker

TOKEN = "a metrics token, as long as it must be".replace(" ", "-")
BEARER = {"Authorization": f"Bearer {TOKEN}"}


def parse(text):
    """Return {(name, label, …): value} of a page of metrics; labels by the alphabet of their names."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def scrape(db, settings):
    settings.ENVIRONMENT.metrics_token = TOKEN

    def scrape():
        answer = Client().get("/metrics", headers=BEARER)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return parse(answer.content.decode())

    return scrape


# --- Who may read them -----------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_only_a_viewer_may_read_them():
    client = Client()
    assert_refused(client.get("/metrics"), 401)
    client.force_login(make_user(""))
    assert_refused(client.get("/metrics"), 403)
    client.force_login(make_user("viewer"))
    assert client.get("/metrics").status_code == 200


@pytest.mark.django_db
def test_the_token_reads_them_and_nothing_else(settings):
    settings.ENVIRONMENT.metrics_token = TOKEN
    assert Client().get("/metrics", headers=BEARER).status_code == 200
    assert Client().get("/metrics", headers=BEARER | {"Host": "10.1.2.3"}).status_code == 200
    assert_refused(Api(None)("GET", "/stats", headers=BEARER), 401)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "header", ["", "Bearer ", "Bearer x", f"Bearer {TOKEN}x", f"bearer {TOKEN}", TOKEN, "Bearer é"]
)
def test_another_token_does_not(settings, header):
    settings.ENVIRONMENT.metrics_token = TOKEN
    assert_refused(Client().get("/metrics", headers={"Authorization": header}), 401)


@pytest.mark.django_db
@pytest.mark.parametrize("header", ["Bearer ", "Bearer", ""])
def test_without_a_token_set_none_is_right(settings, header):
    settings.ENVIRONMENT.metrics_token = ""
    assert_refused(Client().get("/metrics", headers={"Authorization": header}), 401)


# --- Requests --------------------------------------------------------------------------------------------------------


def count_of(metrics, *labels):
    return metrics.get(("fmv_http_requests_total", *labels), 0)


def test_requests_are_counted_by_the_template_of_their_route(scrape):
    make_robot(name="R2")
    api, before = Api("viewer"), scrape()
    for path in ("/robot/R2", "/robot/R2/", "/robot/nobody", "/robot/", "/task/x"):
        api("GET", path)
    after = scrape()
    grown = {key[1:]: after[key] - before.get(key, 0) for key in after if key[0] == "fmv_http_requests_total"}
    grown = {key: value for key, value in grown.items() if value and key[1] != "/metrics"}
    assert grown == {
        ("GET", "/api/v1/robot/{name}", "200"): 2,
        ("GET", "/api/v1/robot/{name}", "404"): 1,
        ("GET", "/api/v1/robot", "200"): 1,
        ("GET", "-", "404"): 1,
    }
    assert after["fmv_http_request_seconds_count", "GET", "/api/v1/robot/{name}"] >= 3
    assert after["fmv_http_request_seconds_bucket", "10.0", "GET", "/api/v1/robot/{name}"] >= 3


def test_what_callers_make_up_makes_no_series(scrape):
    before = scrape()
    for number in range(5):
        Api(None)(f"BREW{number}", f"/pot/{number}")
    made = {key for key in scrape().keys() - before.keys() if key[0].startswith("fmv_http_") and "/metrics" not in key}
    assert {key[1:] for key in made if key[0] == "fmv_http_requests_total"} <= {("OTHER", "-", "404")}
    assert {key[-2:] for key in made if key[0].startswith("fmv_http_request_seconds")} <= {("OTHER", "-")}


@pytest.mark.parametrize(
    ("route", "template"),
    [
        ("", "/"),
        ("api/v1/robot/<str:name>/run/", "/api/v1/robot/{name}/run"),
        ("api/v1/task/<uuid:task_id>", "/api/v1/task/{task_id}"),
        ("admin/robots/robot/<path:object_id>/change/", "/admin/robots/robot/{object_id}/change"),
    ],
)
def test_templates_read_as_in_the_api_document(route, template):
    assert middleware.template(route) == template


def read(url):
    answer = requests.get(f"{url}/metrics", headers=BEARER | {"Connection": "close"}, timeout=10)
    assert answer.status_code == 200, answer.text
    return parse(answer.text)


def ask_often(url):
    """Ask over 40 connections, so that each of two processes, which the kernel chooses by a hash, answers some."""
    for _ in range(40):
        assert requests.get(f"{url}/api/v1/health", headers={"Connection": "close"}, timeout=10).ok


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def main_process(port):
    """The process that forked the web server of this port, once it has forked two; else 0."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"FMV_PORT={port}".encode() in path.read_bytes() and len(children(path.parent.name)) >= 2:
                return int(path.parent.name)
    return 0


@pytest.fixture
def server(web):
    """The address and main process of a web server of two processes."""
    url = web(os.environ["FMV_BROKER_URL"], FMV_WEB_PROCESSES="2", FMV_METRICS_TOKEN=TOKEN)
    port = url.rpartition(":")[2]
    wait_until(lambda: main_process(port))  # the second one may still be on its way
    return url, main_process(port)


def test_several_processes_expose_one_sum(server):
    url, _ = server
    before = count_of(read(url), "GET", "/api/v1/health", "200")
    with ThreadPoolExecutor(8) as pool:
        answers = pool.map(
            lambda _: requests.get(f"{url}/api/v1/health", headers={"Connection": "close"}, timeout=10).ok, range(200)
        )
        assert all(answers)
    for _ in range(10):  # whichever process answers
        metrics = read(url)
        assert count_of(metrics, "GET", "/api/v1/health", "200") == before + 200
        assert metrics["fmv_http_request_seconds_count", "GET", "/api/v1/health"] == before + 200


def test_what_a_process_counted_outlives_it(server):
    url, pid = server
    first = children(pid)
    ask_often(url)
    before = count_of(read(url), "GET", "/api/v1/health", "200")
    for child in first:
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: len(new := set(children(pid)) - set(first)) >= 2 and new)
    assert requests.get(f"{url}/api/v1/health", timeout=10).ok
    assert count_of(read(url), "GET", "/api/v1/health", "200") == before + 1


def test_the_directory_of_counts_goes_with_the_server(server):
    _, pid = server
    maps = "".join(Path(f"/proc/{child}/maps").read_text() for child in children(pid))  # one has answered a request
    directory = Path(next(line.split()[-1] for line in maps.splitlines() if "fmv-metrics-" in line)).parent
    assert directory.is_dir()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not directory.exists())


# --- The fleet -------------------------------------------------------------------------------------------------------


def test_tasks_by_status_and_handler(scrape):
    make_robot(name="R2"), make_robot(name="off", enabled=False)
    make_task(robot="R2", handler="primes"), make_task(robot="R2"), make_task(robot="R2", status="STARTED", lane="R2/0")
    finished = server_now() - dt.timedelta(minutes=5)
    started = finished - dt.timedelta(seconds=3)
    make_task(robot="R2", status="FAILURE", attempt=3, started_at=started, finished_at=finished)
    tallies.roll_up()
    metrics = scrape()
    assert metrics["fmv_tasks", "primes", "QUEUED"] == 1
    assert metrics["fmv_tasks", "wait", "QUEUED"] == 1
    assert metrics["fmv_tasks", "wait", "STARTED"] == 1
    assert metrics["fmv_tasks_finished_total", "wait", "FAILURE"] == 1
    assert metrics["fmv_task_attempts_total", "wait", "FAILURE"] == 3
    assert metrics["fmv_task_seconds_total", "wait", "FAILURE"] == pytest.approx(3)
    assert 0 < metrics["fmv_queue_age_seconds",] < 10
    assert metrics["fmv_robots", "in_service"] == metrics["fmv_robots", "out_of_service"] == 1
    assert metrics["fmv_robots", "busy"] == 1
    assert metrics["fmv_mongodb_up",] == 1


def test_robots_that_are_at_odds_with_fmv(scrape):
    alarms = ("several_agents", "other_task", "unknown_handler")
    assert [scrape()["fmv_robot_alarms", alarm] for alarm in alarms] == [0, 0, 0]
    for boot in "abc":
        agents.open_session(make_robot(name="Twins").name if boot == "a" else "Twins", boot_id=boot)
    make_task(robot="Twins", handler="turn", runs_on="robot")
    assert [scrape()["fmv_robot_alarms", alarm] for alarm in alarms] == [1, 0, 1]


def test_counters_never_go_back(scrape):
    finished = server_now() - dt.timedelta(minutes=5)
    make_task(robot="R2", status="SUCCESS", finished_at=finished)
    tallies.roll_up()
    make_task(robot="R2", status="SUCCESS", finished_at=server_now())  # its minute is not over
    from tasks.models import Task

    first = scrape()["fmv_tasks_finished_total", "wait", "SUCCESS"]
    Task.objects.all().delete()
    assert scrape()["fmv_tasks_finished_total", "wait", "SUCCESS"] == first == 1


def test_lost_workers_are_counted(scrape):
    make_robot(name="R2")
    make_task(
        robot="R2", status="STARTED", lane="R2/0", attempt=1, lease_expires_at=server_now() - dt.timedelta(seconds=1)
    )
    assert scrape()["fmv_lost_workers_total",] == 0
    with a_lease_later():
        periodic.recover_lost()
    assert scrape()["fmv_lost_workers_total",] == 1


def test_wake_ups_that_the_broker_did_not_take_are_counted(scrape):
    with using_broker("amqp://127.0.0.1:1//"):
        doorbell.ring("R2")
        doorbell.ring("R2")
        assert publisher.flush()
    assert scrape()["fmv_doorbells_not_taken_total",] == 2


def test_renewals_that_failed_are_counted_once_mongodb_is_back(scrape):
    counters.note("renewal_failures")
    counters.note("renewal_failures")
    assert scrape()["fmv_lease_renewal_failures_total",] == 0
    with patch("fmv.monitoring.counters.increment", side_effect=PyMongoError):
        counters.store()
    counters.store()
    counters.store()
    assert scrape()["fmv_lease_renewal_failures_total",] == 2


@pytest.mark.django_db(transaction=True)
def test_many_that_count_at_once_lose_nothing():
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: counters.count("lost_workers"), range(100)))
    counters.store()
    assert counters.read() == {"lost_workers": 100}


@pytest.mark.django_db(transaction=True)
def test_a_renewal_that_fails_in_a_worker_reaches_every_web_server(web, worker, run_process):
    """Somebody takes the task away from a worker, which learns it when it renews."""
    from tasks.models import Task

    broker = os.environ["FMV_BROKER_URL"]
    url = web(broker, FMV_METRICS_TOKEN=TOKEN, FMV_ANONYMOUS="manager")
    worker(broker, FMV_LEASE_SECONDS="3", FMV_RENEW_SECONDS="0.5")
    make_robot(name="R2")
    body = {"handler": "wait", "params": {"seconds": 20}}
    requests.post(f"{url}/api/v1/robot/R2/run", json=body, timeout=10).raise_for_status()
    wait_until(lambda: Task.objects.started().exists())
    Task.objects.update(attempt=7)
    wait_until(lambda: read(url)["fmv_lease_renewal_failures_total",] == 1)


@pytest.mark.slow
def test_while_mongodb_is_down_metrics_of_requests_are_still_exposed(web):
    url = web("amqp://127.0.0.1:1//", MONGODB_URI="mongodb://127.0.0.1:1/fmv", FMV_METRICS_TOKEN=TOKEN)
    begun = time.monotonic()
    metrics = read(url)
    assert time.monotonic() - begun < 15  # half the time that MongoDB's driver waits by default
    assert metrics["fmv_mongodb_up",] == 0
    assert count_of(metrics, "GET", "/api/v1/health", "200") >= 1


@pytest.mark.django_db
def test_queued_tasks_whose_handler_no_worker_knows_are_counted(scrape):
    for handler in ("wait", "new", "new"):
        make_task(handler=handler)
    assert not [name for name in scrape() if name[0] == "fmv_tasks_without_worker"]  # without a worker none is known
    make_process("host/1", handlers=["wait@1"])
    assert {name: value for name, value in scrape().items() if name[0] == "fmv_tasks_without_worker"} == {
        ("fmv_tasks_without_worker", "new"): 2
    }
