"""The client of a chaos run: it submits tasks, and retries while servers are down."""

import datetime as dt
import random
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import requests

from tests.chaos.judge import Record

UNFINISHED = "&status=SCHEDULED&status=QUEUED&status=STARTED&status=RETRY"


class Submit(NamedTuple):
    name: str
    robot: str
    body: dict[str, Any]
    delay: float | None  # seconds from the submit to its `run_at`
    expected: str  # the status with which its task must end


def make_submit(name: str, robot: str, marks: Path, chance: random.Random, *, has_agent: bool = False) -> Submit:
    """Make a submit at random; for a robot with an agent half of them are tasks that run on the robot."""
    if has_agent and chance.random() < 0.5:
        return make_submit_on_robot(name, robot, marks, chance)
    kind = chance.choices(
        ["plain", "long", "fails", "fails for good", "permanent", "poison", "dies once", "blocks", "scheduled"],
        [61, 6, 8, 4, 3, 3, 3, 4, 8],
    )[0]
    params: dict[str, Any] = {"file": str(marks), "seconds": round(chance.random() ** 2, 2)}
    body: dict[str, Any] = {"handler": "mark", "params": params, "queue_anyway": True}
    if chance.random() < 0.3:
        body["priority"] = chance.randrange(10)
    match kind:
        case "long":
            params["seconds"] = round(chance.uniform(2, 4), 2)
        case "fails":
            params["fail"] = chance.randint(1, 3)
        case "fails for good":
            params["fail"], body["max_attempts"] = 99, 2
        case "permanent":
            params |= {"fail": 99, "permanent": True}
        case "poison":
            params["kill"], body["max_attempts"] = 99, 2
        case "dies once":
            params["kill"] = 1
        case "blocks":
            params |= {"seconds": 60, "blocks": True}
            body |= {"timeout": 1.5, "max_attempts": 3}
    delay = chance.uniform(2, 6) if kind == "scheduled" else None
    ends_badly = kind in ("fails for good", "permanent", "poison", "blocks")
    return Submit(name, robot, body, delay, "FAILURE" if ends_badly else "SUCCESS")


def make_submit_on_robot(name: str, robot: str, marks: Path, chance: random.Random) -> Submit:
    kind = chance.choices(
        ["plain", "careful", "walk", "long", "fails", "fails for good", "never", "not now", "scheduled"],
        [30, 15, 20, 10, 8, 3, 3, 3, 8],
    )[0]
    params: dict[str, Any] = {"file": str(marks), "seconds": round(chance.random() ** 2, 2)}
    body: dict[str, Any] = {"handler": "robot.mark", "params": params, "queue_anyway": True, "max_attempts": 20}
    if chance.random() < 0.3:
        body["priority"] = chance.randrange(10)
    match kind:
        case "careful":
            body["handler"] = "robot.careful"
            params["seconds"] = round(chance.uniform(0.2, 4), 2)
        case "walk":
            body["handler"] = "robot.walk"
            params |= {"seconds": 0.2, "steps": chance.randint(2, 20)}
        case "long":
            params["seconds"] = round(chance.uniform(2, 4), 2)
        case "fails":
            params["fail"] = chance.randint(1, 3)
        case "fails for good":
            params["fail"], body["max_attempts"] = 99, 2
        case "never" | "not now":
            params["how"] = kind
    delay = chance.uniform(2, 6) if kind == "scheduled" else None
    return Submit(name, robot, body, delay, "FAILURE" if kind in ("fails for good", "never", "not now") else "SUCCESS")


def make_pile(robot: str, marks: Path) -> Iterator[Submit]:
    """Yield submits of both kinds at once for one robot, whose queue then is mixed for many seconds."""
    for number in range(6):
        handler = "robot.mark" if number % 2 else "mark"
        body = {"handler": handler, "params": {"file": str(marks), "seconds": 2.0}, "queue_anyway": True}
        yield Submit(f"p{number}", robot, body | {"max_attempts": 20}, None, "SUCCESS")


class Client:
    """A client that retries, and records answers that no client should get."""

    def __init__(self, url: str, record: Record, violation: Callable[[str], None]) -> None:
        self.url = url
        self.record = record
        self.violation = violation
        self.answer_times: list[float] = []  # seconds, of submits that were accepted

    def call(self, method: str, path: str, body: Any = None) -> requests.Response:
        """Raises requests.ConnectionError, whose text says whether the connection was refused or broke."""
        with requests.Session() as session:
            session.trust_env = False
            url = path if path.startswith("http") else self.url + path
            response = session.request(method, url, json=body, timeout=60, headers={"Connection": "close"})
        if response.status_code >= 500 and (response.status_code != 503 or "Retry-After" not in response.headers):
            self.violation(f"{method} {path} was answered {response.status_code}: {response.text[:300]}")
        return response

    def insist(self, method: str, path: str, body: Any = None) -> requests.Response:
        """Repeat a request that is safe to repeat until the answer is no 503."""
        while True:
            with suppress(requests.ConnectionError):
                response = self.call(method, path, body)
                if response.status_code != 503:
                    return response
            time.sleep(0.3)

    def submit(self, submit: Submit) -> None:
        """Submit until there is an answer. Each try has its own label, because a try that met a 503 may be stored."""
        path = f"/robot/{submit.robot}/run"
        for number in range(1000):
            label = f"{submit.name}.{number}"
            self.record.expected[label] = submit.expected
            before = time.monotonic()
            try:
                response = self.call("POST", path, submit.body | {"labels": [label]} | run_at(submit.delay))
            except requests.ConnectionError as error:
                if "refused" not in str(error):
                    self.record.broken += 1  # its label will show whether it was accepted
                    return
                time.sleep(0.3)
                continue
            if response.ok:
                self.record.answered[label] = response.json()["task_id"]
                self.answer_times.append(time.monotonic() - before)
            elif response.status_code == 503:
                self.record.refused += 1
                time.sleep(0.5)
                continue
            elif response.status_code < 500:
                self.violation(f"POST {path} was answered {response.status_code}: {response.text[:300]}")
            return

    def tasks(self) -> Iterator[dict[str, Any]]:
        page = "/task/?limit=500"
        while page:
            answer = self.insist("GET", page).json()
            yield from answer["tasks"]
            page = answer["next"]

    def all_have_ended(self) -> bool:
        with suppress(requests.ConnectionError):
            response = self.call("GET", f"/task/?limit=1{UNFINISHED}")
            return response.ok and not response.json()["tasks"]
        return False


def run_at(delay: float | None) -> dict[str, str]:
    if delay is None:
        return {}
    return {"run_at": (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=delay)).isoformat()}
