"""Claims that wait: what wakes them, what they hold meanwhile, and how they end. On a real web server."""

import json
import os
import signal
import socket
import threading
import time
import uuid
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken
from fmv.monitoring import metrics
from robots.models import Robot
from tasks.models import Status, Task
from tasks.queue import services, waiting
from tests.conftest import wait_until
from tests.support.agent_requests import Agent, submit
from tests.support.factories import make_robot, make_task, make_token
from tests.support.probes import listening, take

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("bells")]
BROKER = os.environ["FMV_BROKER_URL"]
LONG = 25


@pytest.fixture
def serve(web):
    """Start a web server of one process in which one request works at a time."""
    return lambda **environment: web(BROKER, FMV_WEB_PROCESSES="1", FMV_WEB_THREADS="1", **environment)


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


def test_a_claim_whose_client_has_gone_takes_no_task(serve):
    url, agent = serve(), Agent.signed_in(make_robot())
    parts = urlsplit(url)
    body = json.dumps({"session": agent.session, "claim_id": str(uuid.uuid4()), "wait": LONG}).encode()
    head = (
        f"POST /api/v1/agent/claim HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        f"Authorization: {agent.api.client.defaults['HTTP_AUTHORIZATION']}\r\n\r\n"
    )
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as client:
        client.sendall(head.encode() + body)
        wait_until(lambda: number_waiting(url) == 1)
    task = submit(agent.robot)
    time.sleep(2)
    assert Task.objects.get(pk=task.pk).status == Status.QUEUED
    assert claim(url, agent, 0).json()["attempt"] == 1


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
    wait_until(lambda: "waiting claims" not in {thread.name for thread in threading.enumerate()})


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
        for _ in range(40):
            claim.wake_by_poll()
            if claim._woken.is_set():
                woken.append(now[0] - 100)
                claim._woken.clear()
            now[0] += 0.5
    finally:
        claim.close()
    assert woken == [0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5]
