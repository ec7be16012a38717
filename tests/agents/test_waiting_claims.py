"""Claims that wait: what wakes them, what they hold meanwhile, and how they end. On a real web server."""

import json
import math
import os
import signal
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from django.db import connection

from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken
from fmv.monitoring import metrics
from robots.models import Robot
from tasks.models import Status, Task
from tasks.queue import services, waiting
from tests.conftest import wait_until, with_database
from tests.support.agent_requests import Agent, submit
from tests.support.factories import make_robot, make_task, make_token
from tests.support.mongodb_tap import Tap, tapped
from tests.support.probes import listening, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]
BROKER = os.environ["FMV_BROKER_URL"]
LONG = 25


@pytest.fixture(autouse=True)
def polls_end():
    """Leave no thread of this process to the next test, which may have another client of MongoDB."""
    yield
    wait_until(lambda: not polls())


def polls() -> bool:
    return "waiting claims" in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def serve(web):
    """Start a web server of one process in which one request works at a time."""
    return lambda **environment: web(BROKER, FMV_WEB_PROCESSES="1", FMV_WEB_THREADS="1", **environment)


@pytest.fixture
def tap(transactional_db) -> Iterator[Tap]:
    """The web server's way to MongoDB. It must be set up before that is, to outlive it."""
    with tapped(with_database(os.environ["MONGODB_URI"], connection.settings_dict["NAME"])) as tap:
        yield tap


@pytest.fixture
def pool():
    with ThreadPoolExecutor(16) as made:
        yield made


def call(url: str, agent: Agent, path: str, **body: Any) -> requests.Response:
    headers = {"Authorization": agent.api.client.defaults["HTTP_AUTHORIZATION"]}
    return requests.post(f"{url}/api/v1/agent{path}", json=body, headers=headers, timeout=60)


def claim(url: str, agent: Agent, wait: float = LONG) -> requests.Response:
    return call(url, agent, "/claim", session=agent.session, claim_id=str(uuid.uuid4()), wait=wait)


def let_wait(pool: ThreadPoolExecutor, url: str, *agents: Agent) -> list[Future[requests.Response]]:
    """Let the agents' claims wait; return when they do."""
    futures = [pool.submit(claim, url, agent) for agent in agents]
    wait_until(lambda: number_waiting(url) == len(agents))
    return futures


def number_waiting(url: str) -> float:
    """Return how many claims wait in the web server."""
    headers = {"Authorization": f"Bearer {make_token().text}"}
    shown = requests.get(f"{url}/metrics", headers=headers, timeout=60).text
    return float(shown.partition("\nfmv_waiting_claims ")[2].partition("\n")[0] or 0)


def test_a_task_of_another_process_answers_a_claim_that_waits(serve, pool):
    url, agent, other = serve(), Agent.signed_in(make_robot()), Agent.signed_in(make_robot())
    mine, others = let_wait(pool, url, agent, other)
    before = time.monotonic()
    task = submit(agent.robot)
    assert mine.result(LONG).json()["task"]["task_id"] == str(task.pk)
    assert time.monotonic() - before < LONG / 2
    assert not others.done()
    services.submit({"robot": other.robot, "handler": "turn"}, by="amy")
    assert others.result(LONG).status_code == 200


def test_the_end_of_a_workers_task_answers_a_claim_that_waits(serve, pool):
    url, agent = serve(), Agent.signed_in(make_robot())
    make_task(robot=agent.robot, handler="noop")
    running = take(Robot.objects.get(pk=agent.robot))
    assert running is not None
    own = submit(agent.robot)
    [mine] = let_wait(pool, url, agent)
    assert running.succeed(None, "")
    assert mine.result(LONG).json()["task"]["task_id"] == str(own.pk)


def test_claims_that_wait_keep_no_other_request_waiting(serve, pool):
    url, agents = serve(), [Agent.signed_in(make_robot()) for _ in range(5)]
    futures = let_wait(pool, url, *agents)
    for _ in range(3):
        assert requests.get(f"{url}/api/v1/health", timeout=15).status_code == 200
    for agent in agents:
        submit(agent.robot)
    assert [future.result(LONG).status_code for future in futures] == [200] * 5


def test_only_so_many_wait_and_the_others_come_back_at_different_times(serve, pool):
    url, agents = serve(FMV_MAX_CLAIMS="2"), [Agent.signed_in(make_robot()) for _ in range(6)]
    waiting_ones = let_wait(pool, url, *agents[:2])
    answers = [claim(url, agent) for agent in agents[2:]]
    assert {answer.status_code for answer in answers} == {204}
    assert all(1 <= int(answer.headers["Retry-After"]) <= 5 for answer in answers)
    submit(agents[5].robot)
    assert claim(url, agents[5]).status_code == 200  # it does not wait, but looks
    for agent in agents[:2]:
        submit(agent.robot)
    assert [future.result(LONG).status_code for future in waiting_ones] == [200, 200]


def test_a_stopping_server_sends_them_away(transactional_db, run_process, pool):
    from fmv.devstack import embedded_mongodb, stack

    port = str(embedded_mongodb.free_port(None))
    process = run_process(f"web-{port}", *stack.WEB, FMV_BROKER_URL=BROKER, FMV_PORT=port, FMV_STOP_GRACE="30")
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: stack.answers(f"{url}/api/v1/health", "localhost"))
    futures = let_wait(pool, url, *(Agent.signed_in(make_robot()) for _ in range(4)))
    process.send_signal(signal.SIGTERM)
    before = time.monotonic()
    answers = [future.result(LONG) for future in futures]
    assert time.monotonic() - before < LONG / 2
    assert {answer.status_code for answer in answers} == {204}
    assert all(1 <= int(answer.headers["Retry-After"]) <= 5 for answer in answers)


@contextmanager
def client_that_waits(url: str, agent: Agent) -> Iterator[None]:
    """Send a claim that waits; hang up at the end without reading the answer."""
    parts = urlsplit(url)
    body = json.dumps({"session": agent.session, "claim_id": str(uuid.uuid4()), "wait": LONG}).encode()
    head = (
        f"POST /api/v1/agent/claim HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Authorization: {agent.api.client.defaults['HTTP_AUTHORIZATION']}\r\n\r\n"
    )
    before = number_waiting(url)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as client:
        client.sendall(head.encode() + body)
        wait_until(lambda: number_waiting(url) == before + 1)
        yield


def test_a_claim_whose_client_has_gone_takes_no_task(serve):
    url, agent = serve(), Agent.signed_in(make_robot())
    with client_that_waits(url, agent):
        pass
    task = submit(agent.robot)
    time.sleep(2)
    assert Task.objects.get(pk=task.pk).status == Status.QUEUED
    assert claim(url, agent, 0).json()["attempt"] == 1


def test_clients_that_have_gone_leave_their_places_to_others(serve, pool):
    url, agents = serve(FMV_MAX_CLAIMS="2"), [Agent.signed_in(make_robot()) for _ in range(3)]
    before = time.monotonic()
    with client_that_waits(url, agents[0]), client_that_waits(url, agents[1]):
        assert claim(url, agents[2]).headers["Retry-After"] != "0"  # there is no place
    wait_until(lambda: number_waiting(url) == 0)
    assert time.monotonic() - before < LONG  # the claims would have waited longer
    let_wait(pool, url, agents[2])
    submit(agents[2].robot)


def test_a_token_that_is_revoked_while_a_claim_waits_gets_no_task(serve, pool):
    url, agent = serve(), Agent.signed_in(make_robot())
    [mine] = let_wait(pool, url, agent)
    api_tokens.revoke(ApiToken.objects.get(robot=agent.robot), by="amy")
    task = submit(agent.robot)
    assert mine.result(LONG).status_code == 401
    assert Task.objects.get(pk=task.pk).status == Status.QUEUED


def test_one_query_asks_for_all_that_wait():
    robots = [make_robot().name for _ in range(20)]
    claims = [waiting.WaitingClaim(robot) for robot in robots]
    try:
        submit(robots[3])
        with listening() as commands:
            waiting.poll()
        assert len([sent for sent in commands.sent if "tasks_task" in sent]) <= 2  # the thread's own may come between
        assert [claim.robot for claim in claims if claim._woken.is_set()] == [robots[3]]
        assert waiting.number_waiting() == metrics.own.get_sample_value("fmv_waiting_claims") == 20
    finally:
        for claim in claims:
            claim.close()
    assert waiting.number_waiting() == metrics.own.get_sample_value("fmv_waiting_claims") == 0


@pytest.mark.slow
def test_fifty_waiting_claims_of_a_web_process_cost_as_much_as_one(tap, serve):
    url, agents = serve(MONGODB_URI=tap.uri), [Agent.signed_in(make_robot()) for _ in range(50)]
    with ThreadPoolExecutor(50) as many:
        answers = let_wait(many, url, *agents)
        time.sleep(2)  # until the last have looked
        before, begun = len(tap.sent), time.monotonic()
        wait_until(lambda: len(tap.sent) > before + 10)
        seconds, sent = time.monotonic() - begun, Counter(tap.sent[before:])
        assert not any(answer.done() for answer in answers)
        for agent in agents:
            submit(agent.robot)
    assert sent.keys() == {"aggregate tasks_task"}
    assert sent.total() <= seconds / waiting.POLL_INTERVAL + 3, sent
    assert {answer.result().status_code for answer in answers} == {200}


def test_a_wait_that_ends_in_vain_looks_for_no_task_again():
    agent = Agent.signed_in(make_robot())
    agent.claim()
    with listening() as commands:
        assert agent.claim(wait=0.3).status_code == 204
    sent = [sent.split()[1] for sent in commands.sent]
    assert [sent.count("robots_robotstate"), sent.count("fmv_apitoken")] == [1, 1], commands.sent


def test_a_claim_that_is_woken_in_vain_is_left_alone_for_longer_each_time(monkeypatch):
    monkeypatch.setattr(waiting, "_add", lambda claim: None)
    now = [100.0]
    monkeypatch.setattr(waiting.time, "monotonic", lambda: now[0])
    claim = waiting.WaitingClaim("R2")
    woken = []
    try:
        for _ in range(80):
            claim.wake_by_poll(set())
            if claim._woken.is_set():
                woken.append(now[0] - 100)
                claim._woken.clear()
            now[0] += waiting.POLL_INTERVAL
    finally:
        claim.close()
    assert woken == [0, 0.25, 0.75, 1.75, 3.75, 7.75, 11.75, 15.75, 19.75]


def polled(claim: waiting.WaitingClaim) -> bool:
    """Poll, and return whether that has woken the claim."""
    claim._woken.clear()
    waiting.poll()
    return claim._woken.is_set()


def test_a_claim_that_was_woken_in_vain_is_woken_as_soon_as_the_robot_runs_another_task(monkeypatch):
    monkeypatch.setattr(waiting, "_run", lambda: None)
    agent = Agent.signed_in(make_robot())
    make_task(robot=agent.robot, handler="noop")
    running = take(Robot.objects.get(pk=agent.robot))
    assert running is not None
    submit(agent.robot)
    with closing(waiting.WaitingClaim(agent.robot)) as claim:
        assert polled(claim)
        assert polled(claim)  # because what runs may have changed before the claim looked
        claim._poll_again = math.inf
        with listening() as commands:
            assert not polled(claim)
        assert len(commands.sent) == 2, commands.sent
        assert running.succeed(None, "")
        assert polled(claim)  # and not seconds later
        assert agent.claim().status_code == 200


def test_a_fault_of_a_poll_does_not_end_the_polls(monkeypatch, caplog):
    agent, faults, poll = Agent.signed_in(make_robot()), [KeyError("unforeseen"), MemoryError()], waiting.poll

    def fail_at_first() -> None:
        if faults:
            raise faults.pop()
        poll()

    monkeypatch.setattr(waiting, "poll", fail_at_first)
    with closing(waiting.WaitingClaim(agent.robot)) as claim:
        submit(agent.robot)
        claim._woken.clear()
        wait_until(claim._woken.is_set)
    assert not faults
    assert "unforeseen" in caplog.text


def test_a_claim_whose_thread_of_polls_has_ended_starts_another(monkeypatch):
    first, second = make_robot(), make_robot()
    with monkeypatch.context() as patched:
        patched.setattr(waiting, "_goes_on", lambda: False)
        dead = waiting.WaitingClaim(first.name)
        wait_until(lambda: not polls())
    with closing(dead), closing(waiting.WaitingClaim(second.name)) as alive:
        for claim in (dead, alive):
            claim._woken.clear()
            make_task(robot=claim.robot, handler="turn", runs_on="robot")
            wait_until(claim._woken.is_set)


def test_a_claim_for_which_no_thread_can_be_started_does_not_wait_and_keeps_no_place(monkeypatch):
    agent = Agent.signed_in(make_robot())

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        answer = agent.claim(wait=LONG)
    assert (answer.status_code, answer.headers["Retry-After"] != "0") == (204, True)
    assert waiting.number_waiting() == len(waiting.WaitingClaim._open) == 0
    submit(agent.robot)
    assert agent.claim(wait=LONG).status_code == 200


def test_a_claim_that_cannot_register_keeps_no_place(monkeypatch):
    def fail(number: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(metrics.waiting_claims, "set", fail)
        with pytest.raises(OSError, match="no space"):
            waiting.WaitingClaim("R2")
    assert waiting.number_waiting() == len(waiting.WaitingClaim._open) == 0
    assert metrics.own.get_sample_value("fmv_waiting_claims") == 0
