"""What the whole stack sends to MongoDB while there is nothing to do: a few commands a second, whatever is stored."""

import datetime as dt
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from django.conf import settings
from django.db import connection
from django_celery_results.models import TaskResult

from fmv.mongodb.server import RECENT_LIFETIME, server_now
from tasks import jobs
from tasks.api import event_hub
from tasks.models import Status, Task
from tasks.worker import heartbeat
from tests.conftest import wait_until, with_database
from tests.support.factories import make_robot, make_task
from tests.support.mongodb_tap import Tap, tapped
from tests.support.probes import listening
from tests.support.sse import Sse

pytestmark = pytest.mark.django_db(transaction=True)

LIMIT = 5.0  # commands a second
PROCESSES = 3  # of workers: two for tasks, one for maintenance
WATCHED = 30.0  # seconds: three times the longest period of a frequent step
FREQUENT = {f"tasks.{name}" for name in settings.CELERY_BEAT_SCHEDULE} - {"tasks.forget_runs", "tasks.sample_robots"}


def keep_finished(count: int) -> None:
    robot, finished_at = make_robot(), server_now() - dt.timedelta(hours=1)
    about = {"robot": robot.name, "handler": "noop", "timeout": 1, "requested_by": "test", "attempt": 1}
    about |= {"status": Status.SUCCESS, "started_at": finished_at, "finished_at": finished_at}
    Task.objects.bulk_create(Task(**about) for _ in range(count))
    Task.objects.update(stored_at=finished_at, changed_at=finished_at)


def of_stored_runs() -> float:
    """The commands a second with which each step stores a run a minute."""
    return 2 * len(settings.CELERY_BEAT_SCHEDULE) / jobs.EMPTY_RUN_INTERVAL


def of_idle_steps() -> dict[str, int]:
    """The commands of one run of each periodic step that finds nothing."""
    found = {}
    for name in settings.CELERY_BEAT_SCHEDULE:
        getattr(jobs, name).run()  # it may find something the first time
        with listening() as commands:
            getattr(jobs, name).run()
        found[name] = len(commands.sent) + commands.clock_readings
    return found


def test_the_periodic_steps_of_an_idle_stack_send_few_commands_whatever_is_kept(bells, trusted_clock):
    empty = of_idle_steps()
    keep_finished(2000)
    assert of_idle_steps() == empty
    steps = sum(n / settings.CELERY_BEAT_SCHEDULE[name]["schedule"].seconds for name, n in empty.items())
    rest = 1 / RECENT_LIFETIME + of_stored_runs() + PROCESSES / heartbeat.INTERVAL
    assert steps + rest <= LIMIT, empty


# --- Real processes --------------------------------------------------------------------------------------------------


@pytest.fixture
def tap(transactional_db) -> Iterator[Tap]:
    """The way of real processes to MongoDB. It must be set up before they are, to outlive them."""
    with tapped(with_database(os.environ["MONGODB_URI"], connection.settings_dict["NAME"])) as tap:
        yield tap


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_an_idle_stack_sends_few_commands(tap, broker_url, web, worker, maintenance):
    keep_finished(2000)
    web(broker_url, MONGODB_URI=tap.uri)
    worker(broker_url, MONGODB_URI=tap.uri, processes=PROCESSES - 1)
    maintenance(broker_url, MONGODB_URI=tap.uri)
    wait_until(lambda: set(TaskResult.objects.values_list("task_name", flat=True)) >= FREQUENT, 60)
    time.sleep(2)  # until the last of them has ended
    before, begun = len(tap.sent), time.monotonic()
    time.sleep(WATCHED)
    seconds, sent = time.monotonic() - begun, Counter(tap.sent[before:])
    assert sent["aggregate tasks_task"], "no step runs"
    assert sent.total() / seconds + of_stored_runs() <= LIMIT, sent


def test_fifty_quiet_listeners_of_a_web_process_cost_as_much_as_one(tap, web):
    url = web(os.environ["FMV_BROKER_URL"], MONGODB_URI=tap.uri, FMV_WEB_PROCESSES="1", FMV_ANONYMOUS="viewer")
    with ExitStack() as streams:
        task = make_task()
        for path in ["/events"] * 25 + [f"/task/{task.pk}/events"] * 25:
            stream = Sse(f"{url}/api/v1{path}")
            streams.callback(stream.close)
            next(stream.blocks())
        before, begun = len(tap.sent), time.monotonic()
        wait_until(lambda: len(tap.sent) > before + 5)
        seconds, sent = time.monotonic() - begun, Counter(tap.sent[before:])
    assert sent.keys() <= {"aggregate tasks_task", "find robots_robotstate", "hello"}
    assert sent.total() <= 2 * seconds / event_hub.POLL_INTERVAL + 3, sent
